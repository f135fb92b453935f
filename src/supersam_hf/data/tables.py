"""Datasets whose rows already hold image and masks, turned into canonical ones (see `canonical_features`)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import SourceFormat
from .canonical import CONVERSION, check_mask_size, instances_to_objects
from .convert import convert
from .images import encoded_size
from .masks import read_ids
from .segmentations import segmentations_to_objects
from .source import Shard, Source
from .splits import open_stored
from .unreadable import broken_example


if TYPE_CHECKING:
    from datasets import Dataset


def from_instances(source: "str | Path | Dataset", split: str = "train") -> "Dataset":
    """From columns `image` and `instances` (a one-channel PNG of instance ids, 8 or 16 bits, 0 = background).

    Args:
        source (`str`, `Path` or `Dataset`): Parquet file, folder of `<split>.parquet`, folder of `save_to_disk`,
            dataset id on the Hub, or a dataset.
        split (`str`, *optional*, defaults to `"train"`): Split; "val" and "validation" mean the same.

    Raises:
        ValueError: If a column or split is not there, or an id map is not of its image's size (naming the image).
    """
    return convert(TableSource(open_stored(source, split), "instances", split), skip=False)


def from_canonical(source: "str | Path | Dataset", split: str = "train") -> "Dataset":
    """From columns `image` and `objects`: a dict of lists or a list of dicts with at least `segmentation` (COCO run
    lengths or polygons). Boxes and areas are taken anew from the masks. Arguments and errors as `from_instances`.
    """
    return convert(TableSource(open_stored(source, split), "canonical", split), skip=False)


class TableSource(Source):
    """The rows of a dataset as canonical examples, converted as they are read; one shard.

    Args:
        dataset (`datasets.Dataset`): With columns `image` and `instances` or `objects`.
        layout (`str`): "instances", "canonical", or "auto": by the columns.
        name (`str`): What messages call it.

    Raises:
        ValueError: If a column is not there.
    """

    def __init__(self, dataset: "Dataset", layout: SourceFormat, name: str) -> None:
        from datasets import Image as ImageFeature

        by_objects = layout == "canonical" or (layout == "auto" and "objects" in dataset.column_names)
        self._convert = _convert_objects if by_objects else _convert_instances
        check_columns(dataset.column_names, ("image", "objects" if by_objects else "instances"))
        for column in ("image", "instances"):  # read where it is known which row is broken
            if isinstance(dataset.features.get(column), ImageFeature):
                dataset = dataset.cast_column(column, ImageFeature(decode=False))
        self.dataset = dataset
        self.shards = [Shard(name, len(dataset))]

    def read(self, shard: int, row: int) -> dict[str, Any]:
        with broken_example(self.name(shard, row)):
            values = self.dataset[row]
            if values["image"] is None:
                raise ValueError("its `image` is null.")
            return {"image": values["image"], **self._convert(values, row, CONVERSION)}

    def stamp(self, shard: int) -> str:
        return str(self.dataset._fingerprint)


def check_columns(columns: list[str], needed: tuple[str, str]) -> None:
    """Raises `ValueError` where the columns of masks are not there."""
    missing = [name for name in needed if name not in columns]
    if missing:
        raise ValueError(
            f"The dataset has columns {columns}, but no {missing}. Masks are needed: columns `image` and "
            "`instances` (map of instance ids), or `image` and `objects` with a `segmentation` (COCO run lengths)."
        )


def _convert_instances(row: dict[str, Any], index: int, conversion: int) -> dict[str, Any]:
    name = _row_name(row, index)
    if not isinstance(row["instances"], (dict, bytes)):
        raise ValueError(f"`instances` of {name} is no image; it must be a PNG of object ids, 0 = background.")
    ids = read_ids(row["instances"], f"The map of image {name!r}")
    check_mask_size(ids.shape, encoded_size(row["image"]), name)
    return {"image_id": name, "objects": instances_to_objects(ids)}


def _convert_objects(row: dict[str, Any], index: int, conversion: int) -> dict[str, Any]:
    name, objects = _row_name(row, index), row["objects"]
    if objects is None:
        raise ValueError("its `objects` are null.")
    fields = set(objects) if isinstance(objects, dict) else {key for item in objects for key in item}
    if objects and "segmentation" not in fields:
        raise ValueError(
            f"`objects` of image {name!r} has {sorted(fields)}, but no `segmentation` (COCO run lengths)."
        )
    masks = objects["segmentation"] if isinstance(objects, dict) else [item["segmentation"] for item in objects]
    return {"image_id": name, "objects": segmentations_to_objects(masks, encoded_size(row["image"]), name)}


def _row_name(row: dict[str, Any], index: int) -> str:
    for column in ("image_id", "id"):
        if column in row:
            return str(row[column])
    return str(index)
