"""Datasets as parquet files that hold their images."""

import os
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from datasets import Dataset


def stored_bytes(dataset: "Dataset") -> int:
    """Bytes of all columns, images that are files counted as their files."""
    import pyarrow as pa

    total = 0
    for table in dataset.with_format("arrow").iter(1000):
        images = pa.chunked_array(table["image"]).combine_chunks()
        files = images.filter(images.field("bytes").is_null()).field("path").drop_null()
        total += table.nbytes + sum(os.path.getsize(path) for path in files.to_pylist())
    return total


def write_parquet(rows: "Dataset", folder: Path, split: str, max_shard_size: str) -> int:
    """Files of a split, named as on the Hub, the bytes of image files embedded; returns their bytes in memory.

    Args:
        rows (`datasets.Dataset`): The split.
        folder (`Path`): Where to write.
        split (`str`): Its name.
        max_shard_size (`str`): Most of a file, in memory, as "500MB".
    """
    from datasets.table import embed_table_storage
    from datasets.utils.py_utils import convert_file_size_to_int

    size = stored_bytes(rows)
    wanted = size // convert_file_size_to_int(max_shard_size) + 1
    count = max(1, min(wanted, len(rows)))
    for index in range(count):
        shard = rows.shard(num_shards=count, index=index, contiguous=True).with_format("arrow")
        desc = f"{split} {index + 1} of {count}"
        embedded = shard.map(embed_table_storage, batched=True, keep_in_memory=True, desc=desc)
        embedded.with_format(None).to_parquet(folder / f"{split}-{index:05d}-of-{count:05d}.parquet")
    return size
