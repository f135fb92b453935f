"""Labelled images as samples of a classifier. All randomness comes from (seed, epoch, index)."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from .augment import ColorAugmentation, random_erasing, random_resized_crop
from .classification_arguments import ImageClassificationArguments
from .images import to_rgb
from .rows import Rows, TableRows
from .samples import Samples
from .skipped import SkipLog


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import BaseImageProcessor


CACHE_BYTES = 1024**3


class ImageSamples(Samples):
    """How a labelled image becomes what a classifier takes.

    A sample is a dict of `pixel_values` float32 (3, S, S) and `labels` int64 (), S the side of the processor's images.
    In training: random resized crop, flip, and what else `args` asks for. In evaluation: the processor's own resize
    and centre crop. Both rescaled and normalised by the processor.

    Args:
        rows ([`Rows`]): Images and labels.
        image_processor (`BaseImageProcessor`): Image processor of the model, as `ViTImageProcessor`.
        args (`ImageClassificationArguments`): Augmentation and seed.
        label_names (`list[str]`): Names of the classes in the order of their labels.
        training (`bool`): Random changes anew each epoch, or none.
        skip_log ([`SkipLog`], *optional*): Where to list images that cannot be read, with `args.on_error: skip`.

    Raises:
        ValueError: If the processor's images are not squares of one size, or kornia is needed and missing.
    """

    def __init__(
        self,
        rows: Rows,
        image_processor: "BaseImageProcessor",
        args: ImageClassificationArguments,
        label_names: list[str],
        *,
        training: bool,
        skip_log: SkipLog | None = None,
    ) -> None:
        options: dict[str, Any] = {"on_error": args.on_error, "cache_bytes": CACHE_BYTES, "skip_log": skip_log}
        super().__init__(rows, training=training, **options)
        self.image_processor: Any = image_processor
        self.args = args
        self.label_names = label_names
        self.side = processor_side(image_processor)
        recolors = training and (args.rand_augment or args.color_jitter > 0)
        self._recolor = ColorAugmentation(args) if recolors else None

    def sample(self, row: dict[str, Any], epoch: int, index: int) -> dict[str, torch.Tensor]:
        """The sample of a labelled image, number `index` of an epoch."""
        image, labels = to_rgb(row["image"]), torch.tensor(row["label"])
        if not self.training:
            return {"pixel_values": self._tensor(image), "labels": labels}
        rng = np.random.default_rng([self.args.seed, epoch, index])
        image = random_resized_crop(image, self.side, self.args.min_scale, self.image_processor.resample, rng)
        if self.args.flip and rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self._recolor is not None:
            image = self._recolor(image, rng)
        pixel_values = self._tensor(image, do_resize=False, do_center_crop=False)
        if rng.random() < self.args.random_erasing:
            pixel_values = random_erasing(pixel_values, rng)
        return {"pixel_values": pixel_values, "labels": labels}

    def blank(self, index: int) -> dict[str, torch.Tensor]:
        """A black image whose label, -1, is none."""
        pixel_values = self._tensor(Image.new("RGB", (self.side, self.side)))
        return {"pixel_values": pixel_values, "labels": torch.tensor(-1)}

    def _tensor(self, image: Image.Image, **steps: bool) -> torch.Tensor:
        return self.image_processor(image, return_tensors="pt", **steps)["pixel_values"][0]


class ImageDataset(ImageSamples):
    """Samples of a dataset of labelled images by index.

    Args:
        dataset (`datasets.Dataset`): From [`load_classification`]: columns `image` and `label`.
        image_processor (`BaseImageProcessor`): Image processor of the model, as `ViTImageProcessor`.
        args (`ImageClassificationArguments`): Augmentation and seed.
        training (`bool`): Random changes anew each epoch, or none.
        skip_log ([`SkipLog`], *optional*): Where to list images that cannot be read, with `args.on_error: skip`.

    Raises:
        ValueError: If the processor's images are not squares of one size, the columns are others, or kornia is needed
            and missing.
    """

    def __init__(
        self,
        dataset: "Dataset",
        image_processor: "BaseImageProcessor",
        args: ImageClassificationArguments,
        *,
        training: bool,
        skip_log: SkipLog | None = None,
    ) -> None:
        if not {"image", "label"} <= set(dataset.column_names):
            raise ValueError(f"`dataset` has columns {dataset.column_names}; it needs 'image' and 'label'.")
        names = dataset.features["label"].names
        rows = TableRows(dataset, training)
        super().__init__(rows, image_processor, args, names, training=training, skip_log=skip_log)
        self.dataset = dataset


def processor_side(image_processor: "BaseImageProcessor") -> int:
    """Side of the square images that a processor gives, px.

    Raises:
        ValueError: If they are not squares of one size.
    """
    processor: Any = image_processor
    size = dict(processor.crop_size if processor.do_center_crop else processor.size)
    if size.get("height") is None or size.get("height") != size.get("width"):
        raise ValueError(
            f"`image_processor` gives images of size {size}; a classifier needs squares of one size: a `size` "
            "or, with `do_center_crop`, a `crop_size` of equal `height` and `width`."
        )
    return int(size["height"])
