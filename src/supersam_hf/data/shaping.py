"""Examples in another shape: cut into patches, all objects as one, one object as its connected parts."""

import io
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from .canonical import decode_mask, encode_masks, instances_to_objects, rles_to_objects
from .crops import Crop, masks_within
from .source import Source, UnreadableError
from .unreadable import decode_image


Example = dict[str, Any]
# Decoded images that a process keeps.
OPENED_BYTES = 256 * 1024**2


class Patches(Source):
    """Square patches of the images of a source, without overlap, from left to right and then down.

    A patch is an example of its own, with what lies in it of each object. As with `patchify`, which SuperSAM uses, the
    grid begins at the top left, and what is left at the right and at the bottom is no patch; in a direction in which
    an image is smaller than a patch, it is one patch.

    Args:
        source ([`Source`]): Canonical examples. The header of each image is read once, for its size.
        side (`int`): Side of a patch, px.
    """

    def __init__(self, source: Source, side: int) -> None:
        self.source, self.side = source, side
        # For each shard, how many patches its images up to this one have.
        self._ends = [
            np.cumsum([self._count(shard, row) for row in range(old.rows)]) for shard, old in enumerate(source.shards)
        ]
        self.shards = [
            replace(old, rows=int(ends[-1]) if len(ends) else 0) for old, ends in zip(source.shards, self._ends)
        ]
        self._opened: OrderedDict[tuple[int, int], tuple[Example, Image.Image]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": OrderedDict()}

    def _count(self, shard: int, row: int) -> int:
        """Patches of an image; 1 for a broken one, which fails when it is read."""
        try:
            return len(patch_grid(self.source.image_size(shard, row), self.side))
        except UnreadableError:
            return 1

    def _place(self, shard: int, row: int) -> tuple[int, int]:
        """The number of the image in its shard, and of the patch in its image."""
        ends = self._ends[shard]
        image = int(np.searchsorted(ends, row, side="right"))
        return image, row - (int(ends[image - 1]) if image else 0)

    def read(self, shard: int, row: int) -> Example:
        image, patch = self._place(shard, row)
        example, picture = self._open(shard, image)
        return cut(example, picture, patch_grid((picture.height, picture.width), self.side)[patch])

    def _open(self, shard: int, image: int) -> tuple[Example, Image.Image]:
        """An example and its decoded image; the latest are kept, for their other patches are often asked for next."""
        if (shard, image) not in self._opened:
            example = self.source.read(shard, image)
            picture = decode_image(example["image"], self.source.name(shard, image))
            self._opened[shard, image] = {**example, "image": None}, picture
        self._opened.move_to_end((shard, image))
        while len(self._opened) > 1 and sum(_bytes(picture) for _, picture in self._opened.values()) > OPENED_BYTES:
            self._opened.popitem(last=False)
        return self._opened[shard, image]

    def name(self, shard: int, row: int) -> str:
        image, patch = self._place(shard, row)
        return f"{self.source.name(shard, image)}, patch {patch}"

    def image_size(self, shard: int, row: int) -> tuple[int, int]:
        image, patch = self._place(shard, row)
        crop = patch_grid(self.source.image_size(shard, image), self.side)[patch]
        return crop.height, crop.width

    def stamp(self, shard: int) -> str:
        return f"{self.source.stamp(shard)}\npatches of {self.side}"


class Mapped(Source):
    """The examples of a source with other objects.

    Args:
        source ([`Source`]): Canonical examples.
        function (`Callable`): [`merged`] or [`components`].
    """

    def __init__(self, source: Source, function: Callable[[dict[str, list]], dict[str, list]]) -> None:
        self.source, self.function = source, function
        self.shards = source.shards

    def read(self, shard: int, row: int) -> Example:
        example = self.source.read(shard, row)
        return {**example, "objects": self.function(example["objects"])}

    def name(self, shard: int, row: int) -> str:
        return self.source.name(shard, row)

    def image_size(self, shard: int, row: int) -> tuple[int, int]:
        return self.source.image_size(shard, row)

    def stamp(self, shard: int) -> str:
        return f"{self.source.stamp(shard)}\n{self.function.__name__}"


def patch_grid(size: tuple[int, int], side: int) -> list[Crop]:
    """The patches of an image of (height, width), from left to right and then down."""
    height, width = min(side, size[0]), min(side, size[1])
    tops, lefts = range(0, size[0] - height + 1, height), range(0, size[1] - width + 1, width)
    return [Crop(top, left, height, width) for top in tops for left in lefts]


def cut(example: Example, image: Image.Image, crop: Crop) -> Example:
    """The example of a patch.

    Args:
        example (`dict`): Canonical example.
        image (`PIL.Image.Image`): Its image, decoded: 8-bit grey or RGB.
        crop ([`Crop`]): The patch.
    """
    picture = image.crop(crop.corners)
    content = io.BytesIO()
    picture.save(content, format="PNG", compress_level=1)
    name = f"{example['image_id']}_{crop.top}_{crop.left}"
    masks = masks_within(example["objects"], crop)
    return {
        "image": {"bytes": content.getvalue(), "path": f"{name}.png"},
        "image_id": name,
        "objects": encode_masks(list(masks.values())),
    }


def merged(objects: dict[str, list]) -> dict[str, list]:
    """All objects as one, as SuperSAM's released code takes the mitochondria of a patch."""
    from pycocotools import mask as coco_mask

    rles = objects["segmentation"]
    return rles_to_objects([coco_mask.merge(rles)]) if rles else objects


def components(objects: dict[str, list]) -> dict[str, list]:
    """Each connected part of the objects as one of its own; pixels that touch at a corner are connected.

    Raises:
        ValueError: If scipy is not installed.
    """
    try:
        from scipy.ndimage import label
    except ImportError as error:
        raise ValueError("Stacks need scipy: `pip install supersam-hf[stacks]`.") from error
    found: dict[str, list] = {"segmentation": [], "bbox": [], "area": []}
    for rle in objects["segmentation"]:
        parts = instances_to_objects(label(decode_mask(rle), structure=np.ones((3, 3)))[0])
        for key, values in parts.items():
            found[key].extend(values)
    return found


def _bytes(picture: Image.Image) -> int:
    return picture.width * picture.height * len(picture.getbands())
