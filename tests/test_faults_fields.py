"""Every value that a user gives is held to its field's type and bounds: in recipes, on the command line, in Python."""

import dataclasses
import math
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from supersam_hf.data import DataArguments, ImageClassificationArguments
from supersam_hf.data.prepare import PrepareArguments
from supersam_hf.data.semantic_arguments import SemanticArguments
from supersam_hf.deploy.samples import SampleArguments
from supersam_hf.experiments.arguments import ExperimentArguments
from supersam_hf.ofb_recipe import OfbRecipe
from supersam_hf.recipe import Recipe
from supersam_hf.search import Budget
from supersam_hf.segmenter_recipe import SegmenterRecipe
from supersam_hf.training.milestone import Milestone
from supersam_hf.training.sandwich import SandwichArguments
from supersam_hf_cli import main


# What a class cannot be made without.
NEEDED: dict[str, dict[str, Any]] = {
    "PrepareArguments": {"source": "images"},
    "ExperimentArguments": {"kind": "fig3_layers", "variants": {"a": {}}},
    "SegmenterRecipe": {
        "model": SegmenterRecipe.__dataclass_fields__["model"].default_factory(name="me/vit"),
        "data": SemanticArguments(source="images"),
    },
    "Recipe": {"model": Recipe.__dataclass_fields__["model"].default_factory(name="me/sam")},
    "OfbRecipe": {"model": OfbRecipe.__dataclass_fields__["model"].default_factory(name="me/vit")},
}


def options_of(hint: Any) -> list[Any]:
    """Types that an annotation accepts, restricted types as what they restrict."""
    options = typing.get_args(hint) if type(None) in typing.get_args(hint) else (hint,)
    flat = [part for option in options for part in (typing.get_args(option) if "|" in str(option) else (option,))]
    return [getattr(option, "_type", option) for option in flat]


def classes_below(cls: Any) -> Iterator[Any]:
    yield cls
    for hint in typing.get_type_hints(cls).values():
        for option in options_of(hint):
            if dataclasses.is_dataclass(option):
                yield from classes_below(option)


ROOTS = (Recipe, OfbRecipe, SegmenterRecipe, PrepareArguments, ExperimentArguments, SampleArguments, Budget, Milestone)
CLASSES = list(dict.fromkeys(cls for root in ROOTS for cls in classes_below(root)))
WRONG: dict[str, tuple[Any, Callable[[list[Any]], bool]]] = {
    "null": (None, lambda kinds: type(None) not in kinds and typing.Any not in kinds),
    "nan": (math.nan, lambda kinds: float in kinds),
    "infinity": (math.inf, lambda kinds: float in kinds),
    "text for a number": ("5", lambda kinds: bool({int, float, bool} & set(kinds)) and str not in kinds),
    "true for a number": (True, lambda kinds: bool({int, float} & set(kinds)) and bool not in kinds),
    "a part for a whole": (2.5, lambda kinds: int in kinds),
    "a huge number": (10**30, lambda kinds: int in kinds),
    "a number for text": (5, lambda kinds: str in kinds and not {int, float} & set(kinds)),
    "a list for one": ([object()], lambda kinds: typing.Any not in kinds),
    "a mapping for a section": ({}, lambda kinds: any(dataclasses.is_dataclass(kind) for kind in kinds)),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_a_wrong_value_of_a_field_is_refused_by_its_name(cls: Any, kind: str) -> None:
    value, concerns = WRONG[kind]
    hints, accepted = typing.get_type_hints(cls), []
    for field in dataclasses.fields(cls):
        if not concerns(options_of(hints[field.name])):
            continue
        try:
            cls(**{**NEEDED.get(cls.__name__, {}), field.name: value})
        except ValueError as error:
            if f"`{field.name}" not in str(error):
                accepted.append(f"{field.name}: {error}")
        except TypeError as error:
            accepted.append(f"{field.name}: TypeError {error}")
        else:
            accepted.append(field.name)
    assert accepted == []


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_what_a_class_has_by_default_it_accepts(cls: Any) -> None:
    made = cls(**NEEDED.get(cls.__name__, {}))
    assert dataclasses.replace(made) == made


@pytest.mark.parametrize(
    "cls, name, value",
    [
        (DataArguments, "source", ""),
        (DataArguments, "source", " "),
        (DataArguments, "source", "a\0b"),
        (DataArguments, "source", "~no-such-user/images"),
        (DataArguments, "config_name", ""),
        (DataArguments, "train_split", ""),
        (DataArguments, "crop_train", [64, 64.5]),
        (DataArguments, "crop_train", "64"),
        (DataArguments, "seed", 2**32),
        (DataArguments, "seed", -1),
        (DataArguments, "flip", 1),
        (DataArguments, "prompt", "Box"),
        (ImageClassificationArguments, "label_names", "cat"),
        (ImageClassificationArguments, "label_names", ["cat", 3]),
        (ImageClassificationArguments, "label_names", ["cat", ""]),
        (SandwichArguments, "report_to", "tensorboard"),
        (SandwichArguments, "weight_decay", -0.1),
        (SandwichArguments, "seed", -1),
        (SandwichArguments, "max_grad_norm", 0.0),
        (SandwichArguments, "mixed_precision", "fp8"),
        (SandwichArguments, "milestone", {"miou": 0.7}),
        (Budget, "max_params", "60%%"),
    ],
)
def test_wrong_values_by_hand(cls: Any, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"`{name}"):
        cls(**{name: value})


def test_right_values_are_taken_as_their_types_have_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    args = SandwichArguments(weight_decay=1, learning_rate=1e-4, report_to=("tensorboard",))
    assert (args.weight_decay, type(args.weight_decay), args.report_to) == (1.0, float, ["tensorboard"])
    assert DataArguments(source="~/images").source == str(tmp_path / "images")
    assert DataArguments(source=tmp_path).source == str(tmp_path)
    assert type(DataArguments(batch_size=3).batch_size) is int


def pretrain_of(**values: Any) -> Any:
    return Recipe.__dataclass_fields__["pretrain"].default_factory(**values)


@pytest.mark.parametrize(
    "values, name",
    [
        ({"image_size": 100}, "image_size"),
        ({"hidden_size": 10}, "hidden_size"),
        ({"mlp_ratio": 0.001}, "mlp_ratio"),
        ({"decoder_size": 20}, "decoder_size"),
        ({"max_steps": 10, "warmup_steps": 10}, "warmup_steps"),
    ],
)
def test_values_that_do_not_go_together(values: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must"):
        pretrain_of(**values)


RECIPES = [
    ("run", "train: {learning_rate: null}", "`train.learning_rate` must be a number above 0"),
    ("run", "train: {learning_rate: .nan}", "`train.learning_rate` must be a number above 0"),
    ("run", "train: {learning_rate: .inf}", "`train.learning_rate` must be a number above 0"),
    ("run", "train: {max_steps: null}", "`train.max_steps` must be a whole number from 1"),
    ("run", "train: {max_steps: 2.5}", "`train.max_steps` must be a whole number from 1"),
    ("run", "train: {max_steps: true}", "`train.max_steps` must be a whole number from 1"),
    ("run", "train: {max_steps: many}", "`train.max_steps` must be a whole number from 1"),
    ("run", f"train: {{max_steps: {10**30}}}", "`train.max_steps` must be a whole number from 1"),
    ("run", "train: {loss: {bce_weight: .nan}}", "`train.loss.bce_weight` must be a number of 0 or more"),
    ("run", "train: {loss: null}", "`train.loss"),
    ("run", "train: null", "`train"),
    ("run", "train: 5", "train"),
    ("run", "train: {warmup_steps: 1000}", "`train.warmup_steps` must lie in 0 to max_steps - 1 = 999"),
    ("run", "train: {milestone: {miou: .nan}, eval_steps: 5}", "train.milestone"),
    ("run", "output_dir: null", "`output_dir` must be a path"),
    ("run", "output_dir: ''", "`output_dir` must be a path"),
    ("run", "seed: -1", "`seed` must be a whole number from 0 to 2**32 - 1"),
    ("run", "deterministic: null", "`deterministic` must be true or false"),
    ("run", "data: {source: null}", "`data.source` must be a path"),
    ("run", "data: {batch_size: null}", "`data.batch_size` must be a whole number from 1"),
    ("run", "data: {format: null}", "`data.format` must be one of auto, shapes"),
    ("run", "space: {prune_probability: .nan}", "`space.prune_probability"),
    ("run", "search: {max_params: .nan}", "`search.max_params` must be a share above 0"),
    ("run", "search: {goal: null}", "`search.goal` must be one of quality, params, macs"),
    ("run", "energy: {kg_per_kwh: .nan}", "`energy.kg_per_kwh` must be a number of 0 or more"),
    ("ofb run", "search: {score_mean: .nan}", "`search.score_mean` must be a number"),
    ("ofb run", "search: {mix_after: {prob: null}}", "`search.mix_after.prob` must be a number from 0 to 1"),
    ("ofb run", "pretrain: {mlp_ratio: .nan}", "`pretrain.mlp_ratio` must be a number above 0"),
    ("ofb run", "measure: {repeats: null}", "`measure.repeats` must be a whole number from 1"),
    ("segment", "stride: .nan", "`stride` must be a number above 0, at most 1"),
    ("segment", "train: {learning_rate: null}", "`train.learning_rate` must be a number above 0"),
]


@pytest.mark.parametrize("verb, text, message", RECIPES, ids=[f"{verb}: {text}" for verb, text, _ in RECIPES])
def test_a_wrong_value_of_a_recipe_is_told_with_its_sections(
    verb: str, text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    argv = [*verb.split(), "--config", str(recipe), "--model.name", "me/model", "--dry_run"]
    try:
        code = main(argv)
    except SystemExit as ended:
        code = ended.code  # type: ignore[assignment]
    assert code == 2
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    "words, message",
    [
        (["--train.learning_rate", "nan"], "`train.learning_rate` must be a number above 0, got nan"),
        (["--train.max_steps=1e99"], "`train.max_steps` must be a whole number from 1 to 1,000,000,000, got 1e99"),
        (["--train", '{"max_steps": -5}'], "`train.max_steps` must be a whole number from 1"),
        (["--data.source="], "`data.source` must be a path or an id"),
        (["--search.min_quality", "80"], "`search.min_quality` must be a number from 0 to 1 or null, got 80"),
    ],
)
def test_a_wrong_value_of_the_command_line_is_told(
    words: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "--model.name", "me/sam", *words])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
