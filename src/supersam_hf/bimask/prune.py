"""Physical surgery: units leave weights, scores, architecture parameters and optimiser moments; masks fold in."""

from typing import Any

import torch
from torch import nn

from .masking import MaskedModel
from .scores import BiMask
from .submodules import Submodule


def cut_to_live(masked: MaskedModel, optimizer: torch.optim.Optimizer | None = None) -> list[str]:
    """Cuts every submodule to what its live cells hold; returns the names of those that became smaller."""
    changed = []
    for name, mask in masked.masks.items():
        groups, units = mask.live_sizes()
        if (groups, units) != (mask.groups, mask.units):
            cut(masked.submodules[name], mask, *mask.kept(groups, units), optimizer)
            changed.append(name)
    return changed


def cut(
    submodule: Submodule,
    mask: BiMask,
    kept_groups: torch.Tensor,
    kept_units: torch.Tensor,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    cells: bool = True,
) -> None:
    """Keeps these units of a submodule and no others.

    Args:
        kept_groups (`torch.Tensor` (g,)): Indices of the groups that stay.
        kept_units (`torch.Tensor` (g, u)): For each of them, indices of the units that stay, as many for every group.
        optimizer (`torch.optim.Optimizer`, *optional*): The moments of what stays are kept as they are.
        cells (`bool`): Whether options that are too large, or dead, leave the mask too.
    """
    cut_weights(submodule, (mask.groups, mask.units), kept_groups, kept_units, optimizer)
    groups, units = kept_units.shape
    select(mask, "score", 0, kept_groups, optimizer)
    _gather(mask, "score", kept_units, optimizer)
    if cells:
        _cut_cells(mask, groups, units, optimizer)


def cut_weights(
    submodule: Submodule,
    size: tuple[int, int],
    kept_groups: torch.Tensor,
    kept_units: torch.Tensor,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Keep these units in the weights of a submodule and no others; arguments as of [`cut`].

    Args:
        size (`tuple[int, int]`): Groups, and units of a group, before the cut.
    """
    groups, units = kept_units.shape
    index = flat_indices(size[1], kept_groups, kept_units)
    for piece in submodule.sliced:
        copies = torch.arange(piece.copies, device=index.device)[:, None] * (size[0] * size[1])
        entries = {"all": (copies + index).flatten(), "groups": kept_groups, "units": kept_units[0]}
        select(piece.module, piece.name, piece.dim, entries[piece.entries], optimizer)
        _update_sizes(piece.module)
    if submodule.resized is not None:
        submodule.resized(groups, units)


def flat_indices(units: int, kept_groups: torch.Tensor, kept_units: torch.Tensor) -> torch.Tensor:
    """Places (g * u,) of the units that stay among all units of all groups.

    Args:
        units (`int`): Units of a group before the cut.
    """
    return (kept_groups[:, None] * units + kept_units).flatten()


def resize(
    submodule: Submodule,
    mask: BiMask,
    group_sizes: list[int],
    unit_sizes: list[int],
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Gives a submodule that is still whole the sizes and options of one that was cut; values are to be loaded after.

    Raises:
        ValueError: If it would have to grow.
    """
    groups, units = group_sizes[-1], unit_sizes[-1]
    if groups > mask.groups or units > mask.units or len(group_sizes) > mask.live.shape[0]:
        raise ValueError(f"`{submodule.name}` cannot grow from {mask.groups} x {mask.units} to {groups} x {units}.")
    device = mask.live.device
    kept_units = torch.arange(units, device=device).expand(groups, units).contiguous()
    cut(submodule, mask, torch.arange(groups, device=device), kept_units, optimizer, cells=False)
    for dim, sizes, wanted in ((0, mask.group_sizes, group_sizes), (1, mask.unit_sizes, unit_sizes)):
        index = torch.arange(len(wanted), device=device)
        select(mask, "alpha", dim, index, optimizer)
        mask.live = mask.live.index_select(dim, index)
        sizes[:] = wanted


def _cut_cells(mask: BiMask, groups: int, units: int, optimizer: torch.optim.Optimizer | None) -> None:
    """Options larger than what is left go, and so do those that no live cell uses."""
    for dim, sizes, largest in ((0, mask.group_sizes, groups), (1, mask.unit_sizes, units)):
        used = mask.live.any(1 - dim).tolist()
        keep = [i for i, size in enumerate(sizes) if size == largest or (size < largest and used[i])]
        index = torch.tensor(keep, device=mask.live.device)
        select(mask, "alpha", dim, index, optimizer)
        mask.live = mask.live.index_select(dim, index)
        sizes[:] = [sizes[i] for i in keep]


def select(
    module: nn.Module, name: str, dim: int, index: torch.Tensor, optimizer: torch.optim.Optimizer | None
) -> None:
    """Replaces a parameter, and its optimiser state, by these entries of one dimension."""
    old = getattr(module, name)
    _replace(module, name, optimizer, lambda tensor: tensor.index_select(dim, index), old)


def _gather(module: nn.Module, name: str, index: torch.Tensor, optimizer: torch.optim.Optimizer | None) -> None:
    """Replaces a parameter (G, U), and its optimiser state, by chosen entries of every row."""
    _replace(module, name, optimizer, lambda tensor: tensor.gather(1, index), getattr(module, name))


def _replace(module: nn.Module, name: str, optimizer: Any, keep: Any, old: nn.Parameter) -> None:
    """A new Parameter, not new data in the old one: DDP and autograd hold on to the old one's shape."""
    new = nn.Parameter(keep(old.detach()).contiguous(), requires_grad=old.requires_grad)
    if old.grad is not None:
        new.grad = keep(old.grad).contiguous()
    setattr(module, name, new)
    if optimizer is None:
        return
    for group in optimizer.param_groups:
        group["params"] = [new if parameter is old else parameter for parameter in group["params"]]
    state = optimizer.state.pop(old, None)
    if state is not None:
        alike = {key: keep(value).contiguous() for key, value in state.items() if _is_alike(value, old)}
        optimizer.state[new] = {**state, **alike}


def _is_alike(value: Any, parameter: torch.Tensor) -> bool:
    return isinstance(value, torch.Tensor) and value.shape == parameter.shape


def _update_sizes(module: nn.Module) -> None:
    """What the module says of its own sizes, in repr and to those that read it."""
    if isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.Conv2d):
        module.out_channels, module.in_channels = module.weight.shape[:2]


@torch.no_grad()
def fold(masked: MaskedModel) -> None:
    """Multiplies the masks into the weights, exactly, and leaves them at 1: `masked.model` alone then computes what
    the masked model computed. The masks must be decided and cut."""
    for name, mask in masked.masks.items():
        submodule, value = masked.submodules[name], mask(masked.lam).flatten()
        for piece in submodule.folded:
            parameter = getattr(piece.module, piece.name)
            shape = [1] * parameter.dim()
            shape[piece.dim] = -1
            parameter.mul_(value.repeat(piece.copies).view(shape).to(parameter.dtype))


__all__ = ["cut", "cut_to_live", "cut_weights", "flat_indices", "fold", "resize", "select"]
