"""What a network in the middle of a search costs: physically, and as the differentiable g(V) of the paper."""

from typing import Any

import torch

from .families import family_of
from .families.base import options
from .masking import MaskedModel
from .space import SearchSpace
from .stack import StackValues
from .submodules import kind_of


def physical_shape(model: Any) -> Any:
    """The sizes that a model's weights have, which during a search are smaller than its config says."""
    return family_of(model).physical_shape(model)


def smallest_shape(shape: Any, space: SearchSpace) -> Any:
    """The smallest network that the search can reach."""
    family, smallest = family_of(shape), {}
    for name, size in family.sizes(shape).items():
        groups, units = options(space, name, size)
        smallest[name] = groups[0], units[0]
    return family.resized(shape, smallest)


def number_of_networks(shape: Any, space: SearchSpace) -> int:
    """How many networks the search chooses from."""
    total = 1
    for name, size in family_of(shape).sizes(shape).items():
        groups, units = options(space, name, size)
        total *= len(groups) * len(units)
    return total


def soft_cost(masked: MaskedModel, kind: str, values: dict[str, StackValues] | None = None) -> torch.Tensor:
    """g(V) of a masked model, in MACs or parameters.

    Args:
        kind (`str`): "macs" or "params".
        values (`dict`, *optional*): What the masks' scores are, from [`MaskedModel.evaluate`] or a forward.
    """
    shape = physical_shape(masked.model)
    values = masked.evaluate() if values is None else values
    sums = {name: _sums(masked, values.get(name), whole) for name, whole in _whole(shape).items()}
    return torch.as_tensor(_count(shape, kind)(shape, **sums))


def full_cost(shape: Any, kind: str) -> float:
    """g(V) at V = 1."""
    whole = {name: torch.tensor([*sizes.values()], dtype=torch.float64) for name, sizes in _whole(shape).items()}
    return float(_count(shape, kind)(shape, **whole))


def _whole(shape: Any) -> dict[str, dict[str, int]]:
    """Units of every submodule, by kind and name."""
    found: dict[str, dict[str, int]] = {}
    for name, (groups, units) in family_of(shape).sizes(shape).items():
        found.setdefault(kind_of(name), {})[name] = groups * units
    return found


def _sums(masked: MaskedModel, value: StackValues | None, whole: dict[str, int]) -> torch.Tensor:
    """Sums of V over every submodule of a kind; those that are not searched have their full size."""
    searched = [place for place, name in enumerate(whole) if name in masked.submodules]
    if value is not None and len(searched) == len(whole):
        return value.sparsity.sum((-2, -1))
    sums = torch.tensor([float(size) for size in whole.values()], device=masked.device)
    if value is None:
        return sums
    places = torch.tensor(searched, device=masked.device)
    return sums.index_copy(0, places, value.sparsity.sum((-2, -1)).to(sums.dtype))


def _count(shape: Any, kind: str) -> Any:
    family = family_of(shape)
    return family.soft_macs if kind == "macs" else family.soft_parameters


__all__ = ["full_cost", "number_of_networks", "physical_shape", "smallest_shape", "soft_cost"]
