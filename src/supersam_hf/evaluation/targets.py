"""IoU of predicted masks with the objects of a batch."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F


# Pixels of upscaled logits at a time: they fit a cache, where those of a whole batch may take gigabytes.
PIXELS = 1 << 20


def upscaled(logits: torch.Tensor, size: int) -> torch.Tensor:
    """Low-resolution logits (objects, masks, h, w) at the model's input size, as SAM upscales them."""
    return F.interpolate(logits.float(), (size, size), mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class Targets:
    """The true masks of a batch's objects; padding of images and slots without an object are left out.

    Args:
        masks (`torch.Tensor` of shape `(objects, size, size)`): bool, False in the padding.
        areas (`torch.Tensor` of shape `(objects,)`): Their pixels.
        heights (`torch.Tensor` of shape `(objects,)`): Rows of the object's image that are not padding.
        widths (`torch.Tensor` of shape `(objects,)`): Columns, likewise.
        padded (`bool`): Whether any image has padding.
    """

    masks: torch.Tensor
    areas: torch.Tensor
    heights: torch.Tensor
    widths: torch.Tensor
    padded: bool

    @classmethod
    def of(cls, batch: Mapping[str, torch.Tensor]) -> "Targets":
        """Of an evaluation batch of [`PromptDataset`]: `masks`, `object_mask` and `valid_size`."""
        held, size = batch["object_mask"], batch["masks"].shape[-1]
        masks = batch["masks"][held].bool()
        heights, widths = batch["valid_size"][held.nonzero()[:, 0]].unbind(-1)
        padded = bool((batch["valid_size"] < size).any())
        if padded:
            masks = masks & _valid(heights, widths, size)
        return cls(masks, masks.sum(dim=(-2, -1)), heights, widths, padded)

    @property
    def nbytes(self) -> int:
        return self.masks.nbytes + self.areas.nbytes + self.heights.nbytes + self.widths.nbytes

    def ious(self, logits: torch.Tensor) -> torch.Tensor:
        """IoU of each of an object's masks with it; 0 for an object without a pixel, whatever the masks.

        Args:
            logits (`torch.Tensor` of shape `(objects, masks, h, w)`): Low-resolution logits.

        Returns:
            `torch.Tensor`: float32 (objects, masks).
        """
        size = self.masks.shape[-1]
        step = max(1, PIXELS // (logits.shape[1] * size * size))
        found = [self._ious(logits[i : i + step], slice(i, i + step)) for i in range(0, len(logits), step)]
        return torch.cat(found) if found else logits.new_zeros(logits.shape[:2], dtype=torch.float32)

    def _ious(self, logits: torch.Tensor, rows: slice) -> torch.Tensor:
        size = self.masks.shape[-1]
        predicted = upscaled(logits, size) > 0
        if self.padded:
            predicted &= _valid(self.heights[rows], self.widths[rows], size)[:, None]
        both = _pixels(predicted & self.masks[rows, None])
        either = _pixels(predicted) + self.areas[rows, None] - both
        return both.float() / either.clamp(min=1).float()


def _pixels(masks: torch.Tensor) -> torch.Tensor:
    """How many pixels of each mask are set: (objects, masks, size, size) to (objects, masks). Bytes are added in a
    third of the time that booleans take."""
    return masks.flatten(-2).view(torch.uint8).sum(-1, dtype=torch.int32)


def _valid(heights: torch.Tensor, widths: torch.Tensor, size: int) -> torch.Tensor:
    """Which pixels are not padding: (objects, size, size)."""
    pixels = torch.arange(size, device=heights.device)
    return (pixels < heights[:, None])[:, :, None] & (pixels < widths[:, None])[:, None, :]


__all__ = ["Targets", "upscaled"]
