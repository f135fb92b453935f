"""The losses of promptable segmentation training."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..fields import Checked, ClosedUnitInterval, NonNegative
from ..metrics.iou import mask_iou


def dice_loss(probability: torch.Tensor, target: torch.Tensor, squared: bool = False) -> torch.Tensor:
    """SuperSAM Eq. 2: `1 − 2 |GT ∩ Pred| / (|GT| + |Pred|)`, one value a mask.

    Args:
        probability, target (`torch.Tensor` of shape `(..., height, width)`): In [0, 1].
        squared (`bool`): Square both sums of the denominator, as the released code does.
    """
    intersection = (probability * target).sum((-2, -1))
    if squared:
        probability, target = probability.square(), target.square()
    total = probability.sum((-2, -1)) + target.sum((-2, -1))
    return 1 - (2 * intersection + 1e-6) / (total + 1e-6)


@dataclass
class LossArguments(Checked):
    """Weights of the loss terms. The defaults are the paper's: Dice alone."""

    dice_squared: bool = False
    """Square the denominator of the Dice loss, as the released code does."""
    bce_weight: NonNegative = 0.0
    """Weight of binary cross-entropy beside Dice; 1 helps a model that starts from nothing."""
    iou_weight: NonNegative = 0.0
    """Weight of the squared error of the predicted IoU, which keeps the IoU head honest."""
    distillation_weight: ClosedUnitInterval = 0.0
    """Share of the subnets' loss whose target is the largest subnet's masks (in-place distillation), 0 to 1."""
    original_mask_weight: NonNegative = 0.0
    """With `data.format: images`, weight of the loss against the original's masks at random points, beside the squared
    error of its embeddings."""


def mask_loss(
    logits: torch.Tensor,
    iou_scores: torch.Tensor,
    target: torch.Tensor,
    args: LossArguments,
    teacher: torch.Tensor | None = None,
) -> torch.Tensor:
    """Loss of single masks, averaged over all objects of the batch.

    Args:
        logits (`torch.Tensor` of shape `(batch, prompts, height, width)`): Low-resolution mask logits.
        iou_scores (`torch.Tensor` of shape `(batch, prompts)`): Predicted IoU.
        target (`torch.Tensor`, as `logits`): Ground truth, 0 or 1.
        teacher (`torch.Tensor`, as `logits`, *optional*): The largest subnet's logits.
    """
    logits, target = logits.float(), target.float()
    loss = dice_loss(logits.sigmoid(), target, args.dice_squared)
    if args.bce_weight:
        bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((-2, -1))
        loss = loss + args.bce_weight * bce
    if teacher is not None and args.distillation_weight:
        imitation = dice_loss(logits.sigmoid(), teacher.float().sigmoid().detach(), squared=True)
        loss = (1 - args.distillation_weight) * loss + args.distillation_weight * imitation
    if args.iou_weight:
        with torch.no_grad():
            actual = mask_iou(logits > 0, target > 0.5)
        loss = loss + args.iou_weight * (iou_scores.float() - actual).square()
    return loss.mean()
