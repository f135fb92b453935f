"""`--dry_run` of SuperSAM: what a recipe would do and take, told without doing it. Nothing is written."""

from typing import Any

import torch

from ..elastic.cost import SamShape, count_macs, count_parameters
from ..elastic.importance import count_evaluations, most_removed
from ..hub.tables import duration
from ..models.supersam import ElasticSpace, SuperSamConfig, SuperSamModel
from ..recipe import Recipe
from ..spread import on_main
from .agreement import AGREEMENT
from .budget import limits_of, resolved
from .context import Run
from .estimate import SamTimes, sandwich_memory, time_pieces
from .mask_search import prune_lines, shape_line, space_lines
from .plan_lines import (
    checkpoint_lines,
    device_line,
    image_lines,
    memory_lines,
    planned,
    stage_lines,
    training_lines,
)
from .preflight import refuse_plan
from .speed_budget import expected_lines
from .split_sizes import rows_left, rows_of
from .supersam import STAGES, switched_off
from .supersam_preflight import (
    TRAININGS,
    Preflight,
    blueprint,
    is_ranked,
    parts_read,
    preflight,
    trainings,
    weight_bytes,
)


SAMPLED = 32


def tell_plan(verb: str, recipe: Recipe, redo: str | None = None) -> None:
    """Prints what the verb would do, and takes; by the main process.

    Raises:
        ValueError: On all processes, after what is known is told, if the run would fail: naming each reason.
        OSError: If the folder was begun from another model.
    """
    run: Run = planned(Run, recipe)
    on_main(run.state, lambda: _tell(verb, make_plan(verb, run, redo), redo))


def make_plan(verb: str, run: Run, redo: str | None = None) -> Preflight:
    """Reads the model's config, counts the images, looks which stages are done, and checks all that can be known."""
    return preflight(verb, run, STAGES, switched_off(run.recipe), redo)


def _tell(verb: str, plan: Preflight, redo: str | None) -> None:
    print("\n".join(plan_lines(verb, plan, redo)), flush=True)
    refuse_plan(plan.problems)  # before anything is timed
    if plan.config is None:  # all is done
        return
    cut = "bimask" if plan.stages == ["bimask"] else "prune" if "prune" in plan.stages else None
    if cut is not None:
        print("\n".join(expected_lines(blueprint(plan, plan.config), getattr(plan.run.recipe, cut))), flush=True)
    if trainings(plan):
        print("\n".join(_memory(plan, plan.config)), flush=True)
    print("\n".join(time_lines(plan, time_pieces(plan.config, plan.run.recipe, plan.run.state.device))))


def plan_lines(verb: str, plan: Preflight, redo: str | None = None) -> list[str]:
    """All that is known at once: data, model, space, budget, stages, steps."""
    run, recipe = plan.run, plan.run.recipe
    lines = [f"supersam-hf {verb}, dry run: nothing is run or written.", "", f"data: {recipe.data.source}"]
    parts = parts_read(plan.stages)
    if parts:
        lines += image_lines(plan.splits, parts, recipe.data, recipe.holdout_images)
        lines += _unlabelled_lines(recipe)
    else:
        lines.append("  not read")
    if plan.config is not None:
        lines += ["", *_model_lines(plan, plan.config)]
    if verb == "run":
        lines += ["", f"stages, in {run.folder}", *stage_lines(run, STAGES, switched_off(recipe), redo)]
    if plan.config is not None and trainings(plan):
        lines += ["", "training", *_training_lines(plan, plan.config)]
    return [*lines, *(["", *(f"note: {note}" for note in plan.notes)] if plan.notes else [])]


def _unlabelled_lines(recipe: Recipe) -> list[str]:
    """What takes the place of labels."""
    data = recipe.data
    if not data.unlabelled:
        return []
    varied = data.crop_train is not None or data.flip
    kept = "computed anew each step (crops, flips)" if varied else f"kept on disk, at most {data.embeddings_gb:g} GB"
    return [
        f"  no labels      embeddings of {data.original or recipe.model.name}, {kept}",
        f"  quality        {AGREEMENT}, {data.prompts_per_side} x {data.prompts_per_side} points an image",
    ]


def _training_lines(plan: Preflight, config: SuperSamConfig) -> list[str]:
    recipe = plan.run.recipe
    left = rows_left(plan.splits, recipe.data, recipe.holdout_images)
    weights, trained = weight_bytes(config, recipe)
    lines = []
    for name, args in trainings(plan).items():
        lines += training_lines(name, args, recipe.data.batch_size, left, plan.run.state.num_processes)
        lines += checkpoint_lines(weights, trained, args)
    return lines


def _model_lines(plan: Preflight, config: SuperSamConfig) -> list[str]:
    recipe, space = plan.run.recipe, plan.space
    name = "a SAM of its own" if recipe.pretrain.enabled else recipe.model.name
    vision: Any = config.vision_config
    lines = [f"model: {name}, {vision.image_size} px, {vision.num_hidden_layers} layers of {vision.hidden_size}"]
    if plan.stages == ["bimask"]:
        shape, args = SamShape.from_config(config), recipe.bimask
        lines.append(shape_line("original", shape) + " (encoder)")
        return lines if plan.problems else [*lines, *space_lines(shape, args.space, args)]
    if "prune" in plan.stages:
        shape = SamShape.from_config(config)
        lines.append(shape_line("original", shape) + " (encoder)")
        with torch.device("meta"):
            model = SuperSamModel(config)
        return lines if plan.problems else [*lines, *prune_lines(model, recipe.prune)]
    if space is None:
        return [*lines, _subnet_line("as it is", config, None)]
    later = " (until rank-layers has proposed some)" if is_ranked(plan) else ""
    lines.append(f"  prunable layers {list(space.prunable_layers)}{later}, MLP windows {list(space.mlp_windows)}")
    if space.attention_windows:
        lines.append(f"  attention windows {list(space.attention_windows)}")
    lines.append(f"  {space.size:,} subnets")
    lines += [_subnet_line("largest", config, space.largest()), _subnet_line("smallest", config, space.smallest())]
    return [*lines, *_budget_lines(plan, config, space)] if "search" in plan.stages else lines


def _budget_lines(plan: Preflight, config: SuperSamConfig, space: ElasticSpace) -> list[str]:
    """Each limit of the search, those of size in numbers and as shares."""
    asked = plan.run.recipe.search.budget
    limits, largest = resolved(config, space, asked), space.largest()
    said = []
    if limits.max_params is not None:
        share = limits.max_params / count_parameters(config, largest)
        said.append(f"at most {limits.max_params:,.0f} parameters ({share:.1%} of the largest)")
    if limits.max_macs is not None:
        share = limits.max_macs / count_macs(config, largest)
        said.append(f"at most {limits.max_macs / 1e9:,.4g} GMACs ({share:.1%} of the largest)")
    if limits.max_latency_ms is not None:
        said.append(f"at most {limits.max_latency_ms:g} ms (measured when the search begins)")
    if limits.min_quality is not None:
        quality = AGREEMENT if plan.run.recipe.data.unlabelled else "mIoU"
        said.append(f"{quality} of at least {limits.min_quality:g} on the images held out")
    return [f"  {'budget':<15} {', '.join(said) if said else 'none: the best subnet of any size'}"]


def _subnet_line(name: str, config: SuperSamConfig, subnet: Any) -> str:
    whole, weights = count_parameters(config, subnet), count_parameters(config, subnet, weights_only=True)
    macs = count_macs(config, subnet) / 1e9
    return f"  {name:<15} {whole:,} parameters ({weights:,} in weight tensors), {macs:,.4g} GMACs an image (encoder)"


def _memory(plan: Preflight, config: SuperSamConfig) -> list[str]:
    run, recipe = plan.run, plan.run.recipe
    device = torch.device(run.state.device)
    memory = sandwich_memory(config, recipe, device)
    title = "memory of a training step of the largest subnet in each process, estimated"
    what = f"  batch of {recipe.data.batch_size}, {recipe.data.max_objects} prompts an image, gradient checkpointing "
    what += "on" if recipe.train.gradient_checkpointing else "off"
    return ["", title, what, *memory_lines(memory, device, run.state.num_processes)]


def time_lines(plan: Preflight, times: SamTimes) -> list[str]:
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


def _stage_seconds(plan: Preflight, times: SamTimes, name: str) -> tuple[float | None, str]:
    """What a stage takes, and how that comes about; None where the number of images is not known."""
    recipe, world = plan.run.recipe, plan.run.state.num_processes
    whole, held = times.forward(), recipe.holdout_images
    if name == "rank-layers" and plan.space is not None:
        ranked = min(recipe.rank_layers.num_images, held)
        count = count_evaluations(plan.space, min(recipe.rank_layers.max_removed, most_removed(plan.space)))
        return count * ranked * whole / world, f" ({count} evaluations of {ranked} images)"
    if name == "reorder":
        return recipe.reorder.num_images * whole, ""
    if name == "prune":  # a forward and a backward, and a forward to refit
        return recipe.prune.num_images * (times.training() + whole), ""
    if name in TRAININGS:
        return _training_seconds(plan, times, name)
    if name == "search":
        trials = recipe.search.trials
        return trials * held * _sampled(plan, times) / world, f" ({trials} trials on {held} images at most)"
    if name in ("evaluate-before", "evaluate", "report"):
        rows = 3 + ("recover" in plan.stages) + recipe.evaluate.num_sampled + len(recipe.evaluate.subnets)
        images = rows_of(plan.splits, "eval", recipe.data)
        if images is None:
            return None, f" ({rows} models, {_sampled(plan, times):.3g} s an image)"
        return rows * images * _sampled(plan, times) / world, f" ({rows} models on {images:,} images)"
    return 0.0, ""


def _training_seconds(plan: Preflight, times: SamTimes, name: str) -> tuple[float, str]:
    recipe, args = plan.run.recipe, trainings(plan)[name]
    if name == "train" and plan.space is not None:
        step = times.sandwich_step(recipe, plan.space)
        both = times.forward(plan.space.largest()) + times.forward(plan.space.smallest())
    else:
        images = recipe.data.batch_size * args.gradient_accumulation_steps
        step, both = images * _alone(plan, times, name) + times.optimizer, times.forward()
    if recipe.data.unlabelled:  # the original's embeddings, where they are not on disk yet
        step += recipe.data.batch_size * args.gradient_accumulation_steps * times.forward()
    evaluations = args.max_steps // args.eval_steps if args.eval_steps else 0
    watching = evaluations * recipe.holdout_images * both / plan.run.state.num_processes
    text = f" ({step:.3g} s a step" + (f"; {duration(watching)} of it {evaluations} evaluations)" if watching else ")")
    return args.max_steps * step + watching, text


def _alone(plan: Preflight, times: SamTimes, name: str) -> float:
    """Seconds of an image, forward and backward, of the one network that is trained: a found one, that of the mean
    subnet within the budget."""
    config, budget = plan.config, plan.run.recipe.search.budget
    limits = None if plan.space is None or config is None else limits_of(config, plan.space, budget)
    if name != "recover" or limits is None or not limits.keeps(limits.space.smallest()):
        return times.training()
    generator = torch.Generator().manual_seed(0)
    return sum(times.training(limits.sample(generator)) for _ in range(SAMPLED)) / SAMPLED


def _sampled(plan: Preflight, times: SamTimes) -> float:
    """Seconds of an image through a sampled subnet, on average."""
    if plan.space is None:
        return times.forward()
    generator = torch.Generator().manual_seed(0)
    return sum(times.forward(plan.space.sample(generator)) for _ in range(SAMPLED)) / SAMPLED


__all__ = ["make_plan", "plan_lines", "tell_plan", "time_lines"]
