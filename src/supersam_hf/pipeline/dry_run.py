"""`--dry_run` of SuperSAM: what a recipe would do and take, told without doing it. Nothing is written."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch

from ..elastic.cost import SamShape, count_macs, count_parameters
from ..elastic.importance import count_evaluations, most_removed
from ..hub.tables import duration
from ..models.supersam import ElasticSpace, SuperSamConfig, SuperSamModel
from ..recipe import Recipe
from ..search import Objective
from ..training.arguments import EngineArguments
from .context import Run, stands_alone
from .estimate import SamTimes, model_config, new_model, sandwich_memory, time_pieces
from .folder import check_holdout
from .mask_search import shape_line, space_lines
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
from .split_sizes import prompted_images
from .supersam import STAGES, switched_off


# Verbs that train: the section of their arguments.
TRAININGS = ("pretrain", "train", "bimask", "finetune", "adapt")
SAMPLED = 32


@dataclass(frozen=True)
class Plan:
    """What is known of a run before it is run."""

    run: Run
    config: SuperSamConfig
    space: ElasticSpace | None
    images: Images
    stages: list[str]


def tell_plan(verb: str, recipe: Recipe) -> None:
    """Prints what the verb would do; by the main process.

    Raises:
        ValueError: If a value does not fit the model, no image is left to train on, the folder was begun from another
            model, or, where the space is known, no subnet keeps the budget.
        OSError: If the model's config cannot be had.
    """
    run: Run = planned(Run, recipe)
    if not run.state.is_main_process:
        return
    plan = make_plan(verb, run)
    print("\n".join(plan_lines(verb, plan)), flush=True)
    training = [name for name in TRAININGS if name in plan.stages]
    if training:
        print("\n".join(_memory(plan, training)), flush=True)
    times = time_pieces(plan.config, recipe, run.state.device)
    print("\n".join(time_lines(plan, times)))


def make_plan(verb: str, run: Run) -> Plan:
    """Reads the model's config, counts the images, and looks which stages are done."""
    config = model_config(run.recipe)
    off = switched_off(run.recipe)
    stages = undone(run, STAGES, off) if verb == "run" else [verb]
    return Plan(run, config, _space(run, config), prompted_images(run.recipe.data), stages)


def _space(run: Run, config: SuperSamConfig) -> ElasticSpace | None:
    """None of an extracted subnet, which has no subnets of its own."""
    if stands_alone(config):
        return None
    with torch.device("meta"):
        return run.space(SuperSamModel(config))


def plan_lines(verb: str, plan: Plan) -> list[str]:
    """All that is known at once: data, model, space, stages, steps."""
    run, recipe = plan.run, plan.run.recipe
    lines = [f"supersam-hf {verb}, dry run: nothing is run or written.", "", f"data: {recipe.data.source}"]
    lines += image_lines(plan.images, recipe.holdout_images)
    lines += ["", *_model_lines(plan)]
    if verb == "run":
        lines += ["", f"stages, in {run.folder}", *stage_lines(run, STAGES, switched_off(recipe))]
    world, left = run.state.num_processes, plan.images.train
    left = None if left is None else left - recipe.holdout_images
    training = [name for name in TRAININGS if name in plan.stages]
    if training:
        if plan.images.train is not None:
            check_holdout(plan.images.train, recipe.holdout_images)
        lines += ["", "training"]
        weights, trained = _trained_bytes(plan)
        for name in training:
            args = arguments(recipe, name)
            lines += training_lines(name, args, recipe.data.batch_size, left, world)
            lines += checkpoint_lines(weights, trained, args)
    return lines


def arguments(recipe: Recipe, name: str) -> EngineArguments:
    """The section of a training."""
    return cast(EngineArguments, getattr(recipe, name))


def _model_lines(plan: Plan) -> list[str]:
    recipe, config, space = plan.run.recipe, plan.config, plan.space
    name = "a SAM of its own" if recipe.pretrain.enabled else recipe.model.name
    vision: Any = config.vision_config
    lines = [f"model: {name}, {vision.image_size} px, {vision.num_hidden_layers} layers of {vision.hidden_size}"]
    if plan.stages == ["bimask"]:
        shape, args = SamShape.from_config(config), recipe.bimask
        return [
            *lines,
            shape_line("original", shape) + " (encoder)",
            *space_lines(shape, args.space, args.max_macs, args.max_params),
        ]
    if space is None:
        return [*lines, _subnet_line("as it is", config, None)]
    ranked = recipe.rank_layers.enabled and recipe.space.prunable_layers is None
    ranked = ranked and "rank-layers" in plan.stages
    later = " (until rank-layers has proposed some)" if ranked else ""
    lines.append(f"  prunable layers {list(space.prunable_layers)}{later}, MLP windows {list(space.mlp_windows)}")
    if space.attention_windows:
        lines.append(f"  attention windows {list(space.attention_windows)}")
    lines.append(f"  {space.size:,} subnets")
    lines += [_subnet_line("largest", config, space.largest()), _subnet_line("smallest", config, space.smallest())]
    known = not ranked and not any(plan.run.has_model(name) for name in ("reordered", "supernet"))
    if "search" in plan.stages and known:  # a supernet that is there has a space of its own
        _check_budget(recipe, config, space)
    return lines


def _check_budget(recipe: Recipe, config: SuperSamConfig, space: ElasticSpace) -> None:
    """`ValueError` where a search would end before its first trial."""
    budget = replace(recipe.search.budget, max_latency_ms=None)  # which has to be measured
    costs = partial(count_parameters, config), partial(count_macs, config)
    Objective(space, budget, *costs, quality=lambda subnet: 0.0, goal=recipe.search.goal)


def _subnet_line(name: str, config: SuperSamConfig, subnet: Any) -> str:
    whole, weights = count_parameters(config, subnet), count_parameters(config, subnet, weights_only=True)
    macs = count_macs(config, subnet) / 1e9
    return f"  {name:<15} {whole:,} parameters ({weights:,} in weight tensors), {macs:,.4g} GMACs an image (encoder)"


def _trained_bytes(plan: Plan) -> tuple[int, int]:
    """Bytes of all weights, and of those that sandwich training trains."""
    with torch.device("meta"):
        model = new_model(plan.config, plan.run.recipe)
    every, trained = list(model.parameters()), [p for p in model.parameters() if p.requires_grad]
    return 4 * sum(p.numel() for p in every), 4 * sum(p.numel() for p in trained)


def _memory(plan: Plan, training: list[str]) -> list[str]:
    run, recipe = plan.run, plan.run.recipe
    device = torch.device(run.state.device)
    memory = sandwich_memory(plan.config, recipe, device)
    title = "memory of a training step of the largest subnet in each process, estimated"
    what = f"  batch of {recipe.data.batch_size}, {recipe.data.max_objects} prompts an image, gradient checkpointing "
    what += "on" if recipe.train.gradient_checkpointing else "off"
    return ["", title, what, *memory_lines(memory, device, run.state.num_processes)]


def time_lines(plan: Plan, times: SamTimes) -> list[str]:
    """Seconds of each stage that would run."""
    run, recipe = plan.run, plan.run.recipe
    lines = ["", f"time on {device_line(torch.device(run.state.device))}, estimated from single layers, run here"]
    total = 0.0
    for name in plan.stages:
        seconds, how = _stage_seconds(plan, times, name)
        total += seconds or 0.0
        lines.append(f"  {name:<15} {'unknown' if seconds is None else duration(seconds)}{how}")
    lines.append(f"  {'together':<15} {duration(total)}, without what loading images takes")
    if "train" in plan.stages and recipe.train.save_steps and plan.space is not None:
        step = times.sandwich_step(recipe, plan.space)
        lines.append(f"  a killed training loses at most {duration(step * recipe.train.save_steps)}")
    return lines


def _stage_seconds(plan: Plan, times: SamTimes, name: str) -> tuple[float | None, str]:
    """What a stage takes, and how that comes about; None where the number of images is not known."""
    recipe, world = plan.run.recipe, plan.run.state.num_processes
    whole, held = times.forward(), recipe.holdout_images
    if name == "rank-layers" and plan.space is not None:
        ranked = min(recipe.rank_layers.num_images, held)
        count = count_evaluations(plan.space, min(recipe.rank_layers.max_removed, most_removed(plan.space)))
        return count * ranked * whole / world, f" ({count} evaluations of {ranked} images)"
    if name == "reorder":
        return recipe.reorder.num_images * whole, ""
    if name in TRAININGS:
        return _training_seconds(plan, times, name)
    if name == "search":
        trials = recipe.search.trials
        return trials * held * _sampled(plan, times) / world, f" ({trials} trials on {held} images at most)"
    if name in ("evaluate-before", "evaluate", "report"):
        rows = 3 + recipe.evaluate.num_sampled + len(recipe.evaluate.subnets)
        if plan.images.eval is None:
            return None, f" ({rows} models, {_sampled(plan, times):.3g} s an image)"
        seconds = rows * plan.images.eval * _sampled(plan, times) / world
        return seconds, f" ({rows} models on {plan.images.eval:,} images)"
    return 0.0, ""


def _training_seconds(plan: Plan, times: SamTimes, name: str) -> tuple[float, str]:
    recipe, args = plan.run.recipe, arguments(plan.run.recipe, name)
    if name == "train" and plan.space is not None:
        step = times.sandwich_step(recipe, plan.space)
        both = times.forward(plan.space.largest()) + times.forward(plan.space.smallest())
    else:
        images = recipe.data.batch_size * args.gradient_accumulation_steps
        step, both = images * times.training() + times.optimizer, times.forward()
    evaluations = args.max_steps // args.eval_steps if args.eval_steps else 0
    watching = evaluations * recipe.holdout_images * both / plan.run.state.num_processes
    text = f" ({step:.3g} s a step" + (f"; {duration(watching)} of it {evaluations} evaluations)" if watching else ")")
    return args.max_steps * step + watching, text


def _sampled(plan: Plan, times: SamTimes) -> float:
    """Seconds of an image through a sampled subnet, on average."""
    if plan.space is None:
        return times.forward()
    generator = torch.Generator().manual_seed(0)
    return sum(times.forward(plan.space.sample(generator)) for _ in range(SAMPLED)) / SAMPLED


__all__ = ["Plan", "make_plan", "plan_lines", "tell_plan", "time_lines"]
