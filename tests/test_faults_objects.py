"""Spaces, subnets, fronts and configs with one value changed: each is refused by name when it is made, or works."""

import json
import math
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from supersam_hf import (
    ElasticSpace,
    OfbSwinConfig,
    OfbSwinForImageClassification,
    OfbViTConfig,
    OfbViTForImageClassification,
    OfbViTForSemanticSegmentation,
    Subnet,
    SuperSamConfig,
    SuperSamModel,
    SuperSamVisionConfig,
    SuperSamVisionModel,
)
from supersam_hf.elastic.cost import count_macs, count_parameters
from supersam_hf.models.supersam.pareto_supersam import ParetoFront, ParetoPoint
from supersam_hf.search import Ask, Evaluation, SearchLog


BAD = [None, True, False, "text", "8", 2.7, -1, 0, 1, 2, 7, 10**9, 10**30, math.nan, math.inf, -0.5, {}, [], object()]
ENTRIES = [None, True, "8", 2.7, -1, 0, 10**9, math.nan, math.inf, [], {}]

SPACE: dict[str, Any] = {
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "mlp_dim": 64,
    "head_dim": 8,
    "protected_layers": (0,),
    "prunable_layers": (1, 2),
    "prune_probability": (0.5, 0.25),
    "mlp_windows": (16, 32),
    "attention_windows": (8, 16),
}
SUBNET: dict[str, Any] = {"layers": (0, 2, 3), "mlp_dim": (64, 32, 16), "head_dim": (8, 8, 4)}
POINT: dict[str, Any] = {"name": "pareto-0", "subnet": Subnet(**SUBNET), "params": 5, "macs": 9, "holdout_miou": 0.5}
FRONT: dict[str, Any] = {"largest_params": 10, "largest_macs": 20, "source": "here"}
EVALUATION: dict[str, Any] = {"subnet": Subnet(**SUBNET), "params": 5, "macs": 9, "latency_ms": 2.0, "quality": 0.5}
EVALUATION |= {"exceeded": None, "score": 0.5}
VISION: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "mlp_dim": 48,
    "image_size": 64,
    "window_size": 3,
    "global_attn_indexes": [1],
    "output_channels": 16,
    "num_pos_feats": 8,
    "per_layer_config": {0: {"head_dim": 6}, 1: {"mlp_dim": 24}},
}
SAM: dict[str, Any] = {
    "vision_config": VISION,
    "prompt_encoder_config": {"image_size": 64, "hidden_size": 16, "patch_size": 16, "num_point_embeddings": 4},
    "mask_decoder_config": {"hidden_size": 16, "mlp_dim": 32, "iou_head_hidden_dim": 16, "num_attention_heads": 4},
    "elastic_space": None,
    "subnet": None,
}
VIT: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
    "distillation_token": True,
    "segmentation_layers": [0, 2],
    "segmentation_head": "mla",
    "segmentation_channels": 8,
    "per_layer_config": {0: {"head_dim": 6}, 1: {"intermediate_size": 24}},
}
SWIN: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 12,
    "depths": [2, 1],
    "num_heads": [2, 4],
    "window_size": 4,
    "hidden_sizes": [12, 20],
    "block_head_dims": [6, 4, 5],
}


def on_meta(*classes: type) -> Callable[[Any], None]:
    """A user of a config: the models that it is of, without memory, and their cost."""

    def use(config: PreTrainedConfig) -> None:
        assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))).to_dict() == config.to_dict()
        with torch.device("meta"):
            for model_class in classes:
                model_class(config)
        if not isinstance(config, SuperSamVisionConfig):
            assert 0 < count_parameters(config) < math.inf
            assert 0 < count_macs(config) < math.inf

    return use


def use_space(space: ElasticSpace) -> None:
    assert ElasticSpace.from_json(space.to_json()) == space
    subnets = [space.largest(), space.smallest(), space.sample(torch.Generator().manual_seed(0))]
    for subnet in subnets:
        space.validate(subnet)
        assert Subnet.from_json(subnet.to_json()) == subnet
    assert space.size >= 1


def use_subnet(subnet: Subnet) -> None:
    assert Subnet.from_json(subnet.to_json()) == subnet
    assert hash(subnet)
    assert sum(subnet.mlp_dim) < math.inf


def use_front(front: ParetoFront) -> None:
    assert math.isfinite(front.best().holdout_miou)
    assert front.best(max_params=1.0).params <= front.largest_params
    json.dumps(front.best().params)


def use_evaluation(evaluation: Evaluation) -> None:
    assert Evaluation.from_dict(json.loads(json.dumps(evaluation.to_dict()))) == evaluation
    assert evaluation.quality is None or math.isfinite(evaluation.quality)


@dataclass
class Case:
    """How to make an object, of which values, and what it must then be good for."""

    make: Callable[..., Any]
    values: dict[str, Any]
    use: Callable[[Any], None]


def front_of(**values: Any) -> ParetoFront:
    own = {name: values.pop(name) for name in list(values) if name in FRONT}
    return ParetoFront((ParetoPoint(**values),), **own)


def config_case(config_class: type, values: dict[str, Any], *models: type) -> Case:
    """All fields of the config that are not every config's, those that `values` leaves out at their defaults."""
    own = [f.name for f in fields(config_class) if f.name not in {g.name for g in fields(PreTrainedConfig)}]
    complete = config_class(**values).to_dict()
    whole = {**{name: complete[name] for name in own if name in complete}, **values}
    return Case(config_class, whole, on_meta(*models))


CASES = {
    "space": Case(ElasticSpace, SPACE, use_space),
    "subnet": Case(Subnet, SUBNET, use_subnet),
    "front": Case(front_of, {**POINT, **FRONT}, use_front),
    "evaluation": Case(Evaluation, EVALUATION, use_evaluation),
    "sam": config_case(SuperSamConfig, SAM, SuperSamModel),
    "vision": config_case(SuperSamVisionConfig, VISION, SuperSamVisionModel),
    "vit": config_case(OfbViTConfig, VIT, OfbViTForImageClassification, OfbViTForSemanticSegmentation),
    "swin": config_case(OfbSwinConfig, SWIN, OfbSwinForImageClassification),
}
# Free text, or records that nothing reads.
FREE = {"search", "subnet_name", "source", "tie_word_embeddings", "_out_features", "_out_indices"}


def mutations(values: dict[str, Any], rng: random.Random) -> Iterator[tuple[str, Any]]:
    """Each field with each bad value, and with an entry of it replaced, doubled, dropped or moved."""
    for name, value in values.items():
        if name in FREE:
            continue
        yield from ((name, bad) for bad in BAD)
        if isinstance(value, (list, tuple)):
            for bad in ENTRIES:
                at = rng.randrange(len(value))
                yield name, type(value)([*value[:at], bad, *value[at + 1 :]])
            for changed in (value[::-1], value[:-1], [*value, value[-1]], list(value), tuple(value)):
                yield name, type(value)(changed) if rng.random() < 0.5 else changed
        if isinstance(value, dict):
            for key in [*value, -1, 99] if name == "per_layer_config" else value:
                yield from ((name, {**value, key: bad}) for bad in rng.sample(BAD, 6))
                inner = value.get(key)
                for part in [*inner, "x"] if isinstance(inner, dict) else []:
                    yield from ((name, {**value, key: {**inner, part: bad}}) for bad in rng.sample(BAD, 6))


def outcome(case: Case, name: str, value: Any) -> str | None:
    """What is wrong with how a value is taken; None if it is refused clearly, or the object is of use."""
    try:
        made = case.make(**{**case.values, name: value})
    except (ValueError, TypeError, StrictDataclassError) as error:
        # of two that do not fit each other, either may be named
        words = [name, *case.values, *(value if isinstance(value, dict) else [])]
        clear = any(re.search(rf"[`'.]{word}\b", str(error)) for word in words)
        return None if clear else f"unclear: {type(error).__name__}: {error}"
    except Exception as error:
        return f"raw: {type(error).__name__}: {error}"
    try:
        case.use(made)
    except Exception as error:
        return f"on first use: {type(error).__name__}: {error}"
    return None


@pytest.mark.parametrize("label", CASES)
def test_every_changed_value_is_refused_by_name_or_works(label: str) -> None:
    case, rng = CASES[label], random.Random(0)
    case.use(case.make(**case.values))
    count, wrong = 0, []
    for name, value in mutations(case.values, rng):
        count += 1
        problem = outcome(case, name, value)
        if problem is not None:
            wrong.append(f"{name}={value!r}: {problem}"[:300])
    assert count > 40
    assert wrong == [], f"{len(wrong)} of {count}:\n" + "\n".join(wrong[:60])


GARBAGE = ["", "[", "null", "3", '"text"', "[]", "[1, 2]", "{}", '{"layers": [0]}']
GARBAGE += ['{"layers": 0, "mlp_dim": 1, "head_dim": 2}']


@pytest.mark.parametrize("text", GARBAGE)
def test_json_that_is_no_such_object_is_refused(text: str) -> None:
    for kind in (Subnet, ElasticSpace):
        with pytest.raises(ValueError, match=f"{kind.__name__}|`layers`"):
            kind.from_json(text)
    if text not in ("", "["):
        with pytest.raises(ValueError, match="this front"):
            ParetoFront.from_dict(json.loads(text), "this front")


def test_unknown_and_missing_fields_are_named() -> None:
    space = ElasticSpace(**SPACE).to_dict()
    with pytest.raises(ValueError, match=r"unknown \['depth'\]"):
        ElasticSpace.from_dict({**space, "depth": 3})
    with pytest.raises(ValueError, match=r"missing \['mlp_windows'\]"):
        ElasticSpace.from_dict({key: value for key, value in space.items() if key != "mlp_windows"})
    del space["attention_windows"]
    assert ElasticSpace.from_dict(space).attention_windows == ()


@pytest.mark.parametrize(
    "data", [{"layers": [0, 2.7]}, {"layers": [0, True]}, {"mlp_dim": [8, "8"]}, {"head_dim": [4, None]}]
)
def test_numbers_are_not_made_whole_in_silence(data: dict[str, Any]) -> None:
    (field,) = data
    with pytest.raises(ValueError, match=f"`{field}`"):
        Subnet.from_dict({"layers": [0, 1], "mlp_dim": [8, 8], "head_dim": [4, 4], **data})


@pytest.mark.parametrize("given", [{"prune_probability": True}, {"prunable_layers": 3}, {"protected_layers": None}])
def test_a_space_for_a_config_refuses_them_too(given: dict[str, Any]) -> None:
    (field,) = given
    with pytest.raises(ValueError, match=f"`{field}`"):
        ElasticSpace.for_config(SuperSamConfig(), **given)


def front_data() -> dict[str, Any]:
    subnet = Subnet(**SUBNET).to_dict()
    points = [{**POINT, "subnet": subnet, "name": f"pareto-{i}", "params": 5 + i} for i in range(2)]
    return {"format_version": 1, "largest": {"params": 10, "macs": 20}, "points": points}


def change(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    for key in path[:-1]:
        data = data[key]
    data[path[-1]] = value


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("points", 0, "holdout_miou"), math.nan, "holdout_miou"),
        (("points", 0, "holdout_miou"), 80, "holdout_miou"),
        (("points", 1, "params"), True, "params"),
        (("points", 1, "params"), 4, "ascending `params`"),
        (("points", 1, "macs"), 21, "more `params` or `macs` than `largest`"),
        (("points", 1, "name"), "pareto-0", "`name` twice"),
        (("points", 0, "subnet"), None, "Subnet"),
        (("points", 0), None, "`points`"),
        (("points",), {}, "`points`"),
        (("largest",), 3, "`largest`"),
        (("largest", "params"), "many", r"`largest\.params`"),
        (("format_version",), True, "format_version"),
        (("format_version",), 0, "format_version"),
    ],
)
def test_a_front_with_a_wrong_value_is_refused(path: tuple[Any, ...], value: Any, named: str) -> None:
    data = front_data()
    assert ParetoFront.from_dict(data, "this front").best().name == "pareto-0"
    change(data, path, value)
    with pytest.raises(ValueError, match=named):
        ParetoFront.from_dict(data, "this front")


@pytest.mark.parametrize("limit", [True, "half", math.nan, 0, [1]])
def test_a_limit_that_is_no_number_is_refused(limit: Any) -> None:
    with pytest.raises(ValueError, match="`max_params`"):
        ParetoFront.from_dict(front_data(), "this front").best(max_params=limit)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("quality",), math.nan, "`quality`"),
        (("params",), "5", "`params`"),
        (("exceeded",), "patience", "`exceeded`"),
        (("subnet", "layers"), [2, 1, 0], "`layers`"),
        (("ask",), 0, "`ask`"),
        (("trial",), True, "`trial`"),
        (("cached",), 1, "`cached`"),
    ],
)
def test_a_line_of_a_search_log_with_a_wrong_value_is_refused(
    path: tuple[Any, ...], value: Any, named: str, tmp_path: Path
) -> None:
    line = Ask(1, 1, False, Evaluation(**EVALUATION)).to_dict()
    log = tmp_path / "trials.jsonl"
    log.write_text(json.dumps({}) + "\n" + json.dumps(line) + "\n")
    assert SearchLog(log, {}).asks[0].evaluation == Evaluation(**EVALUATION)
    change(line, path, value)
    log.write_text(json.dumps({}) + "\n" + json.dumps(line) + "\n")
    with pytest.raises(ValueError, match=rf"Line 2 .*{named}"):
        SearchLog(log, {})
    for text in ("[]", '{"ask": 1}'):
        log.write_text(json.dumps({}) + "\n" + text + "\n")
        with pytest.raises(ValueError, match="Line 2"):
            SearchLog(log, {})


def test_a_config_file_with_a_wrong_value_is_a_value_error(tmp_path: Path) -> None:
    """What the command line tells as one line: `@strict`'s own errors are not."""
    configs = ((SuperSamConfig, "vision_config"), (OfbViTConfig, "hidden_size"), (OfbSwinConfig, "depths"))
    for config_class, field in configs:
        folder = tmp_path / field
        config_class().save_pretrained(folder)
        data = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**data, field: "many"}))
        with pytest.raises(ValueError, match=f"'{field}'"):
            config_class.from_pretrained(folder)
