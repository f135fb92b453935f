"""Which layers can go: quality with each layer removed, then greedy cumulative removal (SuperSAM, Fig. 3)."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..models.supersam.elastic_supersam import ElasticSpace, Subnet


@dataclass(frozen=True)
class Removal:
    """Quality and size of the supernet without these layers."""

    layers: tuple[int, ...]
    quality: float
    params: int


@dataclass(frozen=True)
class LayerRanking:
    """What `rank_layers` found.

    Args:
        full (`Removal`): The supernet as it is.
        single (`list[Removal]`): Each layer removed alone, in layer order.
        greedy (`list[Removal]`): 1, 2, … layers removed, each time the one whose loss is least.
        prunable_layers (`list[int]`): The proposed prunable set.
        prune_probability (`list[float]`): The proposed θ of each.
    """

    full: Removal
    single: list[Removal]
    greedy: list[Removal]
    prunable_layers: list[int] = field(default_factory=list)
    prune_probability: list[float] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def rank_layers(
    space: ElasticSpace,
    qualities: Callable[[Sequence[Subnet]], Sequence[float]],
    params: Callable[[Subnet], int],
    *,
    max_removed: int = 6,
    max_drop: float = 0.1,
    max_prunable: int | None = None,
) -> LayerRanking:
    """Ranks the layers of a supernet by what their removal costs, and proposes the prunable set.

    The proposal is the longest greedy removal that loses at most `max_drop` of the full quality (the paper removes
    layers 1, 2, 5, 6 and 9 of SAM ViT-B for about 8 %), θ = 0.5 each. Protected layers are removed alone, to see what
    they are worth, but never greedily.

    Args:
        qualities (`Callable`): Quality of each of several subnets in [0, 1] (mIoU on about 100 images), higher is
            better. It is asked for one step of the ranking at a time, and for each subnet once.
        params (`Callable`): Parameters of a subnet.
        max_removed (`int`): Length of the greedy removal, in layers.
        max_drop (`float`): Largest relative loss of quality that the proposal accepts.
        max_prunable (`int`, *optional*): Largest proposal; defaults to 5 of 12 layers, as in the paper.

    Raises:
        ValueError: If `max_removed` is not in 1 to the number of layers that are not protected, one layer staying.
    """
    depth = space.num_hidden_layers
    most = most_removed(space)
    if not 1 <= max_removed <= most:
        raise ValueError(f"`max_removed` must lie in 1 to {most} here, got {max_removed}.")
    known: dict[tuple[int, ...], Removal] = {}

    def without(removals: Sequence[tuple[int, ...]]) -> list[Removal]:
        new = [layers for layers in removals if layers not in known]
        subnets = [space.subnet(removed=layers) for layers in new]
        for layers, subnet, quality in zip(new, subnets, qualities(subnets) if new else ()):
            known[layers] = Removal(layers, quality, params(subnet))
        return [known[layers] for layers in removals]

    full, *single = without([(), *((i,) for i in range(depth))])
    greedy: list[Removal] = []
    removed: tuple[int, ...] = ()
    for _ in range(max_removed):
        tried = without([tuple(sorted({*removed, i})) for i in space.elastic_layers if i not in removed])
        greedy.append(max(tried, key=lambda removal: removal.quality))
        removed = greedy[-1].layers
    prunable = _propose(full, greedy, max_drop, most_proposed(space, max_removed, max_prunable))
    return LayerRanking(full, single, greedy, list(prunable), [0.5] * len(prunable))


def most_removed(space: ElasticSpace) -> int:
    """The longest greedy removal: every layer that is not protected, but one must stay."""
    return min(len(space.elastic_layers), space.num_hidden_layers - 1)


def most_proposed(space: ElasticSpace, max_removed: int, max_prunable: int | None = None) -> int:
    """The most prunable layers that `rank_layers` may propose with these arguments; it may propose none."""
    share = max(1, space.num_hidden_layers * 5 // 12)
    return min(most_removed(space), max_removed, share if max_prunable is None else max_prunable)


def count_evaluations(space: ElasticSpace, max_removed: int) -> int:
    """How many subnets `rank_layers` evaluates."""
    elastic = len(space.elastic_layers)
    return 1 + space.num_hidden_layers + sum(elastic - step for step in range(1, max_removed))


def _propose(full: Removal, greedy: list[Removal], max_drop: float, max_prunable: int) -> tuple[int, ...]:
    proposal: tuple[int, ...] = ()
    for removal in greedy[:max_prunable]:
        if removal.quality < full.quality * (1 - max_drop):
            break
        proposal = removal.layers
    return proposal
