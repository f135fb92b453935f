"""A search that does not begin at random: scores by the importance of units, sizes at the budget (preset `warm`).

With scores and architecture parameters drawn at random, a search of hundreds of steps ends near where it began
(docs/ofb.md). Here it begins where one-shot pruning ends, and learns from there.
"""

from collections.abc import Mapping

import torch

from .budget import SearchBudget
from .cost import full_cost, physical_shape, soft_cost
from .masking import MaskedModel
from .scores import BiMask
from .submodules import kind_of


# How far apart the architecture parameters of neighbouring sizes are, per share of the full size between them: with
# Table 1's steps of 1/8 the nearest size begins with nearly all of the probability.
SHARPNESS = 40.0


@torch.no_grad()
def start_scores(masked: MaskedModel, importance: Mapping[str, torch.Tensor], mean: float, std: float) -> None:
    """Sets every score to the quantile of a normal distribution at which its unit's importance ranks in its
    submodule: distributed as scores drawn at random are, in the order of the importance.

    Args:
        importance (`dict[str, torch.Tensor]`): (groups, units) by submodule.
        mean (`float`), std (`float`): Of the scores, before the sigmoid.
    """
    for name, mask in masked.masks.items():
        values = importance[name].flatten()
        places = torch.empty(len(values), dtype=torch.double)
        places[values.argsort(stable=True)] = torch.arange(len(values), dtype=torch.double)
        quantiles = torch.special.ndtri((places + 0.5) / len(values))
        mask.score.copy_((mean + std * quantiles).view_as(mask.score).to(mask.score))


@torch.no_grad()
def start_sizes(masked: MaskedModel, budget: SearchBudget) -> float:
    """Sets the architecture parameters so that g(V) is at the budget, all submodules at the same share of their units,
    heads whole; the embedding is narrowed only where the others alone cannot keep the budget. Returns the share.

    Args:
        budget ([`SearchBudget`]): What the search must keep.
    """
    for narrowed in ({"attention", "mlp"}, {"attention", "mlp", "embedding"}):
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            _lean(masked, middle, narrowed)
            if _soft_share(masked, budget) > budget.fraction:
                high = middle
            else:
                low = middle
        _lean(masked, low, narrowed)
        if _soft_share(masked, budget) <= budget.fraction:
            break
    return low


def _soft_share(masked: MaskedModel, budget: SearchBudget) -> float:
    """g(V) as a share of the original's."""
    shape = physical_shape(masked.model)
    return float(soft_cost(masked, budget.kind) / full_cost(shape, budget.kind))


def _lean(masked: MaskedModel, share: float, narrowed: set[str]) -> None:
    """Architecture parameters that fall with the distance from a share of the units, and from all groups."""
    for name, mask in masked.masks.items():
        wanted = share if kind_of(name) in narrowed else 1.0
        mask.alpha.copy_(_distances(mask, wanted).neg().mul(SHARPNESS).to(mask.alpha))


def _distances(mask: BiMask, share: float) -> torch.Tensor:
    """Of every cell (R, C): how far its sizes are from all groups and from `share` of the units."""
    groups = torch.tensor(mask.group_sizes, dtype=torch.double) / mask.groups
    units = torch.tensor(mask.unit_sizes, dtype=torch.double) / mask.units
    return (1 - groups)[:, None] + (units - share).abs()[None]


__all__ = ["start_scores", "start_sizes"]
