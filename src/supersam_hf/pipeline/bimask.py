"""The bi-mask search of a SAM's image encoder: the verb `bimask`."""

from collections.abc import Callable

import torch

from ..evaluation import evaluate
from ..files import write_json
from ..training.bimask_sam import SamBiMaskArguments, train_sam_bimask
from ..training.engine import Engine
from .context import Run
from .mask_search import plot_mask_search, told
from .runner import stage_record


def bimask(run: Run) -> None:
    """`subnet/`: the SAM that the search found in the original, standalone; `bimask.json` and figures say how."""
    args, folder = run.recipe.bimask, run.folder / "bimask"
    metrics = _holdout_miou(run, args)
    found, report = train_sam_bimask(run.original(), run.train_loader, args, folder, evaluate=metrics, meter=run.meter)
    run.save_model(found, "subnet")
    if run.state.is_main_process:
        stage_record(run.folder, "extract").unlink(missing_ok=True)  # `subnet/` is not that stage's output any more
        write_json(run.folder / "bimask.json", report)
        plot_mask_search(folder, report, run.folder)
        print(told(report), f"see {run.folder}/bimask.json; the model is {run.folder}/subnet")


def _holdout_miou(run: Run, args: SamBiMaskArguments) -> Callable[[Engine], dict[str, float]] | None:
    """What `eval_steps` logs: mIoU of the masked model on the holdout."""
    if not args.eval_steps:
        return None
    holdout = run.holdout_loader()

    def measured(engine: Engine) -> dict[str, float]:
        masked = engine.unwrapped
        with torch.no_grad():
            masked.update()
        return {"miou": evaluate(masked.model, holdout, multimask=False, accelerator=engine.accelerator).miou}

    return measured


__all__ = ["bimask"]
