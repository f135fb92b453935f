"""Pictures without labels as samples of a SAM: to imitate the original's embeddings and be compared with its masks.

What takes the place of an object is a point: the original's mask at it is the truth.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from .canonical import decode_mask
from .crops import central_crop, random_crop, whole_image
from .dataset import PromptDataset, PromptSamples
from .images import check_resizable, to_rgb
from .streaming import PromptStream
from .unreadable import broken_example


if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class OriginalMasks:
    """The original's masks at the grid of points of one picture.

    Args:
        points (`list[int]`): Numbers of the points, of the grid's row by row, whose masks are kept.
        masks (`list[dict]`): Their masks as COCO's compressed run lengths, at the size of the model's input.
        unsure (`int`): Points left out because the original predicts too small an IoU.
        empty (`int`): Points left out because its mask has no pixel in the picture.
    """

    points: list[int]
    masks: list[dict[str, Any]]
    unsure: int = 0
    empty: int = 0


class PictureSamples(PromptSamples):
    """How a picture becomes a sample. S is the side of the model's input:

    - `pixel_values`, `valid_size`, `image_index`: as of [`PromptSamples`].
    - training: `input_points` float32 (K, 1, 2), K = `args.max_objects` random points of the picture, and
      `input_labels` int64 (K, 1).
    - evaluation: the same of the grid, K = `args.prompts_per_side` squared; and once `targets` are given `masks` uint8
      (K, S, S) and `object_mask` bool (K): at which points the original has a mask that counts.

    Attributes:
        targets (`Mapping[int, OriginalMasks]`, *optional*): The original's masks by the picture's number.
    """

    targets: Mapping[int, OriginalMasks] | None = None

    def sample(self, row: dict[str, Any], epoch: int, index: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng([self.args.seed, epoch, index])
        image = to_rgb(row["image"])
        size = image.height, image.width
        if self.training and self.args.crop_train is not None:
            crop = random_crop(size, self.args.crop_train, rng)
        elif not self.training and self.args.crop_eval is not None:
            crop = central_crop(size, self.args.crop_eval)
        else:
            crop = whole_image(size)
        image = image.crop(crop.corners)
        with broken_example(f"Image {row['image_id']!r}"):
            check_resizable(image.size, self.side)
        if self.training:
            image, _ = self._flip(image, np.zeros((0, image.height, image.width), dtype=bool), rng)
        return self._picture(image, index, rng)

    def unlabelled_sample(self, index: int) -> dict[str, torch.Tensor] | None:
        """The sample of a picture as the original sees it, without masks; None for a broken one that is skipped."""
        return self._sample_at(0, index)

    def blank(self, index: int) -> dict[str, torch.Tensor]:
        """A black picture at which the original has no mask."""
        image = Image.new("RGB", (self.side, self.side))
        sample = self._picture(image, index, np.random.default_rng(0))
        return {**sample, **self._masks(OriginalMasks([], []))}

    def keeps(self, row: dict[str, Any]) -> bool:
        """Whether there is something to learn from a row: from every picture there is."""
        return True

    def _picture(self, image: Image.Image, index: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        processed = self.image_processor(image, return_tensors="pt")
        valid = int(processed["reshaped_input_sizes"][0][0]), int(processed["reshaped_input_sizes"][0][1])
        if self.training:
            points = rng.random((self.args.max_objects, 2)) * np.array(valid[::-1])
        else:
            points = grid_points(self.args.prompts_per_side, valid)
        sample = {
            "pixel_values": processed["pixel_values"][0],
            "valid_size": torch.tensor(valid),
            "image_index": torch.tensor(index),
            "input_points": torch.from_numpy(points.astype(np.float32))[:, None],  # (K, 1, 2)
            "input_labels": torch.ones(len(points), 1, dtype=torch.int64),
        }
        if self.targets is not None and not self.training:
            sample |= self._masks(self.targets.get(index, OriginalMasks([], [])))
        return sample

    def _masks(self, found: OriginalMasks) -> dict[str, torch.Tensor]:
        count = self.args.prompts_per_side**2
        masks, held = torch.zeros(count, self.side, self.side, dtype=torch.uint8), torch.zeros(count, dtype=torch.bool)
        for number, mask in zip(found.points, found.masks):
            masks[number] = torch.from_numpy(decode_mask(mask).astype(np.uint8))
            held[number] = True
        return {"masks": masks, "object_mask": held}


class PictureDataset(PictureSamples, PromptDataset):
    """Samples of the pictures of a canonical dataset. Arguments as of [`PromptDataset`]."""

    def _with_objects(self, dataset: "Dataset") -> "Dataset":
        return dataset


class PictureStream(PictureSamples, PromptStream):
    """Samples of the pictures of a source. Arguments as of [`PromptStream`]."""


def grid_points(side: int, valid: tuple[int, int]) -> np.ndarray:
    """The middles of side x side cells of a picture, row by row: float64 (side², 2), x and y.

    Args:
        side (`int`): Points a side.
        valid (`tuple[int, int]`): (height, width) of the picture in the model's input, px, without padding.
    """
    middles = (np.arange(side) + 0.5) / side
    y, x = np.meshgrid(middles * valid[0], middles * valid[1], indexing="ij")
    return np.stack([x.ravel(), y.ravel()], axis=-1)


__all__ = ["OriginalMasks", "PictureDataset", "PictureSamples", "PictureStream", "grid_points"]
