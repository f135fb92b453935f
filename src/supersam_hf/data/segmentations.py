"""COCO's segmentations, polygons and run lengths, as compressed run lengths.

pycocotools reads and writes memory that is not its own, or fills all there is, when a number is not finite, lies far
from the image, or does not add up. So every number is checked before it sees one.
"""

import logging
from typing import Any

import numpy as np

from .canonical import check_mask_size, rles_to_objects


logger = logging.getLogger(__name__)

# A corner further from the image than so many of its longer side is a mistake, not one that is to be clipped.
FAR = 10
# Px of an outline: pycocotools holds every step along it. A quarter of the image's pixels is more than any object has;
# in small images that is less than a few edges that come from afar.
OUTLINE_SHARE, FAR_EDGES = 0.25, 8
# Of 5 bits, in a number of compressed run lengths, which is one of 32 bits.
MOST_GROUPS = 7
CORNERS = "a polygon is [x, y, x, y, ...] or [[x, y], [x, y], ...]"


def segmentations_to_objects(segmentations: list[Any], size: tuple[int, int], name: str) -> dict[str, list]:
    """`objects` of a canonical example from COCO segmentations; those without a pixel are left out,
    and how many is logged.

    Args:
        segmentations (`list`): Polygons, plain or compressed run lengths.
        size (`tuple[int, int]`): Height and width of the image.
        name (`str`): Of the image, for messages.

    Raises:
        ValueError: If a segmentation is none, or not of the image, naming it.
    """
    rles = [segmentation_to_rle(segmentation, size, name) for segmentation in segmentations]
    objects = rles_to_objects([rle for rle in rles if rle is not None])
    if len(objects["area"]) < len(rles):
        missing = len(rles) - len(objects["area"])
        logger.info(f"Image {name!r}: {missing} of {len(rles)} masks cover no pixel and are left out.")
    return objects


def segmentation_to_rle(segmentation: Any, size: tuple[int, int], name: str) -> dict[str, Any] | None:
    """Compressed run lengths of a segmentation of an image of (height, width) and a name.

    Returns `None` where there is nothing to draw: no polygon of three corners or more.

    Raises:
        ValueError: As [`segmentations_to_objects`].
    """
    from pycocotools import mask as coco_mask

    if isinstance(segmentation, dict):
        return _checked_run_lengths(segmentation, size, name)
    if not isinstance(segmentation, list):
        raise ValueError(
            f"A `segmentation` of image {name!r} is {segmentation!r:.60}; it must be polygons or run lengths."
        )
    outlines = [_outline(polygon, name) for polygon in _polygons(segmentation)]
    drawn = [outline for outline in outlines if len(outline) >= 3]
    for outline in drawn:
        _check_outline(outline, size, name)
    polygons = [outline.ravel().tolist() for outline in drawn]
    return coco_mask.merge(coco_mask.frPyObjects(polygons, *size)) if polygons else None


def _polygons(segmentation: list[Any]) -> list[Any]:
    """The polygons of a segmentation, of which there is one where it is a list of numbers or of corners."""
    flat = all(not isinstance(part, list) for part in segmentation)
    corners = all(
        isinstance(part, list) and len(part) == 2 and not any(isinstance(number, list) for number in part)
        for part in segmentation
    )
    return [segmentation] if segmentation and (flat or corners) else segmentation


def _outline(polygon: Any, name: str) -> np.ndarray:
    """Corners float64 (n, 2) of a polygon that is a list of numbers or of corners."""
    try:
        values = np.array(polygon)
    except ValueError:  # lists of several lengths
        values = np.array(None)
    if values.size == 0:
        return np.zeros((0, 2))
    flat = values.ndim == 1 and len(values) % 2 == 0
    # true and false would be 1 and 0
    truths = any(number is True or number is False for part in polygon for number in _as_list(part))
    if truths or values.dtype.kind not in "iuf" or not (flat or (values.ndim == 2 and values.shape[1] == 2)):
        raise ValueError(f"A polygon of image {name!r} is {str(polygon):.60}; {CORNERS}.")
    return values.reshape(-1, 2).astype(np.float64)


def _as_list(part: Any) -> list[Any]:
    return part if isinstance(part, list) else [part]


def _check_outline(outline: np.ndarray, size: tuple[int, int], name: str) -> None:
    """Raises `ValueError` for corners (n, 2) that are not finite or far from the image, or too long an outline."""
    height, width = size
    if not np.isfinite(outline).all():
        raise ValueError(f"A polygon of image {name!r} has a corner that is not finite (NaN or infinite).")
    reach = FAR * max(size)
    far = ((outline < -reach) | (outline > np.array([width, height]) + reach)).any(axis=1)
    if far.any():
        x, y = outline[far.argmax()]
        raise ValueError(
            f"A polygon of image {name!r} has a corner at ({x:g}, {y:g}), far outside of its {width} x {height} px "
            "(width x height)."
        )
    steps = np.abs(outline - np.roll(outline, 1, axis=0)).max(axis=1).sum()
    longest = OUTLINE_SHARE * height * width + FAR_EDGES * (2 * FAR + 1) * max(size)
    if steps > longest:
        raise ValueError(f"The outline of a polygon of image {name!r} is {steps:.0f} px long, which no object has.")


def _checked_run_lengths(rle: dict[str, Any], size: tuple[int, int], name: str) -> dict[str, Any]:
    """Compressed run lengths of plain or compressed ones."""
    from pycocotools import mask as coco_mask

    stated, counts = rle.get("size"), rle.get("counts")
    if not isinstance(stated, (list, tuple)) or len(stated) != 2 or counts is None:
        raise ValueError(f"A mask of image {name!r} has no `size` [height, width] with `counts`.")
    check_mask_size((stated[0], stated[1]), size, name)
    if isinstance(counts, (str, bytes)):
        check_run_lengths(rle, name)
        return {"size": list(size), "counts": counts}
    check_plain_counts(counts, size, name)
    return coco_mask.frPyObjects({"size": list(size), "counts": counts}, *size)


def check_plain_counts(counts: Any, size: tuple[int, int], name: str) -> None:
    """Raises `ValueError` unless run lengths are whole numbers from 0 on that add up to the pixels of an image of
    (height, width)."""
    values = np.array(counts) if isinstance(counts, list) else np.array(None)
    if values.ndim != 1 or values.dtype.kind not in "iu" or not len(values) or values.min() < 0:
        raise ValueError(
            f"The run lengths of a mask of image {name!r} are {str(counts):.60}; they must be whole numbers."
        )
    _check_sum(int(values.sum()), size, name)


def check_run_lengths(rle: dict[str, Any], name: str) -> None:
    """Raises `ValueError` unless compressed run lengths add up to the pixels of their mask.

    A number is stored in groups of 5 bits, lowest first, as characters from "0" on: bit 6 says that another follows,
    bit 5 of the last one is the sign; from the fourth number on it is the difference to the last but one.
    """
    counts = rle["counts"]
    content = counts if isinstance(counts, bytes) else counts.encode()
    groups = np.frombuffer(content, dtype=np.uint8).astype(np.int64) - 48
    last = (groups & 32) == 0
    starts = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    place = np.arange(len(groups)) - np.repeat(starts, np.diff([*starts, len(groups)]))
    if not len(groups) or not last[-1] or groups.min() < 0 or groups.max() > 63 or place.max() >= MOST_GROUPS:
        raise ValueError(f"A mask of image {name!r} is not in compressed run lengths.")
    values = np.add.reduceat((groups & 31) << (5 * place), starts)
    values -= np.where(groups[last] & 16, 1 << (5 * (place[last] + 1)), 0)
    runs = values.copy()
    for first in (1, 2):  # runs of inside, then of outside, each from its first number on
        runs[first::2] = np.cumsum(values[first::2])
    _check_sum(-1 if runs.min() < 0 else int(runs.sum()), (rle["size"][0], rle["size"][1]), name)


def _check_sum(total: int, size: tuple[int, int], name: str) -> None:
    if total != size[0] * size[1]:
        raise ValueError(f"The run lengths of a mask of image {name!r} add up to {total} px, not to its size.")


__all__ = ["check_run_lengths", "segmentation_to_rle", "segmentations_to_objects"]
