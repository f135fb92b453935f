"""Datasets whose rows already hold image and masks, turned into canonical ones (see `canonical_features`)."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import SourceFormat
from .canonical import check_mask_size, instances_to_objects, no_objects
from .cells import Cells
from .columns import Columns, segmented_columns
from .convert import convert
from .images import encoded_size
from .masks import read_ids
from .segmentations import segmentations_to_objects
from .source import Shard, Source
from .stored import Stored, open_stored
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
        stored ([`Stored`]): The dataset.
        layout (`str`): "instances", "canonical", "images", or "auto": by the columns.
        name (`str`): What messages call it.
        columns (`dict`, *optional*): As of `data.columns`.

    Raises:
        ValueError: If a column is not there.
    """

    def __init__(self, stored: Stored, layout: SourceFormat, name: str, columns: Columns | None = None) -> None:
        from datasets import Image

        dataset = stored.dataset
        found = segmented_columns(columns, dataset.column_names, layout)
        self._convert = SegmentedRow(found, stored.cells)
        dataset = dataset.select_columns(list(found.values()))
        for kind in ("image", "instances"):  # read where it is known which row is broken
            if kind in found and isinstance(dataset.features[found[kind]], Image):
                dataset = dataset.cast_column(found[kind], Image(decode=False))
        self.dataset = dataset
        self.shards = [Shard(name, len(dataset))]

    def read(self, shard: int, row: int) -> dict[str, Any]:
        with broken_example(self.name(shard, row)):
            return self._convert(self.dataset[row], row)

    def stamp(self, shard: int) -> str:
        return str(self.dataset._fingerprint)


@dataclass(frozen=True)
class SegmentedRow:
    """Makes a canonical example of a row of a table.

    Args:
        columns (`dict[str, str]`): Columns by what they are (see [`segmented_columns`]).
        cells ([`Cells`]): How images are found.
    """

    columns: dict[str, str]
    cells: Cells

    def __call__(self, row: dict[str, Any], number: int) -> dict[str, Any]:
        """The example of a row, whose number in its split is its name where it has none.

        Raises:
            ValueError: If it has no image or no masks, or they are not of one size.
        """
        image = self.cells.image(row, self.columns["image"])
        name = row.get(self.columns.get("image_id", ""))
        name = str(number if name is None else name)
        size = encoded_size(image, f"The image {name!r}")
        if "objects" in self.columns:
            objects = self._objects(row, size, name)
        elif "instances" in self.columns:
            objects = self._instances(row, size, name)
        else:  # pictures alone
            objects = no_objects()
        return {"image": image, "image_id": name, "objects": objects}

    def _instances(self, row: dict[str, Any], size: tuple[int, int], name: str) -> dict[str, list]:
        column = self.columns["instances"]
        if not isinstance(row[column], (dict, bytes, str)):
            raise ValueError(f"`{column}` of {name} is no image; it must be a PNG of object ids, 0 = background.")
        ids = read_ids(self.cells.image(row, column), f"The map of image {name!r}")
        check_mask_size(ids.shape, size, name)
        return instances_to_objects(ids)

    def _objects(self, row: dict[str, Any], size: tuple[int, int], name: str) -> dict[str, list]:
        column = self.columns["objects"]
        objects = row[column]
        if objects is None:
            raise ValueError(f"its `{column}` are null.")
        fields = set(objects) if isinstance(objects, dict) else {key for item in objects for key in item}
        if objects and "segmentation" not in fields:
            raise ValueError(
                f"`{column}` of image {name!r} has {sorted(fields)}, but no `segmentation` (COCO run lengths)."
            )
        masks = objects["segmentation"] if isinstance(objects, dict) else [item["segmentation"] for item in objects]
        return segmentations_to_objects(masks, size, name)
