"""A segmenter trained, evaluated and timed, from its recipe to its files."""

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import AutoImageProcessor
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from ..data.arguments import DataArguments, data_read
from ..data.image_dataset import processor_side
from ..data.label_maps import Labelled, find_layout, load_label_maps
from ..data.load import Part
from ..data.loader import build_loader
from ..data.semantic import SemanticDataset
from ..data.skipped import SkipLog
from ..elastic.cost import count_parameters
from ..files import changed_keys, read_json, write_json
from ..hub.folder import export
from ..lock import sole_writer
from ..models.ofb_vit import OfbViTConfig, OfbViTForSemanticSegmentation
from ..processes import join_processes
from ..segmentation import evaluate_segmenter
from ..segmenter_recipe import SegmenterRecipe
from ..spread import on_main
from ..training.arguments import FREE
from ..training.engine import Engine
from ..training.segment import train_segmenter
from .ofb_context import resized_processor
from .plan_lines import checkpoint_lines, class_line, image_lines, training_lines
from .preflight import Problems, bytes_ahead, check_output, check_trainings, refuse, refuse_plan
from .preflight_data import Split, prompted_splits
from .preflight_model import check_backbone, model_type
from .segmenter_report import report


def run_segmenter(recipe: SegmenterRecipe) -> dict[str, Any]:
    """Trains what `recipe` asks for, unless it is there, and writes `segmenter/`, which can be pushed, and the
    report on it.

    Raises:
        ValueError: If the run's folder is of another recipe; before anything is done, naming all that does not fit.
    """
    state, folder = join_processes(), Path(recipe.output_dir)
    found = _looked_at(recipe, folder)
    with ExitStack() as stack:
        on_main(state, lambda: stack.enter_context(sole_writer(folder)))
        return _run(recipe, state, folder, found)


def _looked_at(recipe: SegmenterRecipe, folder: Path) -> dict[Part, Labelled]:
    """The splits that are needed, once all that is known to fail is refused: before the folder is made."""
    there = (folder / "segmenter" / "config.json").is_file()
    if there:
        _check_same(recipe, folder)
    found, problems = look(recipe, there)
    refuse(problems)
    return found


def _run(recipe: SegmenterRecipe, state: PartialState, folder: Path, found: dict[Part, Labelled]) -> dict[str, Any]:
    saved = folder / "segmenter"
    there = "train" not in found
    evaluation = _dataset(recipe, found["eval"], folder, training=False)
    if not there:
        training = _dataset(recipe, found["train"], folder, training=True)
        model = new_segmenter(recipe, training.label_names).to(state.device)
        loader = build_loader(
            training,
            recipe.data.batch_size,
            recipe.data.num_workers,
            recipe.data.seed,
            state.process_index,
            state.num_processes,
        )
        watched = build_loader(evaluation, 1, recipe.data.num_workers)

        def metrics(engine: Engine) -> dict[str, float]:
            found = evaluate_segmenter(engine.unwrapped, watched, engine.accelerator, stride=recipe.stride)
            return {"miou": found.miou, "macc": found.macc, "aacc": found.aacc}

        evaluate = metrics if recipe.train.eval_steps else None
        model = train_segmenter(model, loader, recipe.train, folder / "train", evaluate=evaluate)
        if state.is_main_process:
            write_json(folder / "recipe.json", asdict(recipe))
            export(model, saved, processor=published_processor(training.image_processor))
        state.wait_for_everyone()
    model = OfbViTForSemanticSegmentation.from_pretrained(saved).to(state.device).eval()
    if not state.is_main_process:
        return {}
    return report(recipe, model, evaluation, folder)


def tell_plan(recipe: SegmenterRecipe) -> None:
    """Prints what a run would do; nothing is written.

    Raises:
        ValueError: After what is known is told, if the run would fail: naming each reason.
    """
    folder = Path(recipe.output_dir)
    there = (folder / "segmenter" / "config.json").is_file()
    found, problems = look(recipe, there)
    splits = {part: Split(len(labelled.rows)) for part, labelled in found.items()}
    lines = ["supersam-hf segment, dry run: nothing is run or written.", "", f"data: {recipe.data.source}"]
    lines += image_lines(splits, parts_read(there), recipe.data, 0)
    names = next((labelled.label_names for labelled in found.values()), None)
    lines += [] if names is None else [class_line(names, None, None)]
    lines += ["", *([f"{folder}/segmenter is there: it would be evaluated alone"] if there else [])]
    if names is not None and not problems and not there:
        model = new_segmenter(recipe, names)
        size = sum(p.numel() for p in model.parameters())
        lines += [f"model: {recipe.model.name}, SETR-{recipe.model.segmentation_head}, {model.config.image_size} px"]
        lines += [f"  {size:,} parameters, auxiliary heads included", ""]
        rows, world = splits["train"].rows, PartialState().num_processes
        lines += training_lines("segment", recipe.train, recipe.data.batch_size, rows, world)
        lines += checkpoint_lines(4 * size, 4 * size, recipe.train)
    print("\n".join(lines), flush=True)
    refuse_plan(problems)


def parts_read(there: bool) -> list[Part]:
    """The splits that a run reads; a segmenter that is there is evaluated alone."""
    return ["eval"] if there else ["train", "eval"]


def look(recipe: SegmenterRecipe, there: bool) -> tuple[dict[Part, Labelled], Problems]:
    """The labelled images that a run reads, and every reason why it would fail.

    Args:
        there (`bool`): Whether its segmenter was trained already.
    """
    problems, data = Problems(), recipe.data
    found: dict[Part, Labelled] = {}
    kind = model_type("model.name", recipe.model.name, recipe.model.revision, problems)
    if kind is not None and not check_backbone(kind, problems):
        return found, problems
    check_trainings({} if there else {"train": recipe.train}, problems)
    if kind is not None:
        _check_model(recipe, there, problems)
    missing = Problems()
    if data.source and find_layout(data) == "foreground":  # what is not there is told before anything is converted
        shared = ("source", "config_name", "revision", "train_split", "eval_split")
        prompted_splits(DataArguments(**{name: getattr(data, name) for name in shared}), parts_read(there), missing)
    problems.extend(missing)
    for part in () if missing else parts_read(there):
        with problems.of(f"data.{part}_split"):
            found[part] = load_label_maps(data, part)
    names = [labelled.label_names for labelled in found.values()]
    if there and names:
        own: Any = OfbViTConfig.from_pretrained(Path(recipe.output_dir) / "segmenter")
        names.append(list(own.id2label.values()))
    if any(other != names[0] for other in names):
        counts = " and ".join(str(len(some)) for some in names)
        problems.add("data.label_names", f"the classes of training and evaluation differ ({counts}): name them.")
    return found, problems


def _check_model(recipe: SegmenterRecipe, there: bool, problems: Problems) -> None:
    """The input is a whole number of patches; there is room for checkpoints."""
    args, folder = recipe.model, Path(recipe.output_dir)
    hub: dict[str, Any] = {} if args.revision is None else {"revision": args.revision}
    with problems.of("model.name"):
        config: Any = OfbViTConfig.from_pretrained(str(args.name), **hub)
        side, patch = args.image_size, config.patch_size
        if side is not None and (side < patch or side % patch):
            problems.add("model.image_size", f"must be a multiple of the patch size {patch}, got {side}.")
        weights = 4 * count_parameters(config)
        ahead = {} if there else {"train": (weights, recipe.train)}
        check_output(folder, bytes_ahead(weights, ahead, folder), problems)


def published_processor(processor: Any) -> SegformerImageProcessorPil:
    """The backbone's normalisation, whole images at its size, and what transformers' pipeline does with logits."""
    side = processor_side(processor)
    return SegformerImageProcessorPil(
        size={"height": side, "width": side},
        resample=processor.resample,
        rescale_factor=processor.rescale_factor,
        image_mean=processor.image_mean,
        image_std=processor.image_std,
    )


def _dataset(recipe: SegmenterRecipe, labelled: Labelled, folder: Path, *, training: bool) -> SemanticDataset:
    """A split with the processor of the backbone."""
    hub = {} if recipe.model.revision is None else {"revision": recipe.model.revision}
    processor: Any = AutoImageProcessor.from_pretrained(recipe.model.name, trust_remote_code=False, **hub)
    if recipe.model.image_size is not None:
        processor = resized_processor(processor, recipe.model.image_size)
    log = SkipLog(folder / "skipped.jsonl") if recipe.data.on_error == "skip" else None
    return SemanticDataset(labelled, processor, recipe.data, training=training, skip_log=log)


def new_segmenter(recipe: SegmenterRecipe, label_names: list[str]) -> OfbViTForSemanticSegmentation:
    """The recipe's backbone with a head for these classes."""
    args = recipe.model
    hub = {} if args.revision is None else {"revision": args.revision}
    torch.manual_seed(recipe.train.seed)
    return OfbViTForSemanticSegmentation.from_pretrained(
        args.name,
        image_size=args.image_size,
        attn_implementation=args.attn_implementation,
        segmentation_head=args.segmentation_head,
        segmentation_channels=args.segmentation_channels,
        use_auxiliary_head=args.use_auxiliary_head,
        id2label=dict(enumerate(label_names)),
        label2id={name: i for i, name in enumerate(label_names)},
        **hub,
    )


def _check_same(recipe: SegmenterRecipe, folder: Path) -> None:
    made = read_json(folder / "recipe.json")
    changed = changed_keys(_decided(made), _decided(asdict(recipe)))
    if changed:
        raise ValueError(
            f"{folder}/segmenter was made with other values of {', '.join(changed)}: give another `output_dir`, or "
            "remove it."
        )


def _decided(recipe: dict[str, Any]) -> dict[str, Any]:
    """What the weights depend on."""
    train = {name: value for name, value in recipe["train"].items() if name not in FREE}
    return {"model": recipe["model"], "data": data_read(recipe["data"], "train"), "train": train}


__all__ = ["look", "new_segmenter", "published_processor", "run_segmenter", "tell_plan"]
