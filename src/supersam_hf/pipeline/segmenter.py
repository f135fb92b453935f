"""A segmenter trained, evaluated and timed, from its recipe to its files."""

import json
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import AutoImageProcessor
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from ..data.arguments import data_read
from ..data.image_dataset import processor_side
from ..data.label_maps import load_label_maps
from ..data.loader import build_loader
from ..data.semantic import SemanticDataset
from ..data.skipped import SkipLog
from ..files import changed_keys, write_json
from ..hub.folder import export
from ..lock import sole_writer
from ..models.ofb_vit import OfbViTForSemanticSegmentation
from ..processes import join_processes
from ..segmentation import evaluate_segmenter
from ..segmenter_recipe import SegmenterRecipe
from ..spread import on_main
from ..training.arguments import FREE
from ..training.engine import Engine
from ..training.segment import train_segmenter
from .ofb_context import resized_processor
from .plan_lines import Images, checkpoint_lines, image_lines, training_lines
from .segmenter_report import report


def run_segmenter(recipe: SegmenterRecipe) -> dict[str, Any]:
    """Trains what `recipe` asks for, unless it is there, and writes `segmenter/`, which can be pushed, and the
    report on it.

    Raises:
        ValueError: If model or data are not there or do not fit, or the run's folder is of another recipe.
    """
    state, folder = join_processes(), Path(recipe.output_dir)
    with ExitStack() as stack:
        on_main(state, lambda: stack.enter_context(sole_writer(folder)))
        return _run(recipe, state, folder)


def _run(recipe: SegmenterRecipe, state: PartialState, folder: Path) -> dict[str, Any]:
    training, evaluation = datasets(recipe, folder)
    saved = folder / "segmenter"
    if not (saved / "config.json").is_file():
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
    else:
        _check_same(recipe, folder)
    model = OfbViTForSemanticSegmentation.from_pretrained(saved).to(state.device).eval()
    if not state.is_main_process:
        return {}
    return report(recipe, model, evaluation, folder)


def tell_plan(recipe: SegmenterRecipe) -> None:
    """Prints what a run would do; nothing is written.

    Raises:
        ValueError: As [`run_segmenter`].
    """
    folder = Path(recipe.output_dir)
    training, evaluation = datasets(recipe, folder)
    model = new_segmenter(recipe, training.label_names)
    size = sum(p.numel() for p in model.parameters())
    there = (folder / "segmenter" / "config.json").is_file()
    lines = ["supersam-hf segment, dry run: nothing is run or written.", "", f"data: {recipe.data.source}"]
    lines += [*image_lines(Images(len(training), len(evaluation)), 0), f"  {len(training.label_names)} classes", ""]
    lines += [f"model: {recipe.model.name}, SETR-{recipe.model.segmentation_head}, {model.config.image_size} px"]
    lines += [f"  {size:,} parameters, auxiliary heads included", ""]
    steps = training_lines(
        "segment", recipe.train, recipe.data.batch_size, len(training), PartialState().num_processes
    )
    made = [f"{folder}/segmenter is there: it would be evaluated alone"]
    print("\n".join([*lines, *(made if there else [*steps, *checkpoint_lines(4 * size, 4 * size, recipe.train)])]))


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


def datasets(recipe: SegmenterRecipe, folder: Path) -> tuple[SemanticDataset, SemanticDataset]:
    """Training and evaluation data, with the processor of the backbone.

    Raises:
        ValueError: If their classes differ.
    """
    hub = {} if recipe.model.revision is None else {"revision": recipe.model.revision}
    processor: Any = AutoImageProcessor.from_pretrained(recipe.model.name, trust_remote_code=False, **hub)
    if recipe.model.image_size is not None:
        processor = resized_processor(processor, recipe.model.image_size)
    log = SkipLog(folder / "skipped.jsonl") if recipe.data.on_error == "skip" else None
    train, evaluation = (load_label_maps(recipe.data, part) for part in ("train", "eval"))  # type: ignore[arg-type]
    if train.label_names != evaluation.label_names:
        raise ValueError(
            f"`data.train_split` and `data.eval_split` have different classes ({len(train.label_names)} and "
            f"{len(evaluation.label_names)}): give `data.label_names`."
        )
    first = SemanticDataset(train, processor, recipe.data, training=True, skip_log=log)
    return first, SemanticDataset(evaluation, processor, recipe.data, training=False, skip_log=log)


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
    made = json.loads((folder / "recipe.json").read_text())
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


__all__ = ["datasets", "new_segmenter", "published_processor", "run_segmenter", "tell_plan"]
