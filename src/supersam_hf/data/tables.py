"""Datasets whose rows already hold image and masks, turned into canonical ones (see `canonical_features`)."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from .arguments import SourceFormat
from .canonical import (
    CONVERSION,
    canonical_features,
    check_mask_size,
    decoded_size,
    id_map_array,
    instances_to_objects,
    segmentations_to_objects,
)
from .splits import open_stored


if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


def from_instances(source: "str | Path | Dataset", split: str = "train") -> "Dataset":
    """From columns `image` and `instances` (a one-channel PNG of instance ids, 8 or 16 bits, 0 = background).

    Args:
        source (`str`, `Path` or `Dataset`): Parquet file, folder of `<split>.parquet`, folder of `save_to_disk`,
            dataset id on the Hub, or a dataset.
        split (`str`, *optional*, defaults to `"train"`): Split; "val" and "validation" mean the same.

    Raises:
        ValueError: If a column or split is not there, or an id map is not of its image's size (naming the image).
    """
    return _convert(open_stored(source, split), _convert_instances, ("image", "instances"))


def from_canonical(source: "str | Path | Dataset", split: str = "train") -> "Dataset":
    """From columns `image` and `objects`: a dict of lists or a list of dicts with at least `segmentation` (COCO run
    lengths or polygons). Boxes and areas are taken anew from the masks. Arguments and errors as `from_instances`.
    """
    return _convert(open_stored(source, split), _convert_objects, ("image", "objects"))


def canonical_stream(stream: "IterableDataset", layout: SourceFormat) -> "IterableDataset":
    """A stream of canonical rows, converted as they are read, images as the bytes they are.

    Args:
        stream (`datasets.IterableDataset`): Rows with `image` and `instances` or `objects`.
        layout (`str`): "instances", "canonical", or "auto": by the columns.

    Raises:
        ValueError: If a column is not there.
    """
    from datasets import Image as ImageFeature

    if stream.features != canonical_features():
        by_objects = layout == "canonical" or (layout == "auto" and "objects" in stream.features)
        function, column = (_convert_objects, "objects") if by_objects else (_convert_instances, "instances")
        stream = _convert(stream, function, ("image", column))
    return stream.cast_column("image", ImageFeature(decode=False))


def _convert(data: Any, function: Any, needed: tuple[str, str]) -> Any:
    """Maps rows of a dataset or a stream to canonical ones; the images pass through as the bytes they are."""
    from datasets import Dataset
    from datasets import Image as ImageFeature

    missing = [name for name in needed if name not in data.column_names]
    if missing:
        raise ValueError(
            f"The dataset has columns {data.column_names}, but no {missing}. Masks are needed: columns `image` and "
            "`instances` (map of instance ids), or `image` and `objects` with a `segmentation` (COCO run lengths)."
        )
    data = data.cast_column("image", ImageFeature(decode=False))
    dropped = [name for name in data.column_names if name != "image"]
    arguments: dict[str, Any] = {"with_indices": True, "remove_columns": dropped, "features": canonical_features()}
    if isinstance(data, Dataset):
        arguments["desc"] = "Converting masks"
    converted = data.map(function, fn_kwargs={"conversion": CONVERSION}, **arguments)
    return converted.select_columns(list(canonical_features()))


def _convert_instances(row: dict[str, Any], index: int, conversion: int) -> dict[str, Any]:
    name = _row_name(row, index)
    if not isinstance(row["instances"], Image.Image):
        raise ValueError(f"`instances` of {name} is no image; it must be a PNG of object ids, 0 = background.")
    ids = id_map_array(row["instances"], name)
    check_mask_size(ids.shape, _cell_size(row["image"]), name)
    return {"image_id": name, "objects": instances_to_objects(ids)}


def _convert_objects(row: dict[str, Any], index: int, conversion: int) -> dict[str, Any]:
    name, objects = _row_name(row, index), row["objects"]
    fields = set(objects) if isinstance(objects, dict) else {key for item in objects for key in item}
    if objects and "segmentation" not in fields:
        raise ValueError(
            f"`objects` of image {name!r} has {sorted(fields)}, but no `segmentation` (COCO run lengths)."
        )
    masks = objects["segmentation"] if isinstance(objects, dict) else [item["segmentation"] for item in objects]
    return {"image_id": name, "objects": segmentations_to_objects(masks, _cell_size(row["image"]), name)}


def _row_name(row: dict[str, Any], index: int) -> str:
    for column in ("image_id", "id"):
        if column in row:
            return str(row[column])
    return str(index)


def _cell_size(cell: dict[str, Any]) -> tuple[int, int]:
    """(height, width) of an image column's cell, from its header."""
    with Image.open(io.BytesIO(cell["bytes"]) if cell["bytes"] is not None else cell["path"]) as image:
        return decoded_size(image)
