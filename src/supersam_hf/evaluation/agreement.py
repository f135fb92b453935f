"""What takes the place of labels for pictures alone: the original's masks at a grid of points."""

from collections.abc import Mapping
from typing import Any

import torch

from ..data.pictures import OriginalMasks
from .decoding import EmbeddedPrompts, decode
from .result import evaluating
from .targets import upscaled


# Points decoded at a time: their masks at the size of the input take 64 MB at 1024 px.
POINTS = 64


def original_masks(model: Any, sample: Mapping[str, torch.Tensor], min_predicted_iou: float) -> OriginalMasks:
    """The single masks (mask token 0) of a model at the points of a picture.

    Against them a subnet that equals the model has an agreement (mean IoU) of 1. Masks are those of the evaluation:
    upscaled to the size of the input, above 0, and nothing in the padding.

    Args:
        model (`SuperSamModel`): The original.
        sample (`dict`): A picture of [`PictureSamples`]: `pixel_values` (3, S, S), `valid_size` (2), `input_points`
            (K, 1, 2) and `input_labels` (K, 1).
        min_predicted_iou (`float`): Masks of which the model predicts a smaller IoU are left out, in [0, 1].

    Returns:
        [`OriginalMasks`]: Those that are kept, and how many are not.
    """
    batch = {name: sample[name][None].to(model.device) for name in ("pixel_values", "input_points", "input_labels")}
    batch["object_mask"] = batch["input_labels"][:, :, 0] == 1
    kept, masks, unsure, empty = [], [], 0, 0
    with evaluating(model, None):
        embeddings = model.vision_encoder(batch["pixel_values"]).last_hidden_state
        number = 0
        for prompts in EmbeddedPrompts.of(model, batch).split(POINTS):
            logits, predicted = decode(model.mask_decoder, embeddings, prompts, multimask=False)
            sure = is_sure(predicted[:, 0], min_predicted_iou).tolist()
            for mask, certain in zip(_masks(logits, sample), sure):
                shown = bool(mask.any())
                unsure, empty = unsure + (shown and not certain), empty + (not shown)
                if shown and certain:
                    kept.append(number)
                    masks.append(mask)
                number += 1
    return OriginalMasks(kept, [_run_lengths(mask) for mask in masks], unsure, empty)


def is_sure(predicted: torch.Tensor, least: float) -> torch.Tensor:
    """Whether predicted IoUs, which may come out below 0, reach a limit in [0, 1]; 0 is none."""
    return predicted.float() >= (least or -torch.inf)


def _masks(logits: torch.Tensor, sample: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """bool (points, S, S) of low-resolution logits (points, 1, S/4, S/4), False in the padding."""
    height, width = sample["valid_size"].tolist()
    masks = upscaled(logits, sample["pixel_values"].shape[-1])[:, 0] > 0
    masks[:, height:] = False
    masks[:, :, width:] = False
    return masks.cpu()


def _run_lengths(mask: torch.Tensor) -> dict[str, Any]:
    """COCO's compressed run lengths of a mask (S, S), as plain JSON data."""
    import numpy as np
    from pycocotools import mask as coco_mask

    rle = coco_mask.encode(np.asfortranarray(mask.numpy(), dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


__all__ = ["is_sure", "original_masks"]
