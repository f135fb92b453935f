"""Intersection over union of masks as tensors."""

import torch


def mask_iou(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Intersection over union of each pair of masks; 0 where both are empty, as in pycocotools: nothing was found.

    Args:
        prediction (`torch.Tensor`): bool (..., height, width).
        target (`torch.Tensor`): bool, of a shape that broadcasts to the same.

    Returns:
        `torch.Tensor`: float32 (...).

    Raises:
        ValueError: If a tensor is not boolean (logits and uint8 masks give nonsense in silence).
    """
    if prediction.dtype != torch.bool or target.dtype != torch.bool:
        raise ValueError(
            f"`prediction` and `target` must be boolean masks, got {prediction.dtype} and {target.dtype}."
        )
    intersection = (prediction & target).sum(dim=(-2, -1)).float()
    union = (prediction | target).sum(dim=(-2, -1)).float()
    return intersection / union.clamp(min=1)
