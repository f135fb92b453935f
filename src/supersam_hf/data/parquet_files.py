"""The parquet files of a split, here or on the Hub, and what their footers say; no row is read."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm.auto import tqdm

from .cells import Cells
from .paths import inside, source_root
from .splits import ONLY_SPLIT, SEVERAL_PARTS, hub_splits, is_saved, resolve_split


if TYPE_CHECKING:
    from datasets import DatasetBuilder, Features
    from pyarrow.parquet import ParquetFile


# How the names of files of the Hub begin.
REMOTE = ("hf://", "https://", "http://")
# Footers that are read at a time; of more than SHOWN_FILES files a progress bar tells how far it is.
FOOTER_THREADS = 16
SHOWN_FILES = 100


@dataclass(frozen=True)
class Footer:
    """What the end of a parquet file says of it.

    Args:
        group_ends (`np.ndarray`): int64 (row groups,), rows of the file up to the end of each.
        size (`int`): Bytes of the file.
        features (`Features`): Its columns.
    """

    group_ends: np.ndarray
    size: int
    features: "Features"


@dataclass(frozen=True)
class ParquetSplit:
    """The files of a split.

    Args:
        files (`list[str]`): Paths, or URLs of one commit on the Hub.
        footers (`list[Footer]`): Of each.
        features (`Features`): Their columns.
    """

    files: list[str]
    footers: list[Footer]
    features: "Features"


class NotParquetError(ValueError):
    """A source that is no parquet, and so cannot be read row by row."""


def open_split(source: str, split: str, config_name: str | None = None, revision: str | None = None) -> ParquetSplit:
    """Finds the files of a split and reads their footers.

    Args:
        source (`str`): Parquet file, folder of parquet files, or dataset id on the Hub.
        split (`str`): Its name.
        config_name (`str`, *optional*): Configuration of a dataset on the Hub that has several.
        revision (`str`, *optional*): Branch, tag or commit on the Hub; what it is now is what stays read.

    Raises:
        ValueError: If nothing is there, it has no such split (listing those there are), it is no parquet, a file is
            broken, or the files have different columns.
    """
    files, features = split_files(source, split, config_name, revision)
    with ThreadPoolExecutor(FOOTER_THREADS) as threads:
        found = threads.map(read_footer, files)
        footers = list(tqdm(found, "Reading footers", len(files), unit="file", disable=len(files) < SHOWN_FILES))
    for file, footer in zip(files, footers, strict=True):
        if set(footer.features) != set(footers[0].features):
            raise ValueError(
                f"The columns of {file} are {sorted(footer.features)}, those of {files[0]} "
                f"{sorted(footers[0].features)}; all files of a split need the same."
            )
    return ParquetSplit(files, footers, features or footers[0].features)


def split_files(
    source: str, split: str, config_name: str | None, revision: str | None
) -> "tuple[list[str], Features | None]":
    """The files of a split, and its columns where the dataset says more of them than its files do."""
    path = Path(source)
    if path.is_file() and path.suffix == ".parquet":
        resolve_split(split, [ONLY_SPLIT], f"{path} ({SEVERAL_PARTS})")
        return [str(path)], None
    if path.exists() and (is_saved(path) or path.is_file() or not any(path.rglob("*.parquet"))):
        raise _not_parquet(source)
    if not path.exists():
        resolve_split(split, hub_splits(source, config_name, revision), source)
    builder, by_split = data_files(source, config_name, revision)
    files = by_split[resolve_split(split, list(by_split), source)]
    if not all(file.endswith(".parquet") for file in files):
        raise _not_parquet(source)
    return files, builder.info.features


def data_files(
    source: str, config_name: str | None = None, revision: str | None = None
) -> "tuple[DatasetBuilder, dict[str, list[str]]]":
    """What `datasets` takes a folder or a dataset on the Hub for, and its files by split.

    Raises:
        ValueError: If its card names files that lie elsewhere: outside of the folder, or of a dataset on the Hub here.
    """
    import datasets

    builder = datasets.load_dataset_builder(source, config_name, revision=revision)
    by_split = {str(name): [str(file) for file in files] for name, files in (builder.config.data_files or {}).items()}
    local = Path(source).is_dir()
    for file in (file for found in by_split.values() for file in found):
        remote = file.startswith(REMOTE) and "::" not in file
        if not remote and (not local or "://" in file or not os.path.isabs(file)):
            raise ValueError(f"The card of {source!r} names {file!r}; only files within the source are read.")
        if local:
            inside(Path(source), file, [source_root(Path(source))])
    return builder, by_split


def read_footer(file: str) -> Footer:
    """Raises `ValueError` naming the file where it is no whole parquet file."""
    import pyarrow as pa
    from datasets import Features

    try:
        opened, size = open_parquet(file)
        with opened:
            rows = [opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups)]
            return Footer(np.cumsum(rows, dtype=np.int64), size, Features.from_arrow_schema(opened.schema_arrow))
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, LookupError, TypeError, ValueError) as error:
        if is_remote(file) and isinstance(error, OSError):
            raise  # of the connection, not of the file
        said = "it is empty" if not is_remote(file) and not Path(file).stat().st_size else error
        raise ValueError(f"{file} is no whole parquet file: {said}") from error


def open_parquet(file: str) -> "tuple[ParquetFile, int]":
    """A parquet file at a path or URL, of which only the end is read, and its bytes."""
    import fsspec
    from pyarrow.parquet import ParquetFile

    system, path = fsspec.url_to_fs(file)
    remote = is_remote(file)
    if not remote and Path(path).exists() and not Path(path).is_file():
        raise ValueError(f"{file} is no regular file.")
    # Of a remote file Arrow asks for just the ranges that it needs.
    opened = system.open(path, "rb", **({"cache_type": "none"} if remote else {}))
    return ParquetFile(opened, pre_buffer=remote), opened.size


def cells_of(source: str) -> Cells:
    """How the images of parquet files are found: within the folder of a local source, else in the tables alone."""
    path = Path(source)
    return Cells((source_root(path),) if path.is_dir() else ())


def is_remote(file: str) -> bool:
    """Whether a file is on the Hub, at a URL, and not here, at a path."""
    return "://" in file


def _not_parquet(source: str) -> NotParquetError:
    return NotParquetError(
        f"`data.source` {source!r} cannot be streamed: it holds no parquet files. Turn it into some by "
        "`supersam-hf prepare`, or set `data.streaming: false`."
    )
