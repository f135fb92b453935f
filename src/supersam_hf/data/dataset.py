"""Canonical examples as prompted samples of a SAM. All randomness comes from (seed, epoch, index)."""

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from .arguments import DataArguments
from .canonical import check_mask_size
from .crops import (
    Crop,
    center_of_largest,
    central_crop,
    crop_around,
    image_size,
    random_crop,
    visible_masks,
    whole_image,
)
from .images import check_resizable, to_rgb
from .prompts import box_prompts, point_prompts
from .rows import Rows, TableRows
from .samples import Samples
from .skipped import SkipLog
from .targets import area_averaged_masks, nearest_masks
from .unreadable import broken_example


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil


logger = logging.getLogger(__name__)

CROP_ATTEMPTS = 10
CACHE_BYTES = 2 * 1024**3
# Label with which SAM takes a point for padding.
PADDING_LABEL = -10


class PromptSamples(Samples):
    """How a canonical example becomes image, prompts and masks, one prompt an object.

    A sample is a dict of tensors; S is the side of the model's input, K = `args.max_objects`:

    - `pixel_values` float32 (3, S, S): longest side resized to S, padded at the bottom and right.
    - `input_boxes` float32 (K, 4), x0 y0 x1 y1, or `input_points` float32 (K, 1, 2) and `input_labels` int64 (K, 1);
      px of the model's input.
    - `low_res_masks` uint8 (K, M, M), M the processor's mask size (S/4), zero in the padding; never empty for a real
      object.
    - `object_mask` bool (K): which slots hold an object.
    - `image_index` int64: number of the example.
    - evaluation only: `masks` uint8 (K, S, S), and `valid_size` int64 (2), height and width without padding.

    In training all K slots are filled: a random subset of more objects, random repeats of fewer. In evaluation each
    object comes once (a seeded subset of more than K) and the slots left over are padding.

    Args:
        rows ([`Rows`]): Canonical examples.
        image_processor (`SamImageProcessorPil`): Image processor of the model; its size is S.
        args (`DataArguments`): Prompts, crops, limits and seed.
        training (`bool`): Random crops, flips and prompts anew each epoch, or fixed ones.
        skip_log ([`SkipLog`], *optional*): Where to list examples that cannot be read, with `args.on_error: skip`.

    Raises:
        ValueError: If the processor does not pad to squares of its size.
    """

    def __init__(
        self,
        rows: Rows,
        image_processor: "SamImageProcessorPil",
        args: DataArguments,
        *,
        training: bool,
        skip_log: SkipLog | None = None,
    ) -> None:
        options: dict[str, Any] = {"on_error": args.on_error, "cache_bytes": CACHE_BYTES, "skip_log": skip_log}
        super().__init__(rows, training=training, **options)
        self.image_processor = image_processor
        self.args = args
        self.side = int(image_processor.size["longest_edge"])
        padded = image_processor.pad_size
        if (padded["height"], padded["width"]) != (self.side, self.side):
            raise ValueError(
                f"`image_processor` resizes to {self.side} px, but pads to {padded}; set both to one size."
            )
        # Input px of one low-resolution mask px: 4 at SAM's patch size of 16.
        self.mask_stride = self.side // int(image_processor.mask_size["longest_edge"])

    def sample(self, row: dict[str, Any], epoch: int, index: int) -> dict[str, torch.Tensor]:
        """The sample of a canonical example, number `index` of an epoch; in training it shows an object."""
        rng = np.random.default_rng([self.args.seed, epoch, index])
        image, objects = to_rgb(row["image"]), row["objects"]
        size = image.height, image.width
        if objects["segmentation"]:
            with broken_example(f"Image {row['image_id']!r}"):
                check_mask_size(image_size(objects), size, row["image_id"])
        crop, masks = self._choose(objects, size, rng)
        image = image.crop(crop.corners)
        with broken_example(f"Image {row['image_id']!r}"):
            check_resizable(image.size, self.side)
        if self.training:
            image, masks = self._flip(image, masks, rng)
            masks = masks[self._fill(len(masks), rng)]
        return self._tensors(image, masks, rng) | {"image_index": torch.tensor(index)}

    def blank(self, index: int) -> dict[str, torch.Tensor]:
        """A black image without an object."""
        image, masks = Image.new("RGB", (self.side, self.side)), np.zeros((0, self.side, self.side), dtype=bool)
        return self._tensors(image, masks, np.random.default_rng(0)) | {"image_index": torch.tensor(index)}

    def keeps(self, row: dict[str, Any]) -> bool:
        """Whether a row shows an object (see [`shows`])."""
        return self.shows(row["objects"])

    def shows(self, objects: dict[str, list]) -> bool:
        """Whether an object of `args.min_area` is to be seen, told from the run lengths without opening the image."""
        if max(objects["area"], default=0) < self.args.min_area:
            return False
        if self.training or self.args.crop_eval is None:
            return True
        crop = central_crop(image_size(objects), self.args.crop_eval)
        return len(visible_masks(objects, crop, self.args.min_area, limit=1)) > 0

    def _choose(
        self, objects: dict[str, list], size: tuple[int, int], rng: np.random.Generator
    ) -> tuple[Crop, np.ndarray]:
        """The first crop that shows an object, else the last, and the masks (n, height, width) of at most K in it."""
        for crop in self._crops(objects, size, rng):
            masks = visible_masks(objects, crop, self.args.min_area, self.args.max_objects, rng)
            if len(masks):
                break
        return crop, masks

    def _crops(self, objects: dict[str, list], size: tuple[int, int], rng: np.random.Generator) -> Iterator[Crop]:
        """Crops to try in turn; in training the last one, the whole image, is known to show an object."""
        if not self.training:
            yield whole_image(size) if self.args.crop_eval is None else central_crop(size, self.args.crop_eval)
            return
        if self.args.crop_train is not None:
            for _ in range(CROP_ATTEMPTS):
                crop = random_crop(size, self.args.crop_train, rng)
                yield crop
            yield crop_around(size, crop.height, center_of_largest(objects))
        yield whole_image(size)

    def _flip(self, image: Image.Image, masks: np.ndarray, rng: np.random.Generator) -> tuple[Image.Image, np.ndarray]:
        if not self.args.flip:
            return image, masks
        horizontal, vertical = rng.random(2) < 0.5
        if horizontal:
            image, masks = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), masks[:, :, ::-1]
        if vertical:
            image, masks = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM), masks[:, ::-1]
        return image, masks

    def _fill(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Slots of a training sample: every object, then random repeats (SuperSAM's released code)."""
        return np.concatenate([np.arange(count), rng.integers(count, size=self.args.max_objects - count)])

    def _tensors(self, image: Image.Image, masks: np.ndarray, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        processed = self.image_processor(image, return_tensors="pt")
        valid = int(processed["reshaped_input_sizes"][0][0]), int(processed["reshaped_input_sizes"][0][1])
        coarse = area_averaged_masks(masks, valid, self.mask_stride, self.side // self.mask_stride)
        sample = {
            "pixel_values": processed["pixel_values"][0],
            "low_res_masks": self._pad(coarse),
            "object_mask": torch.arange(self.args.max_objects) < len(masks),
        }
        # As SamProcessor scales coordinates: by the resized over the original size, each direction by itself.
        scale = np.array([valid[1] / image.width, valid[0] / image.height], dtype=np.float32)
        if self.args.prompt == "box":
            sample["input_boxes"] = self._pad(box_prompts(masks, self.args.box_padding, rng) * np.tile(scale, 2))
        else:
            sample["input_points"] = self._pad(point_prompts(masks, rng) * scale)[:, None]  # (K, 1, 2)
            sample["input_labels"] = torch.where(sample["object_mask"], 1, PADDING_LABEL)[:, None]  # (K, 1)
        if not self.training:
            sample["masks"] = self._pad(nearest_masks(masks, valid, self.side))
            sample["valid_size"] = torch.tensor(valid)
        return sample

    def _pad(self, values: np.ndarray) -> torch.Tensor:
        """(n, ...) to (K, ...) with zeros."""
        padded = np.zeros((self.args.max_objects, *values.shape[1:]), dtype=values.dtype)
        padded[: len(values)] = values
        return torch.from_numpy(padded)


class PromptDataset(PromptSamples):
    """Prompted samples of a canonical dataset by index.

    Args:
        dataset (`datasets.Dataset`): Canonical dataset. Images without an object (in evaluation: within the central
            crop) of `args.min_area` are left out, and how many is logged; `self.dataset` holds the rest.
        image_processor (`SamImageProcessorPil`): Image processor of the model.
        args (`DataArguments`): Prompts, crops, limits and seed.
        training (`bool`): Random crops, flips and prompts anew each epoch, or fixed ones.
        skip_log ([`SkipLog`], *optional*): Where to list examples that cannot be read, with `args.on_error: skip`.

    Raises:
        ValueError: If no image has an object, or the processor does not pad to squares of its size.
    """

    def __init__(
        self,
        dataset: "Dataset",
        image_processor: "SamImageProcessorPil",
        args: DataArguments,
        *,
        training: bool,
        skip_log: SkipLog | None = None,
    ) -> None:
        super().__init__(TableRows(dataset, training), image_processor, args, training=training, skip_log=skip_log)
        self.dataset = self._with_objects(dataset)
        self.rows = TableRows(self.dataset, training)

    def _with_objects(self, dataset: "Dataset") -> "Dataset":
        """The images that show an object."""
        shown = [i for i, row in enumerate(dataset.select_columns(["objects"])) if self.shows(row["objects"])]
        missing = len(dataset) - len(shown)
        part = "training" if self.training else "evaluation"
        if not shown:
            raise ValueError(
                f"None of the {len(dataset)} {part} images shows an object of at least {self.args.min_area} px "
                "(`data.min_area`); check the masks, or make `min_area` smaller or the crop larger."
            )
        if missing:
            logger.warning(f"{missing} of {len(dataset)} {part} images show no object of `min_area` and are left out.")
        return dataset.select(shown) if missing else dataset
