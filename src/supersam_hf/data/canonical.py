"""The canonical segmentation example that every source is turned into, and its masks as COCO run lengths."""

from typing import TYPE_CHECKING, Any

import numpy as np


if TYPE_CHECKING:
    from datasets import Features


# Part of the key under which converted datasets are cached: to be raised when a conversion changes.
CONVERSION = 2


def canonical_features() -> "Features":
    """Columns of a canonical dataset.

    `image` (RGB or anything `to_rgb` takes), `image_id` (string) and `objects`, a dict of lists with one entry an
    object: `segmentation` (COCO compressed run lengths, `size` = [height, width]), `bbox` (COCO [x, y, width, height]
    in absolute pixels) and `area` (pixels).
    """
    from datasets import Features, Image, List, Value

    run_lengths = {"size": List(Value("int32")), "counts": Value("string")}
    objects = {"segmentation": List(run_lengths), "bbox": List(List(Value("float32"))), "area": List(Value("int64"))}
    return Features({"image": Image(), "image_id": Value("string"), "objects": objects})


def no_objects() -> dict[str, list]:
    """`objects` of a canonical example that has none."""
    return {"segmentation": [], "bbox": [], "area": []}


def rles_to_objects(rles: list[dict[str, Any]]) -> dict[str, list]:
    """`objects` of a canonical example from compressed run lengths; masks without a pixel are left out."""
    from pycocotools import mask as coco_mask

    # One call a mask: `area` of pycocotools 2.0.11 overflows on lists of more than 255.
    areas = [int(coco_mask.area(rle)) for rle in rles]
    kept = [(rle, area) for rle, area in zip(rles, areas) if area > 0]
    return {
        "segmentation": [{"size": list(map(int, rle["size"])), "counts": _as_text(rle["counts"])} for rle, _ in kept],
        "bbox": [coco_mask.toBbox(rle).tolist() for rle, _ in kept],
        "area": [area for _, area in kept],
    }


def encode_masks(masks: list[np.ndarray]) -> dict[str, list]:
    """`objects` of a canonical example from boolean masks (height, width); masks without a pixel are left out."""
    from pycocotools import mask as coco_mask

    return rles_to_objects([coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8)) for mask in masks])


def decode_mask(rle: dict[str, Any]) -> np.ndarray:
    """One boolean mask (height, width) from compressed run lengths."""
    from pycocotools import mask as coco_mask

    return coco_mask.decode(rle).astype(bool)


def decode_masks(objects: dict[str, list]) -> np.ndarray:
    """Boolean masks (n, height, width) of a canonical example; (0, 0, 0) where it has no object."""
    masks = [decode_mask(rle) for rle in objects["segmentation"]]
    return np.stack(masks) if masks else np.zeros((0, 0, 0), dtype=bool)


def instances_to_objects(id_map: np.ndarray) -> dict[str, list]:
    """`objects` of a canonical example from a map of instance ids (height, width), 0 = background.

    The runs of equal ids are found once for the whole map, so the work does not grow with the number of instances.
    """
    from pycocotools import mask as coco_mask

    height, width = id_map.shape
    flat = id_map.ravel(order="F")  # run lengths go down the columns
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    ends = np.append(starts[1:], flat.size)
    ids = flat[starts]
    rles = []
    for runs in _groups(ids):
        if ids[runs[0]] == 0:
            continue
        # Alternating lengths of outside and inside: the edges of this id's runs, and the end of the map.
        edges = np.stack([starts[runs], ends[runs]], axis=1).ravel()
        counts = np.diff(np.concatenate([[0], edges, [flat.size]]))
        counts = counts[:-1] if counts[-1] == 0 else counts
        rles.append(coco_mask.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width))
    return rles_to_objects(rles)


def check_mask_size(mask_size: tuple[int, int], image_size: tuple[int, int], name: str) -> None:
    """Raises `ValueError` unless a mask and its image agree in (height, width)."""
    if tuple(mask_size) != tuple(image_size):
        raise ValueError(
            f"A mask of image {name!r} is {mask_size[0]} x {mask_size[1]} px (height x width), "
            f"the image {image_size[0]} x {image_size[1]}; they must be of one size."
        )


def _groups(ids: np.ndarray) -> list[np.ndarray]:
    """Positions of equal ids, one array an id, each in ascending order."""
    order = np.argsort(ids, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(ids[order])) + 1)


def _as_text(counts: str | bytes) -> str:
    return counts.decode("ascii") if isinstance(counts, bytes) else counts
