"""From the importance of units to the sizes of submodules: which unit leaves next, until the budget holds."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from ..bimask.budget import SearchBudget
from ..bimask.families import Family
from ..bimask.families.base import Sizes
from ..bimask.submodules import Submodule, kind_of
from .importance import Importance


Scope = Literal["uniform", "isomorphic", "global"]
Narrowed = Literal["channels", "heads", "none"]


class Removal(NamedTuple):
    """A unit that may leave: of a submodule, its least important one, the second least, ...

    Args:
        order (`float`): The lower, the earlier it leaves.
        name (`str`): The submodule.
    """

    order: float
    name: str


class Ladder:
    """Networks from the whole down to the smallest, a unit less at each step.

    Args:
        family ([`Family`]): Of the model.
        shape (`Any`): The whole.
        submodules (`Mapping[str, Submodule]`): What is narrowed.
        importance (`dict[str, torch.Tensor]`): Of their units, (groups, units) each.
        scope ("uniform", "isomorphic" or "global"): uniform: all submodules keep the same share; isomorphic: units of
            one kind and width (MLPs of 768 units) are ranked together over all layers, and every kind gives up the
            same share (Fang et al. 2024); global: all units are ranked together, by importance per cost saved.
        attention ("channels" or "heads"): What an attention loses: channels of all its heads, or whole heads.
        min_ratio (`float`): Least share that a submodule keeps.
        round_to (`int`): Sizes are rounded up to a multiple of this.
        cost (`Callable`): Of a shape; weighs units for `global`.
    """

    def __init__(
        self,
        family: Family,
        shape: Any,
        submodules: Mapping[str, Submodule],
        importance: Importance,
        *,
        scope: Scope,
        attention: Narrowed,
        min_ratio: float,
        round_to: int,
        cost: Callable[[Any], float],
    ) -> None:
        self.family, self.shape, self.submodules = family, shape, submodules
        self.attention, self.round_to = attention, round_to
        values = {name: self._values(name, importance) for name in submodules}
        removals = [
            Removal(order, name)
            for name, orders in _orders(values, scope, self._saved(cost, scope)).items()
            for order in orders[: _most(len(orders), min_ratio)]
        ]
        # sorted() is stable and a submodule's own orders ascend: its places leave in turn
        self.removals = sorted(removals, key=lambda removal: removal.order)

    def sizes(self, step: int) -> Sizes:
        """Groups and units of every submodule after so many removals."""
        lost = dict.fromkeys(self.submodules, 0)
        for removal in self.removals[:step]:
            lost[removal.name] += 1
        return {name: self._size(name, count) for name, count in lost.items()}

    def resized(self, step: int) -> Any:
        """The shape after so many removals."""
        return self.family.resized(self.shape, self.sizes(step))

    def first_within(self, budget: SearchBudget) -> int:
        """The fewest removals after which the budget holds.

        Raises:
            ValueError: If it does not hold after all of them, saying what is left then.
        """
        low, high = 0, len(self.removals)
        least = budget.cost(self.resized(high))
        if least > budget.limit:
            raise ValueError(
                f"A budget of {budget.limit:,} cannot be met by this pruning: with all that may leave, {least:,} is "
                f"left ({least / budget.original:.1%} of {budget.original:,}). Give at least {least:,}, or "
                f"{math.ceil(1e3 * least / budget.original) / 10:g}%; or lower `min_ratio`, prune more kinds of "
                "units, or drop layers."
            )
        while low < high:
            middle = (low + high) // 2
            if budget.cost(self.resized(middle)) <= budget.limit:
                high = middle
            else:
                low = middle + 1
        return low

    def _values(self, name: str, importance: Importance) -> list[float]:
        """Importance of what leaves at each removal, ascending: a unit, a head, or a channel of every head."""
        value = importance[name]
        if kind_of(name) != "attention":
            return value.flatten().sort().values.tolist()
        if self.attention == "heads":
            return value.sum(1).sort().values.tolist()
        if self.submodules[name].shared_units:
            return value.sum(0).sort().values.tolist()
        return value.sort(1).values.sum(0).tolist()

    def _size(self, name: str, lost: int) -> tuple[int, int]:
        submodule = self.submodules[name]
        if submodule.kind == "attention" and self.attention == "heads":
            return submodule.groups - lost, submodule.units
        left = submodule.units - lost
        return submodule.groups, min(submodule.units, self.round_to * math.ceil(left / self.round_to))

    def _saved(self, cost: Callable[[Any], float], scope: Scope) -> dict[str, float]:
        """What one removal saves in each submodule."""
        if scope != "global":
            return dict.fromkeys(self.submodules, 1.0)
        whole = cost(self.shape)
        saved = {}
        for name, submodule in self.submodules.items():
            # over half of the removals: a table of times is no straight line
            heads = submodule.kind == "attention" and self.attention == "heads"
            lost = (submodule.groups if heads else submodule.units) // 2
            size = submodule.groups - lost * heads, submodule.units - lost * (not heads)
            saved[name] = (whole - cost(self.family.resized(self.shape, {name: size}))) / max(1, lost)
        return saved


def _orders(values: Mapping[str, list[float]], scope: Scope, saved: Mapping[str, float]) -> dict[str, list[float]]:
    """When each removal of each submodule is due, ascending."""
    if scope == "uniform":
        return {name: [(i + 1) / len(own) for i in range(len(own))] for name, own in values.items()}
    if scope == "global":
        return {name: [value / max(saved[name], 1e-30) for value in own] for name, own in values.items()}
    found: dict[str, list[float]] = {}
    alike = {name: (kind_of(name), len(own)) for name, own in values.items()}
    for one in dict.fromkeys(alike.values()):
        own = {name: value for name, value in values.items() if alike[name] == one}
        ranked = sorted((value, name) for name, units in own.items() for value in units)
        for place, (_, name) in enumerate(ranked):
            found.setdefault(name, []).append((place + 1) / len(ranked))
    return found


def _most(count: int, min_ratio: float) -> int:
    """How many of so many may leave; one stays always."""
    return count - max(1, math.ceil(min_ratio * count))


__all__ = ["Ladder", "Narrowed", "Removal", "Scope"]
