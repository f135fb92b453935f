"""Importance score S, sparsity score V and bi-mask m of submodules (OFB, Eq. 3 and 4).

The functions take one submodule or, with more dimensions in front, several of one padded size at once (`stack.py`).
"""

from collections.abc import Sequence

import torch
from torch import nn


class BiMask(nn.Module):
    """The learned prunability of a submodule's units: `groups` (heads; 1 elsewhere) of `units` (channels) each.

    Every cell (i, j) of the search space stands for keeping `group_sizes[i]` groups of `unit_sizes[j]` units. V of a
    unit is the probability that it is kept: the sum of p over the cells that hold it, units and groups being taken in
    the order of their importance, the most important first (Eq. 4, with the sizes of the option lists themselves).

    Args:
        groups (`int`): Number of groups G.
        units (`int`): Units in a group U.
        group_sizes (`Sequence[int]`): R options for the number of groups, ascending, the last one `groups`.
        unit_sizes (`Sequence[int]`): C options for the units in a group, ascending, the last one `units`.
        generator (`torch.Generator`, *optional*): Draws scores and architecture parameters.
        score_mean (`float`): Mean of the initial scores before the sigmoid; 3.0 keeps 95 % of every unit.
        score_std (`float`): Their standard deviation.
        ordinal (`bool`): Ranks are the units' indices instead of their importance (ordinal weight sharing).
        shared_units (`bool`): All groups keep the same units: a unit's importance is its sum over the groups.

    Attributes:
        score (`nn.Parameter` (G, U)): Importance before the sigmoid.
        alpha (`nn.Parameter` (R, C)): Architecture parameters, U(0, 1) at first.
        live (`torch.Tensor` (R, C), bool): Cells that are still options.
    """

    score: nn.Parameter
    alpha: nn.Parameter
    live: torch.Tensor

    def __init__(
        self,
        groups: int,
        units: int,
        group_sizes: Sequence[int],
        unit_sizes: Sequence[int],
        *,
        generator: torch.Generator | None = None,
        score_mean: float = 3.0,
        score_std: float = 0.2,
        ordinal: bool = False,
        shared_units: bool = False,
    ) -> None:
        super().__init__()
        for name, sizes, full in (("group_sizes", group_sizes, groups), ("unit_sizes", unit_sizes, units)):
            if list(sizes) != sorted(set(sizes)) or not sizes or sizes[0] < 1 or sizes[-1] != full:
                raise ValueError(f"`{name}` must ascend from 1 or more to {full}, got {list(sizes)}.")
        self.group_sizes, self.unit_sizes = list(group_sizes), list(unit_sizes)
        self.ordinal, self.shared_units = ordinal, shared_units
        shape = len(group_sizes), len(unit_sizes)
        self.score = nn.Parameter(score_mean + score_std * torch.randn(groups, units, generator=generator))
        self.alpha = nn.Parameter(torch.rand(shape, generator=generator))
        self.register_buffer("live", torch.ones(shape, dtype=torch.bool))

    @property
    def groups(self) -> int:
        return self.score.shape[0]

    @property
    def units(self) -> int:
        return self.score.shape[1]

    @property
    def decided(self) -> bool:
        """Whether one cell is left."""
        return int(self.live.sum()) == 1

    def probabilities(self) -> torch.Tensor:
        """p (R, C): softmax of alpha over the live cells, 0 for the others."""
        return probabilities(self.alpha, self.live)

    def importance(self) -> torch.Tensor:
        """S (G, U) in (0, 1)."""
        return self.score.sigmoid()

    def ranks(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Place of every group (G) and of every unit within its group (G, U), see [`ranks`]."""
        return ranks(self.importance(), self.ordinal, self.shared_units)

    def sparsity(self) -> torch.Tensor:
        """V (G, U) in [0, 1]: Eq. 4."""
        device = self.score.device
        options = (first_option(self.group_sizes, device), first_option(self.unit_sizes, device))
        return sparsity(self.probabilities(), options, self.ranks())

    def forward(self, lam: float) -> torch.Tensor:
        """m (G, U), see [`bimask`].

        Args:
            lam (`float`): Weight of the importance score, 1 at the beginning of a search and 0 at its end.
        """
        return bimask(self.importance(), self.sparsity(), lam)

    @torch.no_grad()
    def drop_cells(self, eta: float) -> bool:
        """Removes the cells with p <= eta times the mean of the live ones (OFB, Alg. 1); tells whether there were any.
        The most probable cell always stays."""
        p = self.probabilities()
        dropped = self.live & (p <= eta / self.live.sum()) & (p < p.max())
        self.live &= ~dropped
        return bool(dropped.any())

    @torch.no_grad()
    def settle(self) -> None:
        """Decides for the size that there is: only the cell that holds everything stays."""
        self.live.zero_()
        self.live[-1, -1] = True

    def live_sizes(self) -> tuple[int, int]:
        """The largest number of groups, and of units in a group, that any live cell holds."""
        rows, columns = self.live.any(1), self.live.any(0)
        return self.group_sizes[int(rows.nonzero()[-1])], self.unit_sizes[int(columns.nonzero()[-1])]

    def kept(self, groups: int, units: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Indices of the `groups` most important groups (groups) and, in each, of its `units` most important units
        (groups, units), both ascending."""
        group_place, unit_place = self.ranks()
        kept_groups = (group_place < groups).nonzero().flatten()
        kept_units = (unit_place[kept_groups] < units).nonzero()[:, 1].view(groups, units)
        return kept_groups, kept_units


def probabilities(alpha: torch.Tensor, live: torch.Tensor) -> torch.Tensor:
    """p (..., R, C): softmax of alpha over the live cells, 0 for the others."""
    return alpha.masked_fill(~live, -torch.inf).flatten(-2).softmax(-1).view_as(alpha)


def ranks(
    importance: torch.Tensor, ordinal: bool = False, shared_units: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Place of every group (..., G) and of every unit within its group (..., G, U), 0 for the most important; ties by
    index. A group's importance is the sum of its units'. No gradient passes.

    Args:
        importance (`torch.Tensor` (..., G, U)): S.
        ordinal (`bool`): Places are the indices.
        shared_units (`bool`): A unit has the same place in every group, by the sum over the groups.
    """
    importance = importance.detach()
    totals = importance.sum(-1)
    if shared_units:
        importance = importance.sum(-2, keepdim=True).expand_as(importance)
    if ordinal:
        return _indices(totals), _indices(importance)
    return _places(totals), _places(importance)


def sparsity(
    p: torch.Tensor, options: tuple[torch.Tensor, torch.Tensor], places: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    """V (..., G, U): for every unit the sum of p over the cells that hold it (Eq. 4).

    Args:
        p (`torch.Tensor` (..., R, C)): Probabilities of the cells.
        options (`tuple`): First option that holds the place, by place: of groups (..., G) and of units (..., U).
        places (`tuple`): From [`ranks`].
    """
    # tail[..., i, j]: sum of p over all cells at least as large in both dimensions
    tail = p.flip(-2, -1).cumsum(-2).cumsum(-1).flip(-2, -1)
    group_place, unit_place = places
    row = options[0].gather(-1, group_place).unsqueeze(-1)  # (..., G, 1)
    column = options[1].unsqueeze(-2).expand_as(unit_place).gather(-1, unit_place)  # (..., G, U)
    cell = row * tail.shape[-1] + column
    # (..., R * C) by (..., G * U) -> (..., G, U)
    return tail.flatten(-2).gather(-1, cell.flatten(-2)).view_as(cell)


def bimask(importance: torch.Tensor, sparsity: torch.Tensor, lam: float) -> torch.Tensor:
    """m = lam S + (1 - lam) V, Eq. 3; 0 for units that no live cell holds."""
    return (lam * importance + (1 - lam) * sparsity) * (sparsity > 0)


def first_option(sizes: list[int], device: torch.device) -> torch.Tensor:
    """For each place 0 ... sizes[-1] - 1: the first option that holds it, i.e. whose size is larger than the place."""
    places = torch.arange(sizes[-1], device=device)
    return torch.searchsorted(torch.tensor(sizes, device=device), places, right=True)


def _places(values: torch.Tensor) -> torch.Tensor:
    """Rank of every value along the last dimension, 0 for the highest, ties by index."""
    order = values.argsort(dim=-1, descending=True, stable=True)
    return torch.empty_like(order).scatter_(-1, order, _indices(values))


def _indices(values: torch.Tensor) -> torch.Tensor:
    """0, 1, ... along the last dimension."""
    return torch.arange(values.shape[-1], device=values.device).expand_as(values)


__all__ = ["BiMask", "bimask", "first_option", "probabilities", "ranks", "sparsity"]
