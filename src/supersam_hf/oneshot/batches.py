"""What importance is measured on: a few training batches, and the loss of the task."""

from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from ..training.losses import LossArguments, mask_loss
from ..training.sandwich import predict
from .importance import Batch


def calibration_batches(loader: DataLoader, num_images: int, device: torch.device) -> list[Batch]:
    """The first `num_images` images of a loader, or all that it has, batch by batch, on a device."""
    found: list[Batch] = []
    left = num_images
    for batch in loader:
        found.append({name: value[:left].to(device) for name, value in batch.items()})
        left -= len(batch["pixel_values"])
        if left <= 0:
            break
    return found


def class_loss(model: Any, batch: Batch) -> torch.Tensor:
    """Cross-entropy of a classifier on a batch of `pixel_values` and `labels`."""
    return F.cross_entropy(model(pixel_values=batch["pixel_values"]).logits.float(), batch["labels"])


def prompt_loss(model: Any, batch: Batch) -> torch.Tensor:
    """Dice loss (SuperSAM, Eq. 2) of a SAM's masks for the prompts of a batch from `data.PromptDataset`."""
    outputs = predict(model, dict(batch), None)
    logits, scores = outputs.pred_masks[:, :, 0], outputs.iou_scores[:, :, 0]
    return mask_loss(logits, scores, batch["low_res_masks"], LossArguments(), None)


def forward_only(model: Any, batch: Batch) -> torch.Tensor:
    """A pass of pictures without labels through the image encoder: for Wanda and the refit, which look at what goes
    through; its gradient says nothing."""
    return model.get_image_embeddings(batch["pixel_values"]).square().mean()


__all__ = ["calibration_batches", "class_loss", "forward_only", "prompt_loss"]
