"""One-shot pruning of a SAM's image encoder: the verb `prune`."""

from ..files import write_json
from ..oneshot import prune_once
from ..oneshot.batches import calibration_batches, forward_only, prompt_loss
from .context import Run
from .mask_search import plot_pruned, told
from .runner import stage_record
from .stages import forget_recovered


def prune(run: Run) -> None:
    """`subnet/`: the SAM that the run starts from, its encoder cut to the budget at once; `prune.json` says how."""
    args, model = run.recipe.prune, run.original()
    loader, device = run.calibration_loader(), run.state.device
    batches = calibration_batches(loader, args.num_images, device) if args.needs_images else []
    pruned, report = prune_once(model, args, batches, forward_only if run.recipe.data.unlabelled else prompt_loss)
    run.save_model(pruned, "subnet")
    stage_record(run.folder, "extract").unlink(missing_ok=True)  # `subnet/` is not that stage's output any more
    forget_recovered(run)
    write_json(run.folder / "prune.json", report)
    plot_pruned(report, run.folder)
    print(told(report), f"see {run.folder}/prune.json; the model is {run.folder}/subnet")


__all__ = ["prune"]
