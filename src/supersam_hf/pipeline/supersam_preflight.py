"""What can be known of a SuperSAM run before its first stage, and every reason why it would fail."""

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..bimask.budget import make_budget
from ..data.load import Part
from ..elastic.cost import SamShape
from ..elastic.importance import most_proposed
from ..models.supersam import ElasticSpace, SuperSamConfig, SuperSamModel
from ..oneshot.latency import Blueprint
from ..oneshot.pruning import smallest_reachable
from ..recipe import Recipe
from ..search.objective import Budget, unmet
from ..training.arguments import EngineArguments
from ..training.losses import LossArguments
from .budget import costs_of, resolved
from .context import Run, stands_alone
from .estimate import model_config, new_model
from .preflight import (
    Problems,
    bytes_ahead,
    check_holdout,
    check_installed,
    check_output,
    check_trainings,
    needs_no_start,
    stages_ahead,
)
from .preflight_data import Split, check_shown, prompted_splits
from .preflight_model import check_sam, model_type
from .runner import Stage
from .speed_budget import check_prune_latency, check_search_latency
from .split_sizes import rows_left


# Verbs that train: the section of their arguments.
TRAININGS = ("pretrain", "train", "recover", "bimask", "finetune", "adapt")
# What reads the training images, and the evaluation split; `adapt` reads both.
TRAIN_READERS = {*TRAININGS, "rank-layers", "reorder", "search", "prune"}
EVAL_READERS = {"evaluate-before", "report", "evaluate", "adapt"}
# What needs the elastic space that the recipe describes; `adapt` that of a supernet alone.
SPACE_USERS = {"reorder", "evaluate-before", "train", "search", "extract", "report", "evaluate", "measure"}


@dataclass
class Preflight:
    """What is known of a run before it is run.

    Args:
        run ([`Run`]): The run.
        stages (`list[str]`): Those that would run.
        problems ([`Problems`]): Why it would fail.
        notes (`list[str]`): What only a stage can tell.
        config ([`SuperSamConfig`], *optional*): Of the model that it starts from; None where that cannot be had.
        space ([`ElasticSpace`], *optional*): What is trained and searched; None of a model without subnets.
        splits (`dict`): The splits that the stages read and that are there.
    """

    run: Run
    stages: list[str]
    problems: Problems
    notes: list[str] = field(default_factory=list)
    config: SuperSamConfig | None = None
    space: ElasticSpace | None = None
    splits: dict[Part, Split] = field(default_factory=dict)


def preflight(
    verb: str, run: Run, pipeline: Mapping[str, Stage], off: Collection[str], redo: str | None = None
) -> Preflight:
    """Check all that can be known of a verb before it begins; nothing is written, few rows are read.

    Args:
        run ([`Run`]): Opened or not; its folder is only looked at.
        pipeline (`Mapping[str, Stage]`): The stages of the verb `run`.
        off (`Collection[str]`): Those that the recipe switches off.
        redo (`str`, *optional*): The stage from which on all run again.
    """
    problems = Problems()
    stages = stages_ahead(run, pipeline, off, redo, problems) if verb == "run" else [verb]
    found = Preflight(run, stages, problems)
    if not stages or needs_no_start(run, stages) or not _check_model(found, verb):
        return found
    _check_values(found)
    _check_space(found)
    _check_data(found)
    if found.config is not None:
        _check_disk(found, found.config)
    return found


def trainings(found: Preflight) -> dict[str, EngineArguments]:
    """The arguments of the trainings that would run, by their section."""
    return {name: getattr(found.run.recipe, name) for name in TRAININGS if name in found.stages}


def _check_model(found: Preflight, verb: str) -> bool:
    """Whether it is a SAM, whose config is then known; what another kind of model needs is not asked."""
    recipe, problems = found.run.recipe, found.problems
    if not recipe.pretrain.enabled:
        kind = model_type("model.name", recipe.model.name, recipe.model.revision, problems)
        if kind is not None and not check_sam(kind, verb, problems):
            return False
        if kind is None:
            return True
    with problems.of("pretrain" if recipe.pretrain.enabled else "model"):
        found.config = model_config(recipe)
    return True


def _check_values(found: Preflight) -> None:
    recipe, problems = found.run.recipe, found.problems
    check_trainings(trainings(found), problems)
    _check_unlabelled(found)
    if found.stages == ["recover"] and not found.run.has_model("subnet"):
        problems.add("output_dir", f"{found.run.folder} has no subnet/ to train on: search and extract first.")
    if "adapt" in found.stages:
        check_installed("peft", "adapt", "an adapter", "peft", problems)
    if EVAL_READERS & {*found.stages}:
        for file in recipe.evaluate.subnets:
            if not Path(file).is_file():
                problems.add("evaluate.subnets", f"there is no file {file!r}; give JSON files of subnets.")
        if recipe.evaluate.original is not None:
            kind = model_type("evaluate.original", recipe.evaluate.original, None, problems)
            if kind is not None and kind not in ("sam", "supersam"):
                problems.add("evaluate.original", f"its `model_type` is {kind!r}; give a SAM.")


# pictures without labels ---------------------------------------------------------------------------------------------


def _check_unlabelled(found: Preflight) -> None:
    """What needs masks is not asked of pictures alone, and the reverse."""
    recipe, problems = found.run.recipe, found.problems
    for name in {"train", "recover", "finetune"} & {*found.stages}:
        _check_imitation(name, getattr(recipe, name).loss, recipe.data.unlabelled, problems)
    if not recipe.data.unlabelled:
        if recipe.data.original is not None:
            problems.add("data.original", "is for `data.format: images`; leave it out.")
        return
    for name, method in (("prune", recipe.prune.method), ("reorder", recipe.reorder.method)):
        if name in found.stages and method == "taylor":
            problems.add(f"{name}.method", "taylor needs the loss of labelled masks: give wanda or magnitude.")
    if "prune" in found.stages and recipe.prune.drop_layers:
        problems.add("prune.drop_layers", "needs the loss of labelled masks: give 0.")
    for name in ("pretrain", "bimask", "adapt"):
        if name in found.stages:
            problems.add("data.format", f"`images` has no masks, which {name} needs; train and finetune need none.")
    if recipe.finetune.train_prompt_encoder and "finetune" in found.stages:
        problems.add(
            "finetune.train_prompt_encoder", "`data.format: images` trains the image encoder alone: give false."
        )
    if recipe.data.original is not None:
        kind = model_type("data.original", recipe.data.original, None, problems)
        if kind is not None and kind not in ("sam", "supersam"):
            problems.add("data.original", f"its `model_type` is {kind!r}; give a SAM.")


def _check_imitation(section: str, loss: LossArguments, unlabelled: bool, problems: Problems) -> None:
    """Terms of a loss that would do nothing."""
    if not unlabelled and loss.original_mask_weight:
        problems.add(f"{section}.loss.original_mask_weight", "is for `data.format: images`; give 0.")
    if unlabelled and loss.distillation_weight:
        problems.add(f"{section}.loss.distillation_weight", "`data.format: images` imitates the original: give 0.")
    for term in ("bce_weight", "iou_weight"):
        if unlabelled and getattr(loss, term) and not loss.original_mask_weight:
            problems.add(
                f"{section}.loss.{term}", "works on the original's masks: set `original_mask_weight` as well."
            )


# elastic space and budget --------------------------------------------------------------------------------------------


def _check_space(found: Preflight) -> None:
    """The space fits the model, and a subnet of it can keep the budget of the search."""
    run, config = found.run, _searched_config(found)
    if config is None:
        return
    if found.stages == ["bimask"]:
        args = run.recipe.bimask
        limits = ("max_macs", "max_latency_ms")
        name = next((name for name in limits if getattr(args, name) is not None), "max_params")
        with found.problems.of(f"bimask.{name}"):
            if args.latency is None:
                make_budget(SamShape.from_config(config), args.space, *args.limits)
            check_search_latency(blueprint(found, config), args.space, args)
        return
    if "prune" in found.stages:
        with torch.device("meta"):
            model = SuperSamModel(config)
        with found.problems.of("prune"):
            smallest_reachable(model, run.recipe.prune)
            check_prune_latency(blueprint(found, config), run.recipe.prune)
        return
    if run.recipe.method == "one-shot":
        return
    used = SPACE_USERS & {*found.stages} or ("adapt" in found.stages and config.elastic_space is not None)
    if stands_alone(config) or not used:
        return
    count = len(found.problems)
    for name, value in _given(run.recipe).items():  # each by itself, so that all that do not fit are named
        if name not in ("prune_probability", "sample_full"):
            with found.problems.of(f"space.{name}"):
                ElasticSpace.for_config(config, **{name: value})
    if len(found.problems) == count:
        with found.problems.of("space"), torch.device("meta"):
            found.space = run.space(SuperSamModel(config))
    if found.space is not None and "search" in found.stages:
        _check_budget(found, config, found.space)


def blueprint(found: Preflight, config: SuperSamConfig) -> Blueprint:
    """Of the SAM that is made smaller, on this process's device."""
    config = copy.deepcopy(config)
    config._attn_implementation = found.run.recipe.model.attn_implementation
    return Blueprint(SuperSamModel, config, torch.device(found.run.state.device))


def _searched_config(found: Preflight) -> SuperSamConfig | None:
    """Of the model that a search would run on, as far as the run has brought it."""
    for name in ("supernet", "reordered"):
        if found.run.has_model(name) and not {"reorder", "pretrain"} & {*found.stages}:
            with found.problems.of("output_dir"):
                return SuperSamConfig.from_pretrained(found.run.folder / name)
    return found.config


def _given(recipe: Recipe) -> dict[str, Any]:
    values = vars(recipe.space)
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items() if value is not None
    }


def is_ranked(found: Preflight) -> bool:
    """Whether the prunable layers are those that a ranking, yet to be made, will propose."""
    return "rank-layers" in found.stages and found.run.recipe.space.prunable_layers is None


def _check_budget(found: Preflight, config: SuperSamConfig, space: ElasticSpace) -> None:
    """No subnet that is within the budget is a problem: of the space, or of any that the ranking may propose."""
    args = found.run.recipe.search
    limits = resolved(config, space, args.budget)
    costs = costs_of(config)
    if not is_ranked(found):
        for name, reason in unmet(space, limits, *costs).items():
            found.problems.add(f"search.{name}", f"no subnet of this space keeps {reason}")
        return
    most = most_proposed(space, found.run.recipe.rank_layers.max_removed, found.run.recipe.rank_layers.max_prunable)
    for name, cost in zip(("max_params", "max_macs"), costs):
        limit = replace(Budget(), **{name: limits.to_dict()[name]})
        enough = next((n for n in range(most + 1) if not unmet(_without(space, n, cost), limit, *costs)), None)
        if enough is None:
            ((_, reason),) = unmet(_without(space, most, cost), limit, *costs).items()
            found.problems.add(
                f"search.{name}",
                f"even with the {most} prunable layers that rank-layers may propose at most, no subnet keeps {reason}",
            )
        elif enough:
            found.notes.append(
                f"`search.{name}` can be kept only if rank-layers proposes at least {enough} prunable layers (it "
                f"proposes 0 to {most}); if it does not, the run ends right after it."
            )


def _without(space: ElasticSpace, count: int, cost: Any) -> ElasticSpace:
    """The space with so many prunable layers, those that cost most where all are narrow."""
    narrow = min(space.mlp_windows), min(space.head_windows)
    whole = {layer: -cost(space.subnet((layer,), *narrow)) for layer in space.elastic_layers}
    chosen = tuple(sorted(sorted(whole, key=lambda layer: (-whole[layer], layer))[:count]))
    return replace(space, prunable_layers=chosen, prune_probability=(0.5,) * count)


# data and disk -------------------------------------------------------------------------------------------------------


def parts_read(stages: Collection[str]) -> list[Part]:
    """The splits that stages read."""
    readers: dict[Part, set[str]] = {"train": TRAIN_READERS, "eval": EVAL_READERS}
    return [part for part, names in readers.items() if names & {*stages}]


def _check_data(found: Preflight) -> None:
    run, problems = found.run, found.problems
    data = run.recipe.data
    parts = parts_read(found.stages)
    if not parts:
        return
    found.splits = prompted_splits(data, parts, problems)
    if "train" in found.splits:
        check_holdout(found.splits["train"].rows, run.recipe.holdout_images, problems)
    if found.config is not None and any(split.source for split in found.splits.values()):
        with problems.of("model.name"):
            check_shown(found.splits, data, run.processor.image_processor, problems)


def _check_disk(found: Preflight, config: SuperSamConfig) -> None:
    weights, trained = weight_bytes(config, found.run.recipe)
    ahead = {name: (trained, args) for name, args in trainings(found).items()}
    needed = bytes_ahead(weights, ahead, found.run.folder)
    check_output(found.run.folder, needed + _embedding_bytes(found, config), found.problems)


def _embedding_bytes(found: Preflight, config: SuperSamConfig) -> int:
    """Bytes of the original's embeddings that a training on pictures without labels will keep on disk."""
    data = found.run.recipe.data
    vision: Any = config.vision_config
    varied = data.crop_train is not None or data.flip
    if not data.unlabelled or varied or not {"train", "recover", "finetune"} & {*found.stages}:
        return 0
    grid = vision.image_size // vision.patch_size
    pictures = rows_left(found.splits, data, found.run.recipe.holdout_images)
    limit = int(data.embeddings_gb * 1e9)
    return limit if pictures is None else min(limit, pictures * 4 * vision.output_channels * grid**2)


def weight_bytes(config: SuperSamConfig, recipe: Recipe) -> tuple[int, int]:
    """Bytes of all weights, and of those that sandwich training trains."""
    with torch.device("meta"):
        model = new_model(config, recipe)
    every, trained = list(model.parameters()), [p for p in model.parameters() if p.requires_grad]
    return 4 * sum(p.numel() for p in every), 4 * sum(p.numel() for p in trained)


__all__ = ["Preflight", "is_ranked", "parts_read", "preflight", "trainings", "weight_bytes"]
