"""The budget: what it means for a model, whether it can be met, and the rule that makes it hold at the end."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..elastic.cost import count_macs, count_parameters
from .cost import physical_shape, smallest_shape
from .families import family_of
from .masking import MaskedModel
from .prune import cut
from .scores import BiMask
from .space import SearchSpace


@dataclass(frozen=True)
class SearchBudget:
    """An upper limit in multiply-accumulates or parameters.

    Args:
        kind (`str`): "macs" or "params".
        limit (`int`): The most that the found network may have.
        original (`int`): What the original has.
    """

    kind: str
    limit: int
    original: int

    @classmethod
    def none(cls, shape: Any) -> "SearchBudget":
        """As many multiply-accumulates as a network of these sizes has."""
        macs = count_macs(shape)
        return cls("macs", macs, macs)

    @property
    def fraction(self) -> float:
        return self.limit / self.original

    def cost(self, shape: Any) -> int:
        """What a network of these sizes has."""
        return count_macs(shape) if self.kind == "macs" else count_parameters(shape)


def make_budget(shape: Any, space: SearchSpace, max_macs: float | None, max_params: float | None) -> SearchBudget:
    """The budget of a search on a model of these sizes; arguments of [`stated_budget`].

    Raises:
        ValueError: As [`stated_budget`], or if no network of the space meets it.
    """
    budget = stated_budget(shape, max_macs, max_params)
    limit = max_params if max_macs is None else max_macs
    smallest = budget.cost(smallest_shape(shape, space))
    if smallest > budget.limit:
        raise ValueError(
            f"`max_{budget.kind}` of {limit:g} ({budget.limit:,}) cannot be met: the smallest network of this `space` "
            f"has {smallest:,} ({smallest / budget.original:.1%} of {budget.original:,}). Give at least "
            f"{smallest:,}, or {math.ceil(1e3 * smallest / budget.original) / 10:g}%, or widen the search's `space`."
        )
    return budget


def stated_budget(shape: Any, max_macs: float | None, max_params: float | None) -> SearchBudget:
    """The budget as it is stated, of a model of these sizes.

    Args:
        max_macs (`float`, *optional*): Multiply-accumulates; a number up to 1 is a fraction of the original's.
        max_params (`float`, *optional*): Parameters; a number up to 1 is a fraction of the original's.

    Raises:
        ValueError: If not exactly one limit is given, it is not positive, or no limit to this model.
    """
    if (max_macs is None) == (max_params is None):
        raise ValueError("Give exactly one of `max_macs` and `max_params`.")
    kind, limit = ("macs", max_macs) if max_macs is not None else ("params", max_params)
    assert limit is not None
    if limit <= 0:
        raise ValueError(f"`max_{kind}` must be positive, got {limit}.")
    budget = SearchBudget(kind, 0, SearchBudget(kind, 0, 0).cost(shape))
    budget = replace(budget, limit=int(limit * budget.original if limit <= 1 else limit))
    if budget.limit >= budget.original:
        raise ValueError(
            f"`max_{kind}` of {limit:g} is no limit: the original has {budget.original:,}. Lower it (a number "
            "below 1 is a fraction of the original)."
        )
    return budget


@dataclass(frozen=True)
class Removal:
    """A size that a submodule could go down to: `groups` groups of `units` units."""

    name: str
    groups: int
    units: int


def enforce(
    masked: MaskedModel,
    options: dict[str, tuple[list[int], list[int]]],
    budget: SearchBudget,
    optimizer: torch.optim.Optimizer | None = None,
) -> list[dict[str, Any]]:
    """Cuts until the budget holds: each time the cells with the least bi-mask for what they save. A bi-mask counts
    once for every place where it multiplies (an embedding's at every write to the residual stream).

    Args:
        options (`dict`): The option lists with which the search began, (group sizes, unit sizes) by submodule.
        optimizer (`torch.optim.Optimizer`, *optional*): Its moments are cut too.

    Returns:
        `list[dict]`: What was removed, in order: `submodule`, `from` and `to` as [groups, units], `saved`.
    """
    done = []
    while (cost := budget.cost(shape := physical_shape(masked.model))) > budget.limit:
        candidates = [removal for name in masked.submodules for removal in _next_smaller(masked, name, options[name])]
        best = min(candidates, key=lambda removal: _price(masked, removal, shape, budget))
        mask = masked.masks[best.name]
        before = [mask.groups, mask.units]
        _reach(mask, best)
        cut(masked.submodules[best.name], mask, *mask.kept(best.groups, best.units), optimizer)
        saved = cost - budget.cost(physical_shape(masked.model))
        done.append({"submodule": best.name, "from": before, "to": [best.groups, best.units], "saved": saved})
    return done


def _next_smaller(masked: MaskedModel, name: str, options: tuple[list[int], list[int]]) -> list[Removal]:
    """One option fewer groups, or one option fewer units; also options that had died, since a step over several of
    them would cut more than the budget asks for."""
    mask = masked.masks[name]
    groups = [size for size in options[0] if size < mask.groups]
    units = [size for size in options[1] if size < mask.units]
    found = [Removal(name, groups[-1], mask.units)] if groups else []
    return [*found, Removal(name, mask.groups, units[-1])] if units else found


@torch.no_grad()
def _price(masked: MaskedModel, removal: Removal, shape: Any, budget: SearchBudget) -> float:
    """Bi-mask lost for each MAC (or parameter) saved."""
    submodule, mask = masked.submodules[removal.name], masked.masks[removal.name]
    value = mask(masked.lam)
    groups, units = mask.kept(removal.groups, removal.units)
    lost = value.sum() - value[groups].gather(1, units).sum()
    after = family_of(shape).resized(shape, {removal.name: (removal.groups, removal.units)})
    saved = budget.cost(shape) - budget.cost(after)
    return float(lost) * len(submodule.masked) / saved


@torch.no_grad()
def _reach(mask: BiMask, removal: Removal) -> None:
    """Leaves the mask no cell larger than the removal's; its own cells come back in place of dead ones, with what the
    next larger ones had."""
    for dim, sizes, size in ((0, mask.group_sizes, removal.groups), (1, mask.unit_sizes, removal.units)):
        live = mask.live if dim == 0 else mask.live.T  # views
        alpha = mask.alpha if dim == 0 else mask.alpha.T
        top = len(sizes) - 1
        if size not in sizes:
            sizes[top] = size
        elif size < sizes[top]:
            index = sizes.index(size)
            if not live[index].any():
                live[index], alpha[index] = live[top].clone(), alpha[top].clone()
            live[index + 1 :] = False


__all__ = ["SearchBudget", "enforce", "make_budget", "stated_budget"]
