"""One function a stage of OFB. Each reads what earlier stages left in the run's folder and leaves its own output."""

import shutil
from collections.abc import Callable
from typing import Any

from ..classification import evaluate_classifier
from ..elastic.cost import count_macs, count_parameters
from ..files import read_json, write_json
from ..oneshot import prune_once
from ..oneshot.batches import calibration_batches, class_loss
from ..training.bimask import train_bimask
from ..training.checkpoints import checkpoints
from ..training.engine import Engine
from ..training.finetune import finetune_classifier
from ..training.pretrain_classifier import new_classifier, pretrain_classifier
from .mask_search import plot_mask_search, plot_pruned, told
from .measurement import write_measurement
from .ofb_context import OfbRun
from .runner import stage_record


# Folders of the model as it was found, by search or pruning; a run has one of them.
FOUND = ("searched", "pruned")


def pretrain(run: OfbRun) -> None:
    """`pretrained/`: a small ViT of one's own."""
    args = run.recipe.pretrain
    folder, meter = run.folder / "pretrain", run.meter
    model = pretrain_classifier(new_classifier(args, run.label_names), run.train_loader, args, folder, meter=meter)
    run.write_model("pretrained", model, run.processor)


def search(run: OfbRun) -> None:
    """`searched/`, `search.json` and the figures: the bi-mask search, and what it found as a model of its own.

    Raises:
        ValueError: If the model has a new, untrained head.
    """
    args = run.recipe.search
    if run.recipe.model.new_labels:
        raise ValueError(
            "`model.new_labels` gives the model an untrained head, by which no unit's importance can be told: "
            "fine-tune it first (`supersam-hf ofb finetune`), then search in what that leaves in `finetuned/`."
        )
    model, report = train_bimask(
        run.original(),
        run.recipe.space,
        run.train_loader,
        args,
        run.folder / "search",
        evaluate=_accuracy(run, args),
        teacher=_teacher(run, args.teacher),
        meter=run.meter,
    )
    run.write_model("searched", model, run.processor)
    if run.state.is_main_process:
        _forget_found(run, "pruned")
        write_json(run.folder / "search.json", report)
        plot_mask_search(run.folder / "search", report, run.folder)
        print(told(report), f"see {run.folder}/search.json")


def train_whole(run: OfbRun) -> None:
    """`whole/`: the network before it is pruned, trained on the data: what importance is measured on."""
    args = run.recipe.whole_training
    model = finetune_classifier(
        run.original(),
        run.train_loader,
        args,
        run.folder / "train-whole",
        evaluate=_accuracy(run, args),
        description="train whole",
        meter=run.meter,
    )
    run.write_model("whole", model, run.processor)


def prune(run: OfbRun) -> None:
    """`pruned/`, `search.json` and a figure: the trained whole network, or where there is none the model that the run
    starts from, cut to its budget at once, by the importance of its units.

    Raises:
        ValueError: If the model has a new, untrained head, by which Taylor could tell nothing.
    """
    args, model = run.recipe.prune, run.saved("whole")
    if model is None:
        if run.recipe.model.new_labels:
            raise ValueError(
                "`model.new_labels` gives the model an untrained head, by whose loss no unit's importance can be "
                "told: `supersam-hf ofb train-whole` first."
            )
        model = run.original()
    loader, device = run.calibration_loader(), run.state.device
    batches = calibration_batches(loader, args.num_images, device) if args.needs_images else []
    pruned, report = prune_once(model, args, batches, class_loss)
    run.write_model("pruned", pruned, run.processor)
    _forget_found(run, "searched", "search")
    write_json(run.folder / "search.json", report)
    plot_pruned(report, run.folder)
    print(told(report), f"see {run.folder}/search.json")


def _forget_found(run: OfbRun, *others: str) -> None:
    """Removes what an earlier search or pruning left, which is no longer this run's."""
    for name in ("subnet", "finetuned", "finetune", *others):
        shutil.rmtree(run.folder / name, ignore_errors=True)
    for name in ("extract", "finetune"):
        stage_record(run.folder, name).unlink(missing_ok=True)


def extract(run: OfbRun) -> None:
    """`subnet/`: the model that was found, checked against `search.json`.

    Raises:
        ValueError: If no search or pruning has finished, or the model is not the one that `search.json` describes.
    """
    found = next((name for name in FOUND if run.has_model(name)), None)
    if found is None:
        begun = checkpoints(run.folder / "search")
        raise ValueError(
            f"There is no finished search in {run.folder}"
            + (f"; it stands at {begun[-1].name}: `supersam-hf ofb search` goes on from there." if begun else ".")
        )
    report = read_json(run.folder / "search.json")
    model = run.load(run.folder / found)
    counted = {"params": count_parameters(model.config), "macs": count_macs(model.config)}
    if any(report[key] != value for key, value in counted.items()):
        raise ValueError(
            f"{run.folder}/{found} has {counted['params']:,} parameters and {counted['macs']:,} MACs, "
            f"{run.folder}/search.json says {report['params']:,} and {report['macs']:,}: search anew."
        )
    run.write_model("subnet", model, run.processor)
    share = counted["macs"] / report["original"]["macs"]
    size = f"{counted['params']:,} parameters, {counted['macs'] / 1e9:.4g} GMACs ({share:.1%} of the original)"
    print(f"from {run.folder}/{found}: {size}, written to {run.folder}/subnet")


def finetune(run: OfbRun) -> None:
    """`finetuned/`: the found model retrained; where there is none, the model that the run starts from (transfer)."""
    args = run.recipe.finetune
    found = run.saved("subnet", *FOUND)
    model = finetune_classifier(
        run.original() if found is None else found,
        run.train_loader,
        args,
        run.folder / "finetune",
        evaluate=_accuracy(run, args),
        teacher=_teacher(run, args.teacher) if args.loss.distillation == "none" or args.teacher else _whole(run),
        meter=run.meter,
    )
    run.write_model("finetuned", model, run.processor)


def measure(run: OfbRun) -> None:
    """`measurement.json`: size, work, latency, throughput and peak memory of the furthest model of the run, or of the
    checkpoint as it is, with all its labels: no data is needed."""
    args, model = run.recipe.measure, run.saved("finetuned", "subnet", *FOUND, "pretrained")
    if model is None and run.recipe.pretrain.enabled:
        raise ValueError(f"There is no model in {run.folder} to measure yet: `supersam-hf ofb pretrain` makes one.")
    write_measurement(run, args, run.checkpoint() if model is None else model)


def _whole(run: OfbRun) -> Any:
    """What a found network learns from where no teacher is named: the whole network as it was trained here, or as the
    run began."""
    whole = run.saved("whole")
    return run.original() if whole is None else whole


def _teacher(run: OfbRun, name: str | None) -> Any | None:
    """A ViT or DeiT to distil from, with the dataset's labels."""
    return None if name is None else run.with_labels(run.load(name))


def _accuracy(run: OfbRun, args: Any) -> Callable[[Engine], dict[str, float]] | None:
    """What `eval_steps` logs."""
    if not args.eval_steps:
        return None
    loader = run.watch_loader

    def metrics(engine: Engine) -> dict[str, float]:
        result = evaluate_classifier(engine.unwrapped, loader, engine.accelerator)
        top5 = {} if result.top5 is None else {"top5": result.top5}
        return {"top1": result.top1, **top5, "eval_loss": result.loss}

    return metrics
