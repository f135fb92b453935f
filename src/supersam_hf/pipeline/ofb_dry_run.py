"""`--dry_run` of OFB: what a recipe would do and take, told without doing it. Nothing is written."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F

from ..bimask.families import family_of
from ..bimask.masking import MaskedModel
from ..elastic.cost import classifier_shape, count_parameters
from ..hub.tables import duration
from ..measure.latency import measure_latency
from ..measure.training_memory import training_memory
from ..models.classifiers import CLASSIFIERS
from ..ofb_recipe import OfbRecipe
from ..spread import on_main
from ..training.arguments import EngineArguments
from .mask_search import prune_lines, shape_line, space_lines
from .ofb import STAGES, switched_off
from .ofb_context import OfbRun
from .ofb_preflight import OfbPreflight, blueprint, ofb_preflight, parts_read, trainings
from .plan_lines import (
    checkpoint_lines,
    class_line,
    device_line,
    image_lines,
    memory_lines,
    planned,
    stage_lines,
    training_lines,
)
from .preflight import refuse_plan
from .speed_budget import expected_lines
from .split_sizes import rows_left


# Images of the batch that is timed, unless one alone takes longer than a second.
TIMED = 8
LONG_MS = 1000.0


def tell_ofb_plan(verb: str, recipe: OfbRecipe, redo: str | None = None) -> None:
    """Prints what the verb would do, and takes; by the main process.

    Raises:
        ValueError: On all processes, after what is known is told, if the run would fail: naming each reason.
        OSError: If the folder was begun from another model.
    """
    run: OfbRun = planned(OfbRun, recipe)
    off = switched_off(recipe)
    on_main(run.state, lambda: _tell(verb, ofb_preflight(verb, run, STAGES, off, redo), redo))


def _tell(verb: str, plan: OfbPreflight, redo: str | None) -> None:
    print("\n".join(_plan_lines(verb, plan, redo)), flush=True)
    refuse_plan(plan.problems)  # before anything is timed
    if plan.config is None:
        return
    cut = next((name for name in ("search", "prune") if name in plan.stages), None)
    if cut is not None:
        print("\n".join(expected_lines(blueprint(plan), getattr(plan.run.recipe, cut))), flush=True)
    if trainings(plan):
        print("\n".join(_estimates(plan.run, plan.config, trainings(plan))))


def _plan_lines(verb: str, plan: OfbPreflight, redo: str | None) -> list[str]:
    """All that is known at once: data, classes, model, space, budget, stages, steps."""
    run, recipe = plan.run, plan.run.recipe
    lines = [f"supersam-hf ofb {verb}, dry run: nothing is run or written.", "", f"data: {recipe.data.source}"]
    parts = parts_read(recipe, plan.stages)
    lines += image_lines(plan.splits, parts, recipe.data, recipe.holdout_images) if parts else ["  not read"]
    if plan.names is not None:
        lines.append(class_line(plan.names, plan.labels, plan.known))
    if plan.config is not None:
        lines += ["", *_model_lines(plan, plan.config)]
    if verb == "run":
        lines += ["", f"stages, in {run.folder}", *stage_lines(run, STAGES, switched_off(recipe), redo)]
    if plan.config is not None and trainings(plan):
        left = rows_left(plan.splits, recipe.data, recipe.holdout_images)
        lines += ["", "training"]
        lines += _training_lines(recipe, plan.config, trainings(plan), left, run.state.num_processes)
    return lines


def _model_lines(plan: OfbPreflight, config: Any) -> list[str]:
    recipe = plan.run.recipe
    shape, space = classifier_shape(config), recipe.space
    name = "a ViT of its own" if recipe.pretrain.enabled else recipe.model.name
    lines = [f"model: {name}, {shape.image_size} px, {len(shape.mlp_dims)} layers of {_widths(shape)}"]
    lines.append(shape_line("original", shape))
    if "prune" in plan.stages and not any(problem.field.startswith("prune") for problem in plan.problems):
        with torch.device("meta"):
            model = CLASSIFIERS[config.model_type]._from_config(config)
        lines += prune_lines(model, recipe.prune)
    impossible = any(problem.field.startswith(("search.max", "space")) for problem in plan.problems)
    if "search" not in plan.stages or impossible:
        return lines
    return [*lines, *space_lines(shape, space, recipe.search)]


def _widths(shape: Any) -> str:
    """Of the embedding, or of every stage."""
    return ", ".join(map(str, family_of(shape).stream_widths(shape)))


def _training_lines(
    recipe: OfbRecipe, config: Any, ahead: Mapping[str, EngineArguments], images: int | None, world: int
) -> list[str]:
    weights = 4 * count_parameters(config)
    lines = []
    for name, args in ahead.items():
        lines += training_lines(name, args, recipe.data.batch_size, images, world)
        lines += checkpoint_lines(weights, weights, args)
    return lines


def _estimates(run: OfbRun, config: Any, ahead: Mapping[str, EngineArguments]) -> list[str]:
    """Memory of the search, where there is one, before anything has left; time of each training."""
    recipe, device = run.recipe, torch.device(run.state.device)
    name = "search" if "search" in ahead else next(iter(ahead))
    size, args = recipe.data.batch_size, ahead[name]
    memory = training_memory(lambda: _build(config, recipe, args, size, device, masked=False))
    title = f"memory of a training step in each process, estimated\n  batch of {size}, the whole network without masks"
    lines = ["", title, *memory_lines(memory, device, run.state.num_processes)]
    lines += ["", f"time on {device_line(device)}, estimated from a step of a small batch, run here"]
    for name, args in ahead.items():
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


__all__ = ["tell_ofb_plan"]
