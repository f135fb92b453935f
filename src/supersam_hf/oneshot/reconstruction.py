"""What stays takes over from what leaves: the reading linear is fitted anew by least squares, in closed form.

A unit that leaves takes its share of the output of the linear that reads it. Where the units that stay are correlated
with it, their columns can make up for most of that (channel pruning of He et al. 2017, ThiNet of Luo et al. 2017).
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from ..bimask.submodules import Submodule
from .importance import Batch, Loss, plain


# How strongly columns are held at what they were, as a share of the energy of their inputs: inputs that were hardly
# seen change hardly anything.
RIDGE = 1e-2
# Second moments of the inputs that are kept at a time; what does not fit takes another pass over the images.
MOST_BYTES = 2 * 10**9


class SecondMoments:
    """Σ x xᵀ of the inputs of linears over all tokens, with a 1 appended to x where the linear has a bias.

    Use as a context manager around forwards.

    Args:
        linears (`Iterable[nn.Linear]`): Whose inputs.

    Attributes:
        found (`dict[nn.Linear, torch.Tensor]`): (in_features [+ 1], in_features [+ 1]) each, in float32.
    """

    def __init__(self, linears: Iterable[nn.Linear]) -> None:
        self.linears = list(linears)
        self.found: dict[nn.Linear, torch.Tensor] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> "SecondMoments":
        self._handles = [linear.register_forward_pre_hook(self._add) for linear in self.linears]
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _add(self, linear: Any, args: tuple[torch.Tensor, ...]) -> None:
        inputs = args[0].detach().flatten(0, -2).float()  # (tokens, in_features)
        if linear.bias is not None:
            inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], 1)
        if linear in self.found:
            self.found[linear].addmm_(inputs.T, inputs)
        else:
            self.found[linear] = inputs.T @ inputs


@torch.no_grad()
def reconstruct(
    model: Any,
    submodules: Mapping[str, Submodule],
    kept: Mapping[str, torch.Tensor],
    batches: Iterable[Batch],
    loss: Loss,
) -> None:
    """Fits the linears that read pruned units so that the units that stay give the same outputs as all did, as nearly
    as they can on these images. To be done before the cut; submodules without a linear of their own (the embedding)
    are left alone.

    Args:
        kept (`dict[str, torch.Tensor]`): By submodule, the indices (kept units,) of what stays, over all groups.
        batches (`Iterable[dict]`): Read once for every `MOST_BYTES` of second moments.
        loss (`Callable`): Computed for its forward alone.
    """
    readers: dict[str, Any] = {
        name: one.readers[0].module for name, one in submodules.items() if len(one.readers) == 1
    }
    for names in _portions(readers):
        with plain(model), SecondMoments([readers[name] for name in names]) as moments:
            for batch in batches:
                loss(model, batch)
        for name in names:
            linear: Any = readers[name]
            fit(linear, moments.found[linear], kept[name].to(linear.weight.device))


@torch.no_grad()
def fit(linear: nn.Linear, moments: torch.Tensor, kept: torch.Tensor, ridge: float = RIDGE) -> None:
    """Replaces the kept columns of a linear, and its bias, by those whose outputs come nearest, in least squares, to
    what all columns gave. The other columns are left for the cut.

    Args:
        moments (`torch.Tensor`): Σ x xᵀ of its inputs, see [`SecondMoments`].
        kept (`torch.Tensor` (kept,)): Indices of the columns that stay.
        ridge (`float`): Weight of the distance to the columns as they were, as a share of Σ x².
    """
    weight, index = linear.weight, kept
    if linear.bias is not None:
        weight = torch.cat([weight, linear.bias[:, None]], 1)
        index = torch.cat([kept, kept.new_tensor([weight.shape[1] - 1])])
    moments, wanted = moments.double(), weight.double()  # (out, in)
    held = ridge * moments.diagonal()[index].clamp(min=1e-12)
    left = moments[index][:, index] + torch.diag(held)
    right = moments[index] @ wanted.T + held[:, None] * wanted[:, index].T
    fitted = torch.linalg.solve(left, right).T.to(linear.weight.dtype)  # (out, kept [+ 1])
    linear.weight[:, kept] = fitted[:, : len(kept)]
    if linear.bias is not None:
        linear.bias.copy_(fitted[:, -1])


def _portions(readers: Mapping[str, Any]) -> list[list[str]]:
    """Names, in portions whose second moments fit into `MOST_BYTES`; one at least."""
    portions: list[list[str]] = []
    room = 0
    for name, linear in readers.items():
        needed = 4 * (linear.in_features + 1) ** 2
        if needed > room or not portions:
            portions.append([])
            room = MOST_BYTES
        portions[-1].append(name)
        room -= needed
    return portions


__all__ = ["RIDGE", "SecondMoments", "fit", "reconstruct"]
