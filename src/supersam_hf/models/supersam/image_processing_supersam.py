"""SAM's image processor and processor on PIL: they need no torchvision."""

import os
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers import SamProcessor
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from .rgb_supersam import safe_formats, to_rgb


class SuperSamImageProcessor(SamImageProcessorPil):
    """Resizes the longest side to the model's input (aspect ratio kept), normalises, pads below and to the right.

    Images of more than 8 bits are converted as training converts them (see `to_rgb`); files are
    turned upright, opened images are taken as they lie, for prompts are given in their pixels.
    """

    def convert_to_rgb(self, image: Any, *args: Any, **kwargs: Any) -> np.ndarray:
        """Convert an image (PIL or array) to an RGB array (height, width, 3)."""
        image = to_rgb(image) if isinstance(image, Image.Image) else image
        return super().convert_to_rgb(image, *args, **kwargs)

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Open the images among `image_url_or_urls` that are paths of local files; the stock method cuts off bits."""
        if not isinstance(image_url_or_urls, str) or not os.path.isfile(image_url_or_urls):
            return super().fetch_images(image_url_or_urls)
        with Image.open(image_url_or_urls, formats=safe_formats()) as image:
            return ImageOps.exif_transpose(image)

    # The stock method asks for torchvision, of which it uses the non-maximum suppression alone.
    def post_process_for_mask_generation(
        self,
        all_masks: list[dict[str, Any]],
        all_scores: torch.Tensor,
        all_boxes: torch.Tensor,
        crops_nms_thresh: float,
    ) -> tuple[list[np.ndarray], torch.Tensor, list[dict[str, Any]], torch.Tensor]:
        """What the mask-generation pipeline ends with: of masks whose boxes overlap too much, the best is kept.

        Args:
            all_masks (`list[dict]`): Run-length encoded masks of all crops, as `filter_masks` gives them.
            all_scores (`torch.Tensor` of shape `(masks,)`): Their predicted IoU.
            all_boxes (`torch.Tensor` of shape `(masks, 4)`): Their boxes: x1, y1, x2, y2 in pixels of the image.
            crops_nms_thresh (`float`): Most IoU of two kept boxes, in [0, 1].

        Returns:
            `tuple`: Boolean masks of shape `(height, width)`, scores, encoded masks and boxes, by descending score.
        """
        kept = non_maximum_suppression(all_boxes.float(), all_scores, crops_nms_thresh)
        encoded = [all_masks[i] for i in kept.tolist()]
        return [_decoded(mask) for mask in encoded], all_scores[kept], encoded, all_boxes[kept]


class SuperSamProcessor(SamProcessor):
    """Prepares images and prompts for [`SuperSamModel`]; loads the processor of any SAM."""

    def __init__(self, image_processor: SuperSamImageProcessor) -> None:
        super().__init__(image_processor)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *, image_size: int | None = None, **kwargs: Any
    ) -> "SuperSamProcessor":
        """Loads from the Hub or a folder.

        Args:
            image_size (`int`, *optional*): As given to `SuperSamModel.from_pretrained`: input size in px a side.
        """
        image_processor = SuperSamImageProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs)
        if image_size is None:
            return cls(image_processor)
        stride = image_processor.size["longest_edge"] // image_processor.mask_size["longest_edge"]
        sizes = _sizes(image_size, image_size // stride)
        return cls(SuperSamImageProcessor(**{**image_processor.to_dict(), **sizes}))

    @classmethod
    def for_config(cls, config: Any) -> "SuperSamProcessor":
        """The processor for a model of this config (SuperSamConfig or SamConfig)."""
        vision = config.vision_config
        # the mask decoder upscales its grid by 4
        return cls(SuperSamImageProcessor(**_sizes(vision.image_size, 4 * vision.image_size // vision.patch_size)))


def non_maximum_suppression(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> torch.Tensor:
    """Indices of the boxes that no box of a higher score (the earlier of equals) overlaps by more than `threshold`.

    Equal to `torchvision.ops.nms` on CPU, and so to `batched_nms` of one class: the same arithmetic in the boxes' own
    precision, compared in double, so that a box without area (IoU of 0 / 0) always stays.

    Args:
        boxes (`torch.Tensor` of shape `(boxes, 4)`): x1, y1, x2, y2.
        scores (`torch.Tensor` of shape `(boxes,)`): Higher is better.
        threshold (`float`): Largest intersection over union with a kept box, in [0, 1].

    Returns:
        `torch.Tensor` of shape `(kept,)`: By descending score.
    """
    device = boxes.device
    # thousands of small steps, each of which needs the last one's outcome: not worth a GPU's round trips
    boxes, order = boxes.cpu(), scores.cpu().argsort(descending=True, stable=True)
    boxes, areas = boxes[order], ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))[order]
    kept = []
    while len(order):
        kept.append(order[0])
        corner, opposite = boxes[0, :2].maximum(boxes[1:, :2]), boxes[0, 2:].minimum(boxes[1:, 2:])
        width, height = (opposite - corner).clamp(min=0).unbind(1)
        shared = width * height
        iou = shared / (areas[0] + areas[1:] - shared)
        left = ~(iou.double() > threshold)  # a comparison with NaN is false
        order, boxes, areas = order[1:][left], boxes[1:][left], areas[1:][left]
    return torch.stack(kept).to(device) if kept else order.to(device)


def _decoded(mask: dict[str, Any]) -> np.ndarray:
    """Uncompressed RLE to booleans: runs of 0 and 1 in turn, down the columns."""
    counts, (height, width) = mask["counts"], mask["size"]
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T


def _sizes(image_size: int, mask_size: int) -> dict[str, dict[str, int]]:
    return {
        "size": {"longest_edge": image_size},
        "pad_size": {"height": image_size, "width": image_size},
        "mask_size": {"longest_edge": mask_size},
        "mask_pad_size": {"height": mask_size, "width": mask_size},
    }


__all__ = ["SuperSamImageProcessor", "SuperSamProcessor"]
