"""Parts of an image, and the objects to be seen in them."""

from typing import Any, NamedTuple

import numpy as np

from .canonical import decode_mask


class Crop(NamedTuple):
    """A rectangle in pixels of the image."""

    top: int
    left: int
    height: int
    width: int

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """(left, top, right, bottom), right and bottom excluded, as `PIL.Image.crop` takes them."""
        return self.left, self.top, self.left + self.width, self.top + self.height


def whole_image(size: tuple[int, int]) -> Crop:
    return Crop(0, 0, *size)


def random_crop(size: tuple[int, int], sides: list[int], rng: np.random.Generator) -> Crop:
    """A crop of a random side in [smallest, largest] at a random place in an image of (height, width)."""
    side = int(rng.integers(sides[0], sides[1], endpoint=True))
    height, width = min(side, size[0]), min(side, size[1])
    top = rng.integers(0, size[0] - height, endpoint=True)
    left = rng.integers(0, size[1] - width, endpoint=True)
    return Crop(int(top), int(left), height, width)


def central_crop(size: tuple[int, int], side: int) -> Crop:
    return crop_around(size, side, (size[0] / 2, size[1] / 2))


def crop_around(size: tuple[int, int], side: int, center: tuple[float, float]) -> Crop:
    """The crop of a side around a point (y, x), moved to lie in an image of (height, width).

    A side longer than the image is cut to it, in each direction by itself.
    """
    height, width = min(side, size[0]), min(side, size[1])
    top = min(max(int(center[0] - height / 2), 0), size[0] - height)
    left = min(max(int(center[1] - width / 2), 0), size[1] - width)
    return Crop(top, left, height, width)


def image_size(objects: dict[str, list]) -> tuple[int, int]:
    """(height, width) of the image that the objects, at least one, are drawn on."""
    height, width = objects["segmentation"][0]["size"]
    return int(height), int(width)


def center_of_largest(objects: dict[str, list]) -> tuple[float, float]:
    """(y, x) of the middle of the largest object's box."""
    x, y, width, height = objects["bbox"][int(np.argmax(objects["area"]))]
    return y + height / 2, x + width / 2


def visible_masks(
    objects: dict[str, list], crop: Crop, min_area: int, limit: int, rng: np.random.Generator | None = None
) -> np.ndarray:
    """Masks, cut to a crop, of at most `limit` objects that show at least `min_area` pixels in it.

    Args:
        objects (`dict`): `objects` of a canonical example.
        crop (`Crop`): What is seen of the image.
        min_area (`int`): Smallest visible area of an object, px.
        limit (`int`): Objects wanted. Masks are decoded only until so many are found.
        rng (`numpy.random.Generator`, *optional*): Draws a random subset, without repeats; without it the first ones.

    Returns:
        `numpy.ndarray`: Boolean masks (n, crop height, crop width), n <= `limit`, in the order of the objects.
    """
    found = masks_within(objects, crop, min_area, limit, rng)
    masks = [found[index] for index in sorted(found)]
    return np.stack(masks) if masks else np.zeros((0, crop.height, crop.width), dtype=bool)


def masks_within(
    objects: dict[str, list],
    crop: Crop,
    min_area: int = 1,
    limit: int | None = None,
    rng: np.random.Generator | None = None,
) -> dict[int, np.ndarray]:
    """Masks cut to a crop by the number of their object; arguments as of [`visible_masks`], `None` for all objects."""
    candidates = [i for i in range(len(objects["area"])) if _may_show(objects, i, crop, min_area)]
    found: dict[int, np.ndarray] = {}
    for index in candidates if rng is None else rng.permutation(candidates).astype(int).tolist():
        mask = _cut(objects["segmentation"][index], crop)
        if mask.sum() >= min_area:
            found[index] = mask
        if len(found) == limit:
            break
    return found


def _may_show(objects: dict[str, Any], index: int, crop: Crop, min_area: int) -> bool:
    """Whether the object is large enough and its box meets the crop, told without decoding the mask."""
    x, y, width, height = objects["bbox"][index]
    left, top, right, bottom = crop.corners
    return objects["area"][index] >= min_area and x < right and x + width > left and y < bottom and y + height > top


def _cut(rle: dict[str, Any], crop: Crop) -> np.ndarray:
    left, top, right, bottom = crop.corners
    return decode_mask(rle)[top:bottom, left:right]
