"""Parquet files of segmented images as a source of canonical examples."""

from typing import Any

from .arguments import DataArguments
from .canonical import CONVERSION
from .parquet_files import open_split
from .parquet_source import ParquetSource
from .tables import _convert_instances, _convert_objects, check_columns


ID_COLUMNS = ("image_id", "id")


def segmented_parquet(args: DataArguments, split: str) -> ParquetSource:
    """A split of parquet files, or of a dataset of parquet files on the Hub, converted as it is read.

    Args:
        args (`DataArguments`): `source`, `revision`, and `format`: "instances", "canonical", or "auto": by the
            columns. Row groups are kept so that blocks of `shuffle_buffer` rows can be read in any order.
        split (`str`): Its name, without a slice.

    Raises:
        ValueError: If the source, its split or its columns are not there (saying what is), or it is no parquet.
    """
    opened = open_split(args.source, split, args.config_name, args.revision)
    rows_kept = args.shuffle_buffer if args.streaming else 0
    by_objects = args.format == "canonical" or (args.format == "auto" and "objects" in opened.features)
    function, masks = (_from_objects, "objects") if by_objects else (_from_instances, "instances")
    check_columns(list(opened.features), ("image", masks))
    columns = ["image", masks, *(name for name in ID_COLUMNS if name in opened.features)]
    return ParquetSource(opened, columns, function, rows_kept)


def image_cell(row: dict[str, Any], column: str) -> dict[str, Any]:
    """A row's image as `{"bytes": ..., "path": ...}`, whether its column holds that, bytes or a path.

    Raises:
        ValueError: If it holds nothing.
    """
    value = row[column]
    if value is None:
        raise ValueError(f"its `{column}` is null.")
    if isinstance(value, dict):
        return value
    return {"bytes": value, "path": None} if isinstance(value, bytes) else {"bytes": None, "path": value}


def _from_objects(row: dict[str, Any], number: int) -> dict[str, Any]:
    row["image"] = image_cell(row, "image")
    return {"image": row["image"], **_convert_objects(row, number, CONVERSION)}


def _from_instances(row: dict[str, Any], number: int) -> dict[str, Any]:
    row["image"] = image_cell(row, "image")
    row["instances"] = image_cell(row, "instances")
    return {"image": row["image"], **_convert_instances(row, number, CONVERSION)}
