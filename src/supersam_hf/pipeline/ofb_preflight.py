"""What can be known of an OFB run before its first stage, and every reason why it would fail."""

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ..bimask.budget import make_budget
from ..data.load import Part
from ..elastic.cost import classifier_shape, count_parameters
from ..models.classifiers import CLASSIFIERS
from ..ofb_recipe import OfbRecipe
from ..oneshot.arguments import PruneArguments
from ..oneshot.latency import Blueprint
from ..oneshot.pruning import smallest_reachable
from ..training.arguments import EngineArguments
from ..training.pretrain_classifier import new_classifier
from .ofb_context import OfbRun
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
from .preflight_data import Split, check_labels, labelled_splits
from .preflight_model import check_classifier, model_type
from .runner import Stage
from .speed_budget import check_prune_latency, check_search_latency


TRAININGS = ("pretrain", "search", "train-whole", "finetune")
# Read the training images without being a training.
LOOKERS = ("prune",)
EVAL_READERS = ("report", "evaluate")


@dataclass
class OfbPreflight:
    """What is known of a run before it is run.

    Args:
        run ([`OfbRun`]): The run.
        stages (`list[str]`): Those that would run.
        problems ([`Problems`]): Why it would fail.
        config (*optional*): Of the model that it starts from, its head for the classes of the data where those are
            known; None where that cannot be had.
        splits (`dict`): The splits that the stages read and that are there.
        labels (`list[int]`, *optional*): Of each class of the data, the label of the checkpoint.
        known (`dict[int, str]`, *optional*): The names of the checkpoint's labels.
    """

    run: OfbRun
    stages: list[str]
    problems: Problems
    config: Any | None = None
    splits: dict[Part, Split] = field(default_factory=dict)
    labels: list[int] | None = None
    known: dict[int, str] | None = None

    @property
    def names(self) -> list[str] | None:
        """The classes of the data, where they are known."""
        return next((split.names for split in self.splits.values() if split.names is not None), None)


def ofb_preflight(
    verb: str, run: OfbRun, pipeline: Mapping[str, Stage], off: Collection[str], redo: str | None = None
) -> OfbPreflight:
    """Check all that can be known of a verb before it begins; nothing is written, few rows are read.

    Args:
        run ([`OfbRun`]): Opened or not; its folder is only looked at.
        pipeline (`Mapping[str, Stage]`): The stages of the verb `run`.
        off (`Collection[str]`): Those that the recipe switches off.
        redo (`str`, *optional*): The stage from which on all run again.
    """
    recipe, problems = run.recipe, Problems()
    stages = stages_ahead(run, pipeline, off, redo, problems) if verb == "run" else [verb]
    found = OfbPreflight(run, stages, problems)
    if not stages or stages == ["extract"] or needs_no_start(run, stages):
        return found
    kind = None
    if not recipe.pretrain.enabled:
        kind = model_type("model.name", recipe.model.name, recipe.model.revision, problems)
        if kind is not None and not check_classifier(kind, verb, problems):
            return found  # what another kind of model needs is not asked
    _check_data(found)
    if kind is not None or recipe.pretrain.enabled:
        _check_model(found, kind)
    _check_values(found)
    if found.config is not None:
        _check_cost(found)
    return found


def trainings(found: OfbPreflight) -> dict[str, EngineArguments]:
    """The arguments of the trainings that would run, by their section."""
    return {name: _training(found.run.recipe, name) for name in TRAININGS if name in found.stages}


def _training(recipe: OfbRecipe, name: str) -> EngineArguments:
    return recipe.whole_training if name == "train-whole" else getattr(recipe, name)


def parts_read(recipe: OfbRecipe, stages: Collection[str]) -> list[Part]:
    """The splits that stages read: trainings watch the evaluation split where nothing is held out."""
    ahead = [name for name in TRAININGS if name in stages]
    watched = any(_training(recipe, name).eval_steps for name in ahead) and not recipe.holdout_images
    evaluated = watched or any(name in stages for name in EVAL_READERS)
    train: list[Part] = ["train"] if ahead or any(name in stages for name in LOOKERS) else []
    return [*train, "eval"] if evaluated else train


def _check_data(found: OfbPreflight) -> None:
    recipe, problems = found.run.recipe, found.problems
    parts = parts_read(recipe, found.stages)
    if not parts:
        return
    found.splits = labelled_splits(recipe.data, parts, problems)
    if "train" in found.splits:
        check_holdout(found.splits["train"].rows, recipe.holdout_images, problems)
    if trainings(found) and (recipe.data.rand_augment or recipe.data.color_jitter > 0):
        name = "data.rand_augment" if recipe.data.rand_augment else "data.color_jitter"
        check_installed("kornia", name, "it", "augment", problems)


def _check_model(found: OfbPreflight, kind: str | None) -> None:
    """Its config, at the recipe's image size, with a head for the classes; they are labels of the checkpoint."""
    recipe, problems, names = found.run.recipe, found.problems, found.names
    with problems.of("pretrain" if kind is None else "model"):
        checkpoint = model_config(recipe, kind, None)
        if kind is not None and names is not None and not recipe.model.new_labels:
            found.known = checkpoint.id2label
            found.labels = check_labels(names, checkpoint, recipe.data.label_mapping, "data.label_mapping", problems)
        found.config = model_config(recipe, kind, names)


def model_config(recipe: OfbRecipe, kind: str | None, names: list[str] | None) -> Any:
    """The config of the model that a run starts from; no weights are needed, a folder with `config.json` will do.

    Args:
        kind (`str` or None): Its `model_type`; None: the run makes its own.
        names (`list[str]` or None): The dataset's classes, which the head is cut to or made for. Where they are not
            known, a checkpoint keeps its own, and a model of the run's own has two.

    Raises:
        ValueError: If the image size does not fit the model.
    """
    args = recipe.model
    if kind is None:
        with torch.device("meta"):
            return new_classifier(recipe.pretrain, ["a", "b"] if names is None else names).config
    hub: dict[str, Any] = {} if args.revision is None else {"revision": args.revision}
    config = CLASSIFIERS[kind].config_class.from_pretrained(str(args.name), **hub)
    if args.image_size is not None:
        if args.image_size < config.patch_size or args.image_size % config.patch_size:
            raise ValueError(
                f"`model.image_size` must be a multiple of the patch size {config.patch_size}, got {args.image_size}."
            )
        config.image_size = args.image_size
    if names is not None:
        config.id2label = dict(enumerate(names))
    return config


def _check_values(found: OfbPreflight) -> None:
    recipe, problems = found.run.recipe, found.problems
    check_trainings(trainings(found), problems)
    if recipe.model.new_labels and "search" in found.stages:
        problems.add(
            "model.new_labels",
            "gives an untrained head, by which no unit's importance can be told: `supersam-hf ofb finetune` first, "
            "then search in what that leaves in `finetuned/`.",
        )
    trained = "train-whole" in found.stages or found.run.has_model("whole")
    if recipe.model.new_labels and "prune" in found.stages and not trained:
        problems.add(
            "model.new_labels",
            "gives an untrained head, by whose loss no unit's importance can be told: `supersam-hf ofb train-whole` "
            "first.",
        )
    named = {"search.teacher": recipe.search.teacher, "finetune.teacher": recipe.finetune.teacher}
    named = {field: name for field, name in named.items() if field.split(".")[0] in found.stages}
    if any(name in found.stages for name in EVAL_READERS):
        named["evaluate.original"] = recipe.evaluate.original
    for field_name, name in named.items():
        if name is not None:
            _check_other(found, field_name, name)


def _check_other(found: OfbPreflight, field_name: str, name: str) -> None:
    """A checkpoint beside the model, which must have the dataset's labels too."""
    recipe, problems = found.run.recipe, found.problems
    kind = model_type(field_name, name, None, problems)
    if kind is None or not check_classifier(kind, "run", problems, field_name) or found.names is None:
        return
    with problems.of(field_name):
        config = CLASSIFIERS[kind].config_class.from_pretrained(name)
        check_labels(found.names, config, recipe.data.label_mapping, field_name, problems)


def _check_cost(found: OfbPreflight) -> None:
    """A network of the space is within the budget; there is room on the disk."""
    recipe, problems, config = found.run.recipe, found.problems, found.config
    shape = classifier_shape(config)
    if "search" in found.stages:
        limits = ("max_macs", "max_latency_ms")
        name = next((name for name in limits if getattr(recipe.search, name) is not None), "max_params")
        with problems.of(f"search.{name}"):
            if recipe.search.latency is None:
                make_budget(shape, recipe.space, *recipe.search.limits)
            check_search_latency(blueprint(found), recipe.space, recipe.search)
    if "prune" in found.stages:
        with problems.of("prune"):
            check_reachable(config, recipe.prune)
            check_prune_latency(blueprint(found), recipe.prune)
    weights = 4 * count_parameters(config)
    ahead = {name: (weights, args) for name, args in trainings(found).items()}
    check_output(found.run.folder, bytes_ahead(weights, ahead, found.run.folder), problems)


def blueprint(found: OfbPreflight) -> Blueprint:
    """Of the network that is made smaller, on this process's device."""
    config: Any = copy.deepcopy(found.config)
    config._attn_implementation = found.run.recipe.model.attn_implementation
    return Blueprint(CLASSIFIERS[config.model_type], config, torch.device(found.run.state.device))


def check_reachable(config: Any, args: PruneArguments) -> None:
    """Raises `ValueError` if no pruning of a model of this config keeps the budget. No weights are made."""
    with torch.device("meta"):
        model = CLASSIFIERS[config.model_type]._from_config(config)
    smallest_reachable(model, args)


__all__ = ["OfbPreflight", "blueprint", "model_config", "ofb_preflight", "parts_read", "trainings"]
