"""All masks of one kind at once: a few operations a step for them together instead of some for each."""

from dataclasses import dataclass

import torch

from .scores import BiMask, bimask, first_option, probabilities, ranks, sparsity


@dataclass(frozen=True)
class StackValues:
    """Scores of M masks, padded to the largest groups, units and cells among them; a padded unit has 0 everywhere.

    Args:
        importance (`torch.Tensor` (M, G, U)): S.
        probabilities (`torch.Tensor` (M, R * C)): p.
        sparsity (`torch.Tensor` (M, G, U)): V.
        masks (`tuple[torch.Tensor, ...]`): m of every mask, (its groups * its units), without padding.
    """

    importance: torch.Tensor
    probabilities: torch.Tensor
    sparsity: torch.Tensor
    masks: tuple[torch.Tensor, ...]


class MaskStack:
    """Masks of one kind as they stand: to be built anew when one of them was cut or lost cells.

    Everything that depends on sizes and live cells alone is prepared here, once; building waits for the device.

    Args:
        masks (`list[BiMask]`): One or more.

    Attributes:
        live (`torch.Tensor` (M, R * C), bool): Cells that are still options.
        undecided (`torch.Tensor` (M,)): 1 where a mask has several, else 0; in the scores' dtype.
        cells (`torch.Tensor` (M,)): How many.
    """

    def __init__(self, masks: list[BiMask]) -> None:
        self.masks, self._how = masks, (masks[0].ordinal, masks[0].shared_units)
        device, dtype = masks[0].score.device, masks[0].score.dtype
        self._units = _Padding([mask.score.shape for mask in masks], device)
        self._cells = _Padding([mask.alpha.shape for mask in masks], device)
        live = torch.cat([mask.live.flatten() for mask in masks])
        self._live = self._cells.pad(live, False)  # (M, R, C)
        self.live = self._live.flatten(1)
        self.cells = self.live.sum(1)
        self.undecided = (self.cells > 1).to(dtype)
        groups, units = self._units.shape[1:]
        # a padded place has option 0, and no effect
        self._options = (
            _stack_options([mask.group_sizes for mask in masks], groups, device),
            _stack_options([mask.unit_sizes for mask in masks], units, device),
        )
        self._seen = [(mask.live, mask.live._version) for mask in masks]

    def is_current(self) -> bool:
        """Whether every mask has the sizes and live cells with which the stack was built."""
        # every cut puts a new tensor in the place of `live`; PyTorch counts the changes in place
        seen = zip(self.masks, self._seen)
        return all(mask.live is live and live._version == version for mask, (live, version) in seen)

    def evaluate(self, lam: float) -> StackValues:
        """Eq. 3 and 4 for all masks.

        Args:
            lam (`float`): Weight of the importance score.
        """
        scores = torch.cat([mask.score.flatten() for mask in self.masks])
        alphas = torch.cat([mask.alpha.flatten() for mask in self.masks])
        importance = self._units.pad(scores, -torch.inf).sigmoid()
        p = probabilities(self._cells.pad(alphas, -torch.inf), self._live)
        v = sparsity(p, self._options, ranks(importance, *self._how)) * self._units.real
        masks = self._units.unpad(bimask(importance, v, lam))
        return StackValues(importance, p.flatten(1), v, masks)


class _Padding:
    """From matrices of several sizes, one after the other in a vector, to a stack (M, rows, columns) and back."""

    def __init__(self, sizes: list[torch.Size], device: torch.device) -> None:
        self._numbers = [size.numel() for size in sizes]
        rows, columns = (max(size[dim] for size in sizes) for dim in (0, 1))
        self.shape = len(sizes), rows, columns
        total = sum(self._numbers)
        # entry of the vector by place in the stack; one past its end for padding
        index = torch.full(self.shape, total)
        start = 0
        for plane, size in zip(index, sizes):
            plane[: size[0], : size[1]] = torch.arange(start, start + size.numel()).view(size)
            start += size.numel()
        self.real = (index < total).to(device)
        self._whole = bool((index < total).all())
        self._index = index.flatten().to(device)
        self._back = (index < total).flatten().nonzero().flatten().to(device)

    def pad(self, values: torch.Tensor, padding: float | bool) -> torch.Tensor:
        """(sum of all sizes) to (M, rows, columns)."""
        if self._whole:
            return values.view(self.shape)
        padded = torch.cat([values, values.new_full((1,), padding)])
        return padded.index_select(0, self._index).view(self.shape)

    def unpad(self, stacked: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(M, rows, columns) to M vectors (its rows * its columns)."""
        values = stacked.flatten()
        return (values if self._whole else values.index_select(0, self._back)).split(self._numbers)


def _stack_options(sizes: list[list[int]], places: int, device: torch.device) -> torch.Tensor:
    """First option that holds each place, (M, places)."""
    stacked = torch.zeros(len(sizes), places, dtype=torch.long, device=device)
    for row, options in zip(stacked, sizes):
        row[: options[-1]] = first_option(options, device)
    return stacked


__all__ = ["MaskStack", "StackValues"]
