"""`--dry_run` of OFB: what a recipe would do and take, told without doing it. Nothing is written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ..bimask.families import family_of
from ..bimask.masking import MaskedModel
from ..data.classification import stream_classification
from ..data.image_folder import image_folder_classes, is_image_folder
from ..data.shape_classes import CLASS_NAMES
from ..elastic.cost import classifier_shape, count_parameters
from ..hub.tables import duration
from ..measure.latency import measure_latency
from ..measure.training_memory import training_memory
from ..models.classifiers import CLASSIFIERS, classifier_class
from ..ofb_recipe import OfbRecipe
from ..training.arguments import EngineArguments
from ..training.pretrain_classifier import new_classifier
from .folder import check_holdout
from .mask_search import shape_line, space_lines
from .ofb import STAGES, switched_off
from .ofb_context import OfbRun
from .plan_lines import (
    Images,
    checkpoint_lines,
    device_line,
    image_lines,
    memory_lines,
    planned,
    stage_lines,
    training_lines,
    undone,
)
from .split_sizes import counted


# Images of the batch that is timed, unless one alone takes longer than a second.
TIMED = 8
LONG_MS = 1000.0


def tell_ofb_plan(verb: str, recipe: OfbRecipe) -> None:
    """Prints what the verb would do; by the main process.

    Raises:
        ValueError: If a value does not fit the model, no network of the space meets the budget, or the folder was
            begun from another model.
        OSError: If the model's config cannot be had.
    """
    run: OfbRun = planned(OfbRun, recipe)
    if not run.state.is_main_process:
        return
    off, names = switched_off(recipe), class_names(recipe)
    images, config = labelled_images(recipe), model_config(recipe, names)
    stages = undone(run, STAGES, off) if verb == "run" else [verb]
    lines = [f"supersam-hf ofb {verb}, dry run: nothing is run or written.", "", f"data: {recipe.data.source}"]
    lines += [*image_lines(images, recipe.holdout_images), "", *_model_lines(recipe, config, "search" in stages)]
    if verb == "run":
        lines += ["", f"stages, in {run.folder}", *stage_lines(run, STAGES, off)]
    trainings = {name: args for name, args in _trainings(recipe).items() if name in stages}
    if trainings:
        if images.train is not None:
            check_holdout(images.train, recipe.holdout_images)
        left = None if images.train is None else images.train - recipe.holdout_images
        lines += ["", "training", *_training_lines(recipe, config, trainings, left, run.state.num_processes)]
    print("\n".join(lines), flush=True)
    if trainings:
        print("\n".join(_estimates(run, config, trainings)))


def labelled_images(recipe: OfbRecipe) -> Images:
    """Images of the two splits: of parquet by listing, else by what the slices ask for."""
    data = recipe.data
    if data.source == "shapes":
        counts = ((data.shapes_train_images, data.max_train_images), (data.shapes_eval_images, data.max_eval_images))
        train, evaluation = (count if limit is None else min(count, limit) for count, limit in counts)
        return Images(train, evaluation)
    return counted(data, lambda part: len(stream_classification(data, part)[0]))


def class_names(recipe: OfbRecipe) -> list[str] | None:
    """The dataset's classes; None where the data are not here, or neither parquet files nor a folder a class."""
    if recipe.data.source == "shapes":
        return list(CLASS_NAMES)
    if is_image_folder(Path(recipe.data.source)):
        return image_folder_classes(Path(recipe.data.source))
    try:
        return stream_classification(recipe.data, "train")[1]
    except (OSError, ValueError):  # what is wrong with them, the images' lines say
        return None


def model_config(recipe: OfbRecipe, names: list[str] | None) -> Any:
    """The config of the model that a run starts from; no weights are needed, a folder with `config.json` will do.

    Args:
        names (`list[str]` or None): The dataset's classes, which the head is cut to or made for. Where they are not
            known, a checkpoint keeps its own, and a model of the run's own has two.
    """
    args = recipe.model
    if recipe.pretrain.enabled:
        with torch.device("meta"):
            return new_classifier(recipe.pretrain, ["a", "b"] if names is None else names).config
    hub: dict[str, Any] = {} if args.revision is None else {"revision": args.revision}
    config = classifier_class(str(args.name), **hub).config_class.from_pretrained(str(args.name), **hub)
    if args.image_size is not None:
        config.image_size = args.image_size
    if names is not None:
        config.id2label = dict(enumerate(names))
    return config


def _model_lines(recipe: OfbRecipe, config: Any, searched: bool) -> list[str]:
    shape, space = classifier_shape(config), recipe.space
    name = "a ViT of its own" if recipe.pretrain.enabled else recipe.model.name
    lines = [f"model: {name}, {shape.image_size} px, {len(shape.mlp_dims)} layers of {_widths(shape)}"]
    lines.append(shape_line("original", shape))
    limits = recipe.search.max_macs, recipe.search.max_params
    return [*lines, *(space_lines(shape, space, *limits) if searched else [])]


def _widths(shape: Any) -> str:
    """Of the embedding, or of every stage."""
    return ", ".join(map(str, family_of(shape).stream_widths(shape)))


def _trainings(recipe: OfbRecipe) -> dict[str, EngineArguments]:
    return {"pretrain": recipe.pretrain, "search": recipe.search, "finetune": recipe.finetune}


def _training_lines(
    recipe: OfbRecipe, config: Any, trainings: dict[str, EngineArguments], images: int | None, world: int
) -> list[str]:
    weights = 4 * count_parameters(config)
    lines = []
    for name, args in trainings.items():
        lines += training_lines(name, args, recipe.data.batch_size, images, world)
        lines += checkpoint_lines(weights, weights, args)
    return lines


def _estimates(run: OfbRun, config: Any, trainings: dict[str, EngineArguments]) -> list[str]:
    """Memory of the search, where there is one, before anything has left; time of each training."""
    recipe, device = run.recipe, torch.device(run.state.device)
    name = "search" if "search" in trainings else next(iter(trainings))
    size, args = recipe.data.batch_size, trainings[name]
    memory = training_memory(lambda: _build(config, recipe, args, size, device, masked=False))
    title = f"memory of a training step in each process, estimated\n  batch of {size}, the whole network without masks"
    lines = ["", title, *memory_lines(memory, device, run.state.num_processes)]
    lines += ["", f"time on {device_line(device)}, estimated from a step of a small batch, run here"]
    for name, args in trainings.items():
        step = _step_seconds(config, recipe, name, args, device)
        note = ", less as units leave" if name == "search" else ""
        lines.append(f"  {name:<15} {duration(args.max_steps * step)} ({step:.3g} s a step{note})")
    return [*lines, "  without evaluations, and what loading images takes"]


def _build(
    config: Any,
    recipe: OfbRecipe,
    args: EngineArguments,
    images: int,
    device: torch.device,
    *,
    masked: bool,
) -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
    """The model that a training trains, and its loss on `images` images, as a function of nothing."""
    implementation = recipe.model.attn_implementation
    with device:
        model: Any = CLASSIFIERS[config.model_type]._from_config(config, attn_implementation=implementation)
        if masked:
            model = MaskedModel(model, recipe.space, pmim=None)
    model.train()
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    side = config.image_size
    pixels = torch.zeros(images, config.num_channels, side, side, device=device)
    labels = torch.zeros(images, dtype=torch.long, device=device)
    kind = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(args.mixed_precision)

    def loss() -> torch.Tensor:
        with torch.autocast(device.type, kind, enabled=kind is not None):
            logits = model(pixel_values=pixels).logits
        return F.cross_entropy(logits.float(), labels)

    return model, loss


def _step_seconds(config: Any, recipe: OfbRecipe, name: str, args: EngineArguments, device: torch.device) -> float:
    """Of an optimiser step, by the images that it takes."""
    wanted = recipe.data.batch_size * args.gradient_accumulation_steps

    def timed(images: int) -> float:
        model, loss = _build(config, recipe, args, images, device, masked=name == "search")
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)

        def step() -> None:
            loss().backward()
            optimizer.step()
            optimizer.zero_grad()

        return measure_latency(step, warmup=1, repeats=3, device=device).median_ms

    one = timed(1)
    size = 1 if one > LONG_MS else min(TIMED, recipe.data.batch_size)
    return (timed(size) if size > 1 else one) / 1e3 / size * wanted


__all__ = ["class_names", "labelled_images", "model_config", "tell_ofb_plan"]
