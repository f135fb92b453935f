"""SAM's image processor and processor on PIL: they need no torchvision."""

from typing import Any

from transformers import SamProcessor
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil


class SuperSamImageProcessor(SamImageProcessorPil):
    """Resizes the longest side to the model's input (aspect ratio kept), normalises, pads below and to the right."""


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


def _sizes(image_size: int, mask_size: int) -> dict[str, dict[str, int]]:
    return {
        "size": {"longest_edge": image_size},
        "pad_size": {"height": image_size, "width": image_size},
        "mask_size": {"longest_edge": mask_size},
        "mask_pad_size": {"height": mask_size, "width": mask_size},
    }


__all__ = ["SuperSamImageProcessor", "SuperSamProcessor"]
