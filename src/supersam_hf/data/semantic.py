"""Images with label maps as samples of a segmenter. All randomness comes from (seed, epoch, index)."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from .image_dataset import processor_side
from .label_maps import IGNORED, Labelled
from .samples import Samples
from .semantic_arguments import SemanticArguments
from .skipped import SkipLog


if TYPE_CHECKING:
    from transformers import BaseImageProcessor


CACHE_BYTES = 2 * 1024**3


class SemanticDataset(Samples):
    """How an image and its label map become what a segmenter takes.

    A sample is a dict of `pixel_values` float32 (3, height, width), rescaled and normalised by the processor, and
    `labels` int64 (height, width), 255 where there is none. In training both are S x S, S the side of the processor's
    images: resized by a random factor, cropped, flipped; what is missing is padded and has no label. In evaluation
    they have the image's own size.

    Args:
        labelled ([`Labelled`]): From [`load_label_maps`].
        image_processor (`BaseImageProcessor`): Image processor of the model, as `ViTImageProcessor`.
        args (`SemanticArguments`): Augmentation and seed.
        training (`bool`): Random changes anew each epoch, or none.
        skip_log ([`SkipLog`], *optional*): Where to list images that cannot be read, with `args.on_error: skip`.
    """

    def __init__(
        self,
        labelled: Labelled,
        image_processor: "BaseImageProcessor",
        args: SemanticArguments,
        *,
        training: bool,
        skip_log: SkipLog | None = None,
    ) -> None:
        options: dict[str, Any] = {"on_error": args.on_error, "cache_bytes": CACHE_BYTES, "skip_log": skip_log}
        super().__init__(labelled.rows, training=training, **options)
        self.image_processor: Any = image_processor
        self.args, self.label_names = args, labelled.label_names
        self.side = processor_side(image_processor)

    def sample(self, row: dict[str, Any], epoch: int, index: int) -> dict[str, torch.Tensor]:
        """The sample of a labelled image, number `index` of an epoch."""
        image, labels = row["image"], Image.fromarray(row["labels"])
        if self.training:
            image, labels = self._augmented(image, labels, np.random.default_rng([self.args.seed, epoch, index]))
        return self._tensors(image, labels)

    def blank(self, index: int) -> dict[str, torch.Tensor]:
        """A black image without labels."""
        size = (self.side, self.side)
        return self._tensors(Image.new("RGB", size), Image.new("L", size, IGNORED))

    def _augmented(
        self, image: Image.Image, labels: Image.Image, rng: np.random.Generator
    ) -> tuple[Image.Image, Image.Image]:
        """A square of the image at a random scale, perhaps flipped."""
        factor = rng.uniform(self.args.min_scale, self.args.max_scale)
        size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
        left, top = (int(rng.integers(0, max(0, side - self.side) + 1)) for side in size)
        # in the image's own pixels: resized and cropped at once
        corners = (left, top, left + self.side, top + self.side)
        ends = min(corners[2] / factor, image.width), min(corners[3] / factor, image.height)
        box = (left / factor, top / factor, *ends)
        shown = min(self.side, size[0]), min(self.side, size[1])
        image = image.resize(shown, Image.Resampling.BILINEAR, box=box)
        labels = labels.resize(shown, Image.Resampling.NEAREST, box=box)
        if self.args.flip and rng.random() < 0.5:
            image, labels = (one.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for one in (image, labels))
        return _padded(image, self.side, 0), _padded(labels, self.side, IGNORED)

    def _tensors(self, image: Image.Image, labels: Image.Image) -> dict[str, torch.Tensor]:
        crop = {"do_center_crop": False} if hasattr(self.image_processor, "do_center_crop") else {}
        steps = {"do_resize": False, **crop}
        pixel_values = self.image_processor(image, return_tensors="pt", **steps)["pixel_values"][0]
        return {"pixel_values": pixel_values, "labels": torch.from_numpy(np.array(labels, dtype=np.int64))}


def _padded(image: Image.Image, side: int, value: int) -> Image.Image:
    """At the bottom and right, to a square."""
    if image.size == (side, side):
        return image
    square = Image.new(image.mode, (side, side), value if image.mode == "L" else (value,) * 3)
    square.paste(image, (0, 0))
    return square


__all__ = ["SemanticDataset"]
