"""What a dry run of either method tells alike: images, stages, steps, checkpoints, memory."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..data.load import Part
from ..measure.hardware import hardware
from ..measure.training_memory import TrainingMemory
from ..recipe import RunRecipe
from ..training.arguments import EngineArguments
from .folder import RunFolder
from .preflight import unopened
from .preflight_data import Split
from .runner import Stage, is_done
from .split_sizes import rows_left, rows_of


GIB = 2**30
# Of more classes, so many are named.
SHOWN_CLASSES = 20


def planned(run_class: Any, recipe: RunRecipe) -> Any:
    """A run of this class that makes no folder. One that is there is opened as a real run would: begun from another
    model it is refused."""
    there = (Path(recipe.output_dir) / "start.json").exists()
    return run_class(recipe) if there else unopened(run_class, recipe)


def image_lines(splits: Mapping[Part, Split], parts: Collection[Part], args: Any, held_out: int) -> list[str]:
    """Sizes of the splits that are read, and where they could not be counted.

    Args:
        args: The `data` section of a recipe.
    """
    lines = []
    if "train" in parts:
        lines.append(f"  to train on    {_count(rows_left(splits, args, held_out))}, and {held_out:,} held out")
    if "eval" in parts:
        lines.append(f"  to evaluate on {_count(rows_of(splits, 'eval', args))}")
    missing = [f"`data.{part}_split`" for part in parts if part not in splits or splits[part].rows is None]
    return lines + ([f"  (not counted, but by what the recipe asks for: {', '.join(missing)})"] if missing else [])


def class_line(names: Sequence[str], labels: Sequence[int] | None, checkpoint: Mapping[int, str] | None) -> str:
    """The classes of the data, with the labels of the checkpoint that are called otherwise; of many, the first."""
    shown = [_class(i, name, labels, checkpoint) for i, name in enumerate(names[:SHOWN_CLASSES])]
    more = f", and {len(names) - SHOWN_CLASSES:,} more" if len(names) > SHOWN_CLASSES else ""
    return f"  {len(names):,} classes: {', '.join(shown)}{more}"


def _class(index: int, name: str, labels: Sequence[int] | None, checkpoint: Mapping[int, str] | None) -> str:
    if labels is None or checkpoint is None or checkpoint[labels[index]] == name:
        return name
    return f"{name} (the checkpoint's {labels[index]}, {checkpoint[labels[index]]!r})"


def stage_lines(
    run: RunFolder, stages: Mapping[str, Stage], off: Collection[str], redo: str | None = None
) -> list[str]:
    """Which stages would run, which are done, and which run again (from `redo` on)."""
    names = list(stages)
    again = [] if redo is None or redo not in stages else names[names.index(redo) :]
    told = {name: _stage(run, name, stage, name in off) for name, stage in stages.items()}
    told |= {name: "to do again" for name in again if name not in off}
    return [f"  {name:<15} {text}" for name, text in told.items()]


def _stage(run: RunFolder, name: str, stage: Stage, off: bool) -> str:
    if off:
        return "off"
    try:
        done = is_done(run, name, stage)
    except ValueError as error:  # a real run would end there
        return f"refused: {error}"
    if done:
        return f"done already ({run.folder / stage.output})"
    begun = stage.working and (run.folder / stage.working).exists()
    return "to do, from where it was interrupted" if begun else "to do"


def training_lines(name: str, args: EngineArguments, batch_size: int, images: int | None, world: int) -> list[str]:
    """Steps, images and epochs of a training."""
    step = batch_size * world * args.gradient_accumulation_steps
    seen = args.max_steps * step
    parts = [f"{batch_size} images"]
    parts += [f"{args.gradient_accumulation_steps} batches"] if args.gradient_accumulation_steps > 1 else []
    parts += [f"{world} processes"] if world > 1 else []
    epochs = "" if not images else f", {seen / images:,.3g} epochs"
    text = f"{args.max_steps:,} steps of {' x '.join(parts)}: {seen:,} images{epochs}"
    precision = "fp32" if args.mixed_precision == "no" else args.mixed_precision
    return [f"  {name:<15} {text}; {precision}, rate {args.learning_rate:g}"]


def checkpoint_lines(weights: int, trained: int, args: EngineArguments) -> list[str]:
    """Disk: weights and both of AdamW's moments, as many as are kept and the one that is being written.

    Args:
        weights (`int`): Bytes of the weights.
        trained (`int`): Bytes of those that are trained.
    """
    one = weights + 2 * trained
    if not args.save_steps:
        return ["  checkpoints     none (`save_steps: 0`)"]
    most = one * (args.save_total_limit + 1)
    return [f"  checkpoints     {size(one)} each, every {args.save_steps:,} steps; {size(most)} on disk at most"]


def memory_lines(memory: TrainingMemory, device: torch.device, world: int) -> list[str]:
    """Tensors of a training step, in one process."""
    parts = {"weights": memory.weights, "gradients": memory.gradients, "AdamW": memory.optimizer}
    parts["activations"] = memory.activations
    if world > 1:
        parts["buckets of DDP"] = memory.gradients
    text = ", ".join(f"{name} {size(value)}" for name, value in parts.items())
    total = sum(parts.values())
    lines = [f"  {size(total)} of tensors at the peak: {text}"]
    if device.type == "cuda":
        there = torch.cuda.get_device_properties(device).total_memory
        lines.append(f"  the device has {size(there)}" + (": too little" if total > there else ""))
    return lines


def device_line(device: torch.device) -> str:
    """What estimates hold for."""
    found = hardware(device)
    threads = f", torch on {found['threads']} of its cores" if device.type == "cpu" else ""
    return f"{found['device']}{threads}"


def size(count: int) -> str:
    """Bytes in a unit that reads well."""
    return f"{count / GIB:.2f} GiB" if count >= GIB / 10 else f"{count / 2**20:.1f} MiB"


def _count(images: int | None) -> str:
    return "an unknown number of images" if images is None else f"{images:,} images"


__all__ = [
    "checkpoint_lines",
    "class_line",
    "device_line",
    "image_lines",
    "memory_lines",
    "planned",
    "size",
    "stage_lines",
    "training_lines",
]
