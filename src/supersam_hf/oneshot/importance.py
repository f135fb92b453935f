"""How much every unit matters: one pass over some batches, or none."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn

from ..bimask.submodules import Slice, Submodule


Method = Literal["taylor", "wanda", "magnitude", "random"]
Batch = Mapping[str, torch.Tensor]
Loss = Callable[[Any, Batch], torch.Tensor]
# (groups, units) of every submodule, by name.
Importance = dict[str, torch.Tensor]


def taylor(model: Any, submodules: Mapping[str, Submodule], batches: Iterable[Batch], loss: Loss) -> Importance:
    """By how much the loss changes, to first order, where a unit is left out: |Σ w · ∂L/∂w| over the weights that
    read it (for the embedding, over those that write it), mean over batches (Molchanov et al. 2019, per group as in
    Fang et al. 2023). Buffers, gradients and the mode of the model are left as they were.

    Raises:
        ValueError: If there is no batch.
    """
    total = _zeros(submodules)
    count = 0
    with plain(model):
        for batch in batches:
            loss(model, batch).backward()
            for name, submodule in submodules.items():
                total[name] += _of_units(submodule, _first_order(submodule), _contribution).abs()
            model.zero_grad(set_to_none=True)
            count += 1
    if not count:
        raise ValueError("Taylor importance needs images; there was no batch.")
    return {name: value / count for name, value in total.items()}


@torch.no_grad()
def wanda(model: Any, submodules: Mapping[str, Submodule], batches: Iterable[Batch], loss: Loss) -> Importance:
    """What a unit sends on: Σ |w| · ‖x‖₂ over the weights that read it, x its values at all tokens (Sun et al. 2023,
    as SuperSAM's Eq. 1 has it). The loss is computed for its forward alone.

    Raises:
        ValueError: If there is no batch.
    """
    norms: dict[nn.Module, torch.Tensor] = {}

    def add(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        squared = args[0].double().square().flatten(0, -2).sum(0)  # in double: sums over millions of tokens
        norms[module] = norms[module] + squared if module in norms else squared

    read = {piece.module for submodule in submodules.values() for piece in submodule.readers}
    handles = [module.register_forward_pre_hook(add) for module in read]
    try:
        with plain(model):
            for batch in batches:
                loss(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    if not norms:
        raise ValueError("Wanda needs images; there was no batch.")

    def saliency(weight: nn.Parameter, piece: Slice) -> torch.Tensor:
        return weight.double().abs() * norms[piece.module].sqrt()

    return {name: _of_units(submodule, submodule.readers, saliency) for name, submodule in submodules.items()}


@torch.no_grad()
def magnitude(submodules: Mapping[str, Submodule]) -> Importance:
    """L2 norm of all the weights that leave with a unit (Fang et al. 2023)."""

    def squared(weight: nn.Parameter, piece: Slice) -> torch.Tensor:
        return weight.double().square()

    found = {}
    for name, submodule in submodules.items():
        own = [piece for piece in submodule.sliced if piece.entries == "all"]
        found[name] = _of_units(submodule, own, squared).sqrt()
    return found


def random(submodules: Mapping[str, Submodule], seed: int) -> Importance:
    """Numbers drawn by `seed`: what any importance must beat."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(s.groups, s.units, generator=generator) for name, s in submodules.items()}


def _zeros(submodules: Mapping[str, Submodule]) -> Importance:
    return {name: torch.zeros(s.groups, s.units, dtype=torch.float64) for name, s in submodules.items()}


def _first_order(submodule: Submodule) -> list[Slice]:
    """Where the first-order effect of a unit is read off: each place once."""
    return submodule.folded if submodule.kind == "embedding" else submodule.readers


def _contribution(weight: nn.Parameter, piece: Slice) -> torch.Tensor:
    if weight.grad is None:  # a module that the loss does not reach
        return torch.zeros_like(weight)
    return (weight.detach() * weight.grad).double()


def _of_units(
    submodule: Submodule, pieces: list[Slice], value: Callable[[nn.Parameter, Slice], torch.Tensor]
) -> torch.Tensor:
    """Sum of `value` over all that a unit has in these parameters, (groups, units)."""
    units = submodule.groups * submodule.units
    total = torch.zeros(units, dtype=torch.float64)
    for piece in pieces:
        entries = value(getattr(piece.module, piece.name), piece).movedim(piece.dim, 0)
        # (copies * units, ...) -> (units,)
        total += entries.reshape(piece.copies, units, -1).sum((0, 2)).cpu()
    return total.view(submodule.groups, submodule.units)


@contextmanager
def plain(model: Any) -> Iterator[None]:
    """The model in evaluation mode, so that neither dropout nor drop path adds noise; without gradients before and
    after."""
    training = model.training
    model.eval()
    model.zero_grad(set_to_none=True)
    try:
        yield
    finally:
        model.zero_grad(set_to_none=True)
        model.train(training)


__all__ = ["Batch", "Importance", "Loss", "Method", "magnitude", "plain", "random", "taylor", "wanda"]
