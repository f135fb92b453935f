"""Parquet files of segmented images as a source of canonical examples."""

from .arguments import DataArguments
from .columns import segmented_columns
from .parquet_files import cells_of, open_split
from .parquet_source import ParquetSource
from .tables import SegmentedRow


def segmented_parquet(args: DataArguments, split: str) -> ParquetSource:
    """A split of parquet files, or of a dataset of parquet files on the Hub, converted as it is read.

    Args:
        args (`DataArguments`): `source`, `revision`, `columns`, and `format`: "instances", "canonical", or "auto": by
            the columns. Row groups are kept so that blocks of `shuffle_buffer` rows can be read in any order.
        split (`str`): Its name, without a slice.

    Raises:
        ValueError: If the source, its split or its columns are not there (saying what is), or it is no parquet.
    """
    opened = open_split(args.source, split, args.config_name, args.revision)
    columns = segmented_columns(args.columns, opened.features, args.format)
    rows_kept = args.shuffle_buffer if args.streaming else 0
    convert = SegmentedRow(columns, cells_of(args.source))
    return ParquetSource(opened, list(columns.values()), convert, rows_kept)
