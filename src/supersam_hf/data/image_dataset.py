"""Labelled images as samples of a classifier. All randomness comes from (seed, epoch, index)."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from .augment import ColorAugmentation, random_erasing, random_resized_crop
from .cache import SampleCache
from .canonical import to_rgb
from .classification_arguments import ImageClassificationArguments
from .unreadable import read_row


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import BaseImageProcessor


CACHE_BYTES = 1024**3


class ImageSamples:
    """How a labelled image becomes what a classifier takes.

    A sample is a dict of `pixel_values` float32 (3, S, S) and `labels` int64 (), S the side of the processor's images.
    In training: random resized crop, flip, and what else `args` asks for. In evaluation: the processor's own resize
    and centre crop. Both rescaled and normalised by the processor.

    Args:
        image_processor (`BaseImageProcessor`): Image processor of the model, as `ViTImageProcessor`.
        args (`ImageClassificationArguments`): Augmentation and seed.
        label_names (`list[str]`): Names of the classes in the order of their labels.
        training (`bool`): Random changes anew each epoch, or none.

    Raises:
        ValueError: If the processor's images are not squares of one size, or kornia is needed and missing.
    """

    def __init__(
        self,
        image_processor: "BaseImageProcessor",
        args: ImageClassificationArguments,
        label_names: list[str],
        *,
        training: bool,
    ) -> None:
        self.image_processor: Any = image_processor
        self.args = args
        self.label_names = label_names
        self.training = training
        self.side = processor_side(image_processor)
        recolors = training and (args.rand_augment or args.color_jitter > 0)
        self._recolor = ColorAugmentation(args) if recolors else None

    def sample(self, image: Image.Image, label: int, epoch: int, index: int) -> dict[str, torch.Tensor]:
        """The sample of a labelled image, number `index` of an epoch."""
        image, labels = to_rgb(image), torch.tensor(label)
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

    def _tensor(self, image: Image.Image, **steps: bool) -> torch.Tensor:
        return self.image_processor(image, return_tensors="pt", **steps)["pixel_values"][0]


class ImageDataset(ImageSamples, torch.utils.data.Dataset):
    """Samples of a dataset of labelled images by index.

    Args:
        dataset (`datasets.Dataset`): From [`load_classification`]: columns `image` and `label`.
        image_processor (`BaseImageProcessor`): Image processor of the model, as `ViTImageProcessor`.
        args (`ImageClassificationArguments`): Augmentation and seed.
        training (`bool`): Random changes anew each epoch, or none.

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
    ) -> None:
        if not {"image", "label"} <= set(dataset.column_names):
            raise ValueError(f"`dataset` has columns {dataset.column_names}; it needs 'image' and 'label'.")
        super().__init__(image_processor, args, dataset.features["label"].names, training=training)
        self.dataset = dataset
        self._cache = SampleCache(CACHE_BYTES)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, torch.Tensor]:
        """The sample of an index (epoch 0), or of (epoch, index); evaluation samples are those of epoch 0 always.

        Raises:
            ValueError: If the image cannot be read, naming its row and file.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if self.training:
            return self._at(epoch, index)
        return self._cache.get(index, lambda: self._at(0, index))

    def _at(self, epoch: int, index: int) -> dict[str, torch.Tensor]:
        row = read_row(self.dataset, index, training=self.training)
        return self.sample(row["image"], row["label"], epoch, index)


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
