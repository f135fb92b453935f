"""Subnets near the budget, in the place of candidates that break a closed-form limit or are known already."""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from ..models.supersam.elastic_supersam import ElasticSpace, Subnet
from .engine import SearchEngine
from .objective import Objective


logger = logging.getLogger(__name__)

# So many candidates in a row that cannot be tried are no chance: of those of a middling budget about half can.
PATIENCE = 20


class NearBudget(SearchEngine):
    """Asks as an engine does, until `PATIENCE` of its proposals in a row break a closed-form limit or are known.

    From then on, each such proposal is narrowed by random steps until it keeps the limits, and if that is known too,
    its nearest unknown neighbour is taken. So every ask is a new subnet within the limits as long as there is one. The
    engine is told how the subnet did that was tried for its proposal. Same seed, same proposals, same asks: nothing
    here depends on how many trials are wanted.

    Args:
        engine (`SearchEngine`): What proposes.
        objective (`Objective`): Says which subnets keep the limits.
        seed (`int`): Of the random steps.
        say (`bool`, *optional*, defaults to `True`): Whether to log when proposals begin to be replaced.
    """

    def __init__(self, engine: SearchEngine, objective: Objective, seed: int, say: bool = True) -> None:
        self.engine, self.objective, self.say = engine, objective, say
        self.generator = torch.Generator().manual_seed(seed)
        self.near = False
        self._wasted = 0
        self._known: set[Subnet] = set()
        # Open asks, and the engine's proposal behind each; None where it had none.
        self._open: list[tuple[Subnet, Subnet | None]] = []

    def ask(self) -> Subnet | None:
        proposal = self.engine.ask()
        if proposal is None and self._open:
            return None  # it may only be waiting for answers
        subnet = self._replaced(proposal)
        if subnet is not None:
            self._known.add(subnet)
            self._open.append((subnet, proposal))
        elif proposal is not None:
            self.engine.tell(proposal, None)
        return subnet

    def tell(self, subnet: Subnet, score: float | None) -> None:
        position = next(i for i, (asked, _) in enumerate(self._open) if asked == subnet)
        _, proposal = self._open.pop(position)
        if proposal is not None:
            self.engine.tell(proposal, score)

    def close(self) -> None:
        self.engine.close()

    def _replaced(self, proposal: Subnet | None) -> Subnet | None:
        """What to try for a proposal; None if every subnet within the limits is known."""
        if proposal is not None and self._is_new(proposal):
            self._wasted = 0
            return proposal
        self._wasted += 1
        if not self.near and (proposal is None or self._wasted >= PATIENCE):
            self._begin()
        if not self.near:
            return proposal
        start = self.objective.space.smallest() if proposal is None else self._narrowed(proposal)
        return next(filter(self._is_new, feasible_subnets(self.objective, start, self.generator)), None)

    def _begin(self) -> None:
        self.near = True
        if self.say:
            logger.warning(
                f"{self._wasted} candidates in a row break the budget or were tried before: from here on, subnets "
                "near the budget are tried in their place."
            )

    def _is_new(self, subnet: Subnet) -> bool:
        return subnet not in self._known and self.objective.costs(subnet).feasible

    def _narrowed(self, subnet: Subnet) -> Subnet:
        return narrowed(self.objective.space, self._keeps, subnet, self.generator)

    def _keeps(self, subnet: Subnet) -> bool:
        return self.objective.costs(subnet).feasible


def narrowed(
    space: ElasticSpace, keeps: Callable[[Subnet], bool], subnet: Subnet, generator: torch.Generator
) -> Subnet:
    """The first subnet within the limits on a random way down from this one; the smallest must be."""
    while not keeps(subnet):
        steps = list(narrower(space, subnet))
        subnet = steps[int(torch.randint(len(steps), (), generator=generator))]
    return subnet


@dataclass(frozen=True)
class Limits:
    """The closed-form limits of a budget, near which subnets of a space are drawn.

    Args:
        space (`ElasticSpace`): Whose smallest subnet keeps them.
        max_params, max_macs (`float`, *optional*): Most parameters and multiply-accumulates, in numbers; one is given.
        params, macs (`Callable[[Subnet], int]`): Of a subnet, in closed form.
    """

    space: ElasticSpace
    max_params: float | None
    max_macs: float | None
    params: Callable[[Subnet], int]
    macs: Callable[[Subnet], int]

    def keeps(self, subnet: Subnet) -> bool:
        """Whether a subnet is within them."""
        small = self.max_params is None or self.params(subnet) <= self.max_params
        return small and (self.max_macs is None or self.macs(subnet) <= self.max_macs)

    def narrowed(self, subnet: Subnet, generator: torch.Generator) -> Subnet:
        """This subnet, or the first within the limits on a random way down from it."""
        return narrowed(self.space, self.keeps, subnet, generator)

    def sample(self, generator: torch.Generator) -> Subnet:
        """Draw a subnet within the limits: one of the space, narrowed."""
        return self.narrowed(self.space.sample(generator), generator)

    def to_dict(self) -> dict[str, float | None]:
        """The limits as plain data."""
        return {"max_params": self.max_params, "max_macs": self.max_macs}


def feasible_subnets(
    objective: Objective, start: Subnet | None = None, generator: torch.Generator | None = None
) -> Iterator[Subnet]:
    """Every subnet that keeps the closed-form limits, nearest to `start` first.

    A narrower subnet costs no more, so all of them are linked by single steps through the smallest.

    Args:
        objective (`Objective`): Says which do.
        start (`Subnet`, *optional*): One that does; by default the smallest.
        generator (`torch.Generator`, *optional*): Draws the order among those that are as near.
    """
    first = objective.space.smallest() if start is None else start
    seen, queue = {first}, deque([first])
    while queue:
        subnet = queue.popleft()
        yield subnet
        steps = [*narrower(objective.space, subnet), *wider(objective.space, subnet)]
        order = range(len(steps)) if generator is None else torch.randperm(len(steps), generator=generator).tolist()
        for index in order:
            if steps[index] not in seen and objective.costs(steps[index]).feasible:
                seen.add(steps[index])
                queue.append(steps[index])


def narrower(space: ElasticSpace, subnet: Subnet) -> Iterator[Subnet]:
    """The subnets one step down: a window of a layer the next one narrower, or a layer removed."""
    yield from _stepped(space, subnet, -1)
    for layer in space.prunable_layers:
        if layer in subnet.layers:
            yield _with(subnet, layer, None)


def wider(space: ElasticSpace, subnet: Subnet) -> Iterator[Subnet]:
    """The subnets one step up: a window of a layer the next one wider, or a layer put back at its narrowest."""
    yield from _stepped(space, subnet, 1)
    for layer in space.prunable_layers:
        if layer not in subnet.layers:
            yield _with(subnet, layer, (min(space.mlp_windows), min(space.head_windows)))


def _stepped(space: ElasticSpace, subnet: Subnet, step: int) -> Iterator[Subnet]:
    for layer, mlp, head in zip(subnet.layers, subnet.mlp_dim, subnet.head_dim):
        if layer in space.protected_layers:
            continue
        for window in _next(space.mlp_windows, mlp, step):
            yield _with(subnet, layer, (window, head))
        for window in _next(space.head_windows, head, step):
            yield _with(subnet, layer, (mlp, window))


def _next(windows: tuple[int, ...], window: int, step: int) -> list[int]:
    """The next one up (`step` 1) or down (-1), if there is one."""
    beyond = [w for w in windows if (w - window) * step > 0]
    return sorted(beyond, key=lambda w: abs(w - window))[:1]


def _with(subnet: Subnet, layer: int, widths: tuple[int, int] | None) -> Subnet:
    """The same with a layer at these widths, or without it."""
    layers = dict(zip(subnet.layers, zip(subnet.mlp_dim, subnet.head_dim)))
    layers.pop(layer, None)
    if widths is not None:
        layers[layer] = widths
    kept = sorted(layers)
    return Subnet(tuple(kept), tuple(layers[i][0] for i in kept), tuple(layers[i][1] for i in kept))
