"""Masks of several models on the same images, for a person to look at."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..data import collate
from ..evaluation import PROMPTS, Targets, upscaled
from ..models.supersam import Subnet


@torch.inference_mode()
def overlay_samples(
    dataset: Any,
    models: Mapping[str, tuple[Any, Subnet | None]],
    image_processor: Any,
    count: int = 4,
) -> list[dict[str, Any]]:
    """The first `count` evaluation images with prompts, ground truth, and each model's masks and IoUs.

    Args:
        dataset (`PromptDataset`): Evaluation samples.
        models (`Mapping`): Model and subnet by name.

    Returns:
        `list[dict]`: What `plots.plot_overlays` draws; arrays at the model's input size, padding cut off.
    """
    return [_sample(dataset[index], models, image_processor) for index in range(min(count, len(dataset)))]


def _sample(item: dict[str, torch.Tensor], models: Mapping[str, Any], image_processor: Any) -> dict[str, Any]:
    keep = item["object_mask"]
    height, width = item["valid_size"].tolist()
    mean, std = (torch.tensor(v)[:, None, None] for v in (image_processor.image_mean, image_processor.image_std))
    image = (item["pixel_values"] * std + mean).clamp(0, 1)[:, :height, :width].permute(1, 2, 0)
    sample: dict[str, Any] = {
        "image": (image * 255).round().byte().numpy(),
        "boxes": item["input_boxes"][keep].numpy() if "input_boxes" in item else None,
        "points": item["input_points"][keep][:, 0].numpy() if "input_points" in item else None,
        "truth": item["masks"][keep][:, :height, :width].bool().numpy(),
        "predictions": {},
        "ious": {},
    }
    batch = collate([item])
    targets = Targets.of(batch)
    prompts = {name: batch[name] for name in PROMPTS if name in batch}
    for name, (model, subnet) in models.items():
        moved = {k: v.to(model.device) for k, v in {**prompts, "pixel_values": batch["pixel_values"]}.items()}
        logits = model(multimask_output=False, subnet=subnet, **moved).pred_masks.cpu()[0, keep]
        masks = upscaled(logits, item["masks"].shape[-1])[:, 0] > 0
        sample["predictions"][name] = masks[:, :height, :width].numpy().astype(np.bool_)
        sample["ious"][name] = targets.ious(logits)[:, 0].tolist()
    return sample
