"""The elastic space as data, and layer ranking."""

import itertools
from collections.abc import Sequence

import pytest
import torch
from conftest import tiny_config
from transformers import SamConfig

from supersam_hf import ElasticSpace, Subnet, SuperSamConfig, SuperSamModel
from supersam_hf.elastic.importance import count_evaluations, rank_layers
from supersam_hf.models.supersam import shared_depth


VIT_B = SamConfig()


def test_vit_b_space_is_the_papers() -> None:
    space = ElasticSpace.for_config(VIT_B)
    assert space.prunable_layers == (1, 2, 5, 6, 9)
    assert space.prune_probability == (0.5,) * 5
    assert space.mlp_windows == (768, 1020, 1536, 2304)
    assert space.size == 12_800_000
    assert ElasticSpace.for_config(VIT_B, prunable_layers=()).size == 4_194_304


def test_size_is_the_number_of_subnets() -> None:
    space = ElasticSpace.for_config(
        tiny_config(num_hidden_layers=4), prunable_layers=(1, 3), mlp_windows=(48, 96), attention_windows=(24, 36, 48)
    )
    choices = list(itertools.product(space.mlp_windows, space.head_windows))
    found = set()
    for one, two, three in itertools.product([*choices, None], choices, [*choices, None]):
        drawn = {1: one, 2: two, 3: three}
        removed = tuple(i for i, c in drawn.items() if c is None)
        kept = {i: c for i, c in drawn.items() if c}
        found.add(space.subnet(removed, {i: c[0] for i, c in kept.items()}, {i: c[1] for i, c in kept.items()}))
    assert len(found) == space.size
    for subnet in found:
        space.validate(subnet)


def test_sampling_is_seeded_valid_and_as_probable_as_stated() -> None:
    space = ElasticSpace.for_config(VIT_B, prune_probability=(0.1, 0.3, 0.5, 0.7, 0.9))
    draw = [space.sample(torch.Generator().manual_seed(seed)) for seed in range(2000)]
    assert draw[7] == space.sample(torch.Generator().manual_seed(7))
    assert len(set(draw)) > 1900
    for layer, theta in zip(space.prunable_layers, space.prune_probability):
        assert sum(layer not in s.layers for s in draw) / len(draw) == pytest.approx(theta, abs=0.05)
    widths = [w for s in draw for layer, w in zip(s.layers, s.mlp_dim) if layer == 3]
    for window in space.mlp_windows:
        assert widths.count(window) / len(widths) == pytest.approx(0.25, abs=0.05)
    for subnet in draw:
        space.validate(subnet)
        assert subnet.mlp_dim[0] == 3072


def test_what_subnets_share_ends_before_the_first_layer_that_differs() -> None:
    space = ElasticSpace.for_config(SamConfig())
    largest, smallest = space.largest(), space.smallest()
    assert shared_depth([largest], 12) == 12
    assert shared_depth([largest, smallest], 12) == 1
    assert shared_depth([largest, space.subnet((5,))], 12) == 5
    assert shared_depth([space.subnet((1, 2)), space.subnet((1, 2), {3: 768})], 12) == 3
    assert shared_depth([space.subnet((1, 2)), space.subnet((1,))], 12) == 2


def test_json_both_ways() -> None:
    space = ElasticSpace.for_config(VIT_B, attention_windows=(512, 768))
    assert ElasticSpace.from_json(space.to_json()) == space
    subnet = space.sample(torch.Generator().manual_seed(0))
    assert Subnet.from_json(subnet.to_json()) == subnet
    assert hash(Subnet.from_json(subnet.to_json())) == hash(subnet)
    config = SuperSamConfig(elastic_space=space.to_dict())
    assert ElasticSpace.for_config(config) == space


def test_the_space_travels_with_the_model(supernet: SuperSamModel, tmp_path) -> None:  # noqa: ANN001
    space = ElasticSpace.for_config(supernet.config, prunable_layers=(2, 3), prune_probability=0.25)
    supernet.config.elastic_space = space.to_dict()
    supernet.save_pretrained(tmp_path)
    assert SuperSamModel.from_pretrained(tmp_path).elastic_space == space


def test_extracted_subnets_have_no_space(supernet: SuperSamModel) -> None:
    extracted = supernet.extract(supernet.elastic_space.smallest())
    assert extracted.config.elastic_space is None
    assert Subnet.from_dict(extracted.config.subnet) == supernet.elastic_space.smallest()
    with pytest.raises(ValueError, match="per_layer_config"):
        ElasticSpace.for_config(extracted.config)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prunable_layers": (3, 12)}, r"`prunable_layers` names layers \[12\]; the model has layers 0 to 11"),
        ({"protected_layers": (0, 1), "prunable_layers": (1,)}, r"both `protected_layers` and `prunable_layers`"),
        ({"mlp_windows": (768, 4096)}, r"`mlp_windows` has \[4096\]; the model's width allows 1 to 3072"),
        ({"mlp_windows": (1536, 768)}, "`mlp_windows` must be ascending"),
        ({"attention_windows": (512, 1024)}, r"`attention_windows` has \[1024\]"),
        ({"prune_probability": 1.5}, r"`prune_probability` must lie in \[0, 1\]"),
        ({"prune_probability": (0.5,)}, "`prune_probability` has 1 entries"),
        ({"mlp_windows": ()}, "`mlp_windows` is empty"),
        ({"attention_windows": (512, 513)}, "same channels a head twice"),
    ],
)
def test_a_space_that_does_not_fit_is_refused(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ElasticSpace.for_config(VIT_B, **given)


def test_subnets_of_another_space_are_refused() -> None:
    space = ElasticSpace.for_config(VIT_B)
    other = ElasticSpace.for_config(VIT_B, prunable_layers=(3,), mlp_windows=(500,))
    with pytest.raises(ValueError, match=r"leaves out \[3\]"):
        space.validate(other.subnet(removed=(3,)))
    with pytest.raises(ValueError, match=r"`mlp_dim` of layer 1 is 500; this space allows \[768, 1020"):
        space.validate(other.smallest().__class__(tuple(range(12)), (3072, *(500,) * 11), (64,) * 12))
    with pytest.raises(ValueError, match="`mlp_dim` of layer 0"):
        space.validate(space.subnet(mlp_dim={0: 768}))
    with pytest.raises(ValueError, match="unknown"):
        Subnet.from_dict({"layers": [0], "mlp_dim": [4], "head_dim": [4], "depth": 3})


def test_ranking_finds_the_layers_that_cost_least() -> None:
    space = ElasticSpace.for_config(tiny_config(), prunable_layers=())
    worth = [0.5, 0.01, 0.2, 0.03, 0.002, 0.1]

    def quality(subnet: Subnet) -> float:
        # layers 1 and 4 stand in for each other: each alone is cheap, both together are not
        missing = set(range(6)) - set(subnet.layers)
        return 0.9 - sum(worth[i] for i in missing) - (0.3 if {1, 4} <= missing else 0)

    asked: list[Subnet] = []

    def qualities(subnets: Sequence[Subnet]) -> list[float]:
        asked.extend(subnets)
        return [quality(subnet) for subnet in subnets]

    ranking = rank_layers(space, qualities, lambda s: 100 * len(s.layers), max_removed=3, max_drop=0.1)
    assert [r.quality for r in ranking.single] == pytest.approx([0.9 - w for w in worth])
    assert [r.layers for r in ranking.greedy] == [(4,), (3, 4), (3, 4, 5)]
    assert ranking.prunable_layers == [3, 4]
    assert ranking.greedy[1].params == 400
    assert len(asked) == len(set(asked)) == count_evaluations(space, 3) == 1 + 6 + 4 + 3


def test_a_protected_layer_is_never_proposed() -> None:
    space = ElasticSpace.for_config(tiny_config(), protected_layers=(4,), prunable_layers=())
    ranking = rank_layers(
        space, lambda subnets: [0.5 if 4 in s.layers else 1.0 for s in subnets], lambda s: 1, max_removed=2
    )
    assert [r.layers for r in ranking.single] == [(i,) for i in range(6)]
    assert [r.layers for r in ranking.greedy] == [(0,), (0, 1)]
    assert ranking.prunable_layers == [0, 1]


def test_removing_everything_is_refused() -> None:
    space = ElasticSpace.for_config(tiny_config(), prunable_layers=())
    with pytest.raises(ValueError, match="`max_removed`"):
        rank_layers(space, lambda subnets: [1.0] * len(subnets), lambda s: 1, max_removed=6)
