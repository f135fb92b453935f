"""Which data a run saw, told without reading it: the names and sizes of its files, or its commit on the Hub."""

import hashlib
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError

from .arguments import DataArguments
from .classification import stream_classification
from .classification_arguments import ImageClassificationArguments
from .load import open_source


Part = Literal["train", "eval"]

TIMEOUT_S = 10.0
# Of more entries than this, a folder's own time must tell whether any was added or taken away.
MOST_ENTRIES = 1000


def data_fingerprint(args: DataArguments | ImageClassificationArguments, part: Part = "train") -> dict[str, Any]:
    """Tells a dataset from what lay, or lies later, under the same name.

    Args:
        args (`DataArguments` or `ImageClassificationArguments`): Its `source`, and `revision` on the Hub.
        part (`str`): Which split of a stream is looked at.

    Returns:
        `dict`: Of a local file or folder `files`, `bytes` and `digest` of all names (as seen from there) and sizes;
        of one that is streamed `rows` and `digest` of the shards of its split; of a dataset on the Hub its
        `commit`, None if the Hub cannot be asked; of generated shapes `generated`.
    """
    if args.source == "shapes" or (isinstance(args, DataArguments) and args.format == "shapes"):
        return {"generated": True}
    path = Path(args.source)
    if not path.exists():
        return {"commit": _commit(args.source, args.revision)}
    if not args.streaming:
        return local_fingerprint(path)
    source = open_source(args, part) if isinstance(args, DataArguments) else stream_classification(args, part)[0]
    return {"rows": len(source), "digest": source.fingerprint()}


def data_stamp(args: DataArguments | ImageClassificationArguments) -> str | None:
    """Stays while nothing at the top of a local file or folder is written, added or taken away: cheap to ask of any
    number of files. None of what is not local."""
    path = Path(args.source)
    if not path.exists():
        return None
    looked_at = [path]
    if path.is_dir():
        with os.scandir(path) as entries:
            top = [Path(entry) for entry in islice(entries, MOST_ENTRIES + 1) if entry.is_dir() or entry.is_file()]
        looked_at += top if len(top) <= MOST_ENTRIES else []
    known = sorted((str(file.absolute()), file.stat().st_mtime_ns, file.stat().st_size) for file in looked_at)
    return hashlib.sha256(repr((known, args.streaming and args)).encode()).hexdigest()[:16]


def local_fingerprint(path: Path) -> dict[str, Any]:
    """Number of files, bytes, and a digest of names and sizes."""
    digest, count, size = hashlib.sha256(), 0, 0
    for name, length in _files(path):
        digest.update(f"{name}\0{length}\n".encode("utf-8", "backslashreplace"))
        count, size = count + 1, size + length
    return {"files": count, "bytes": size, "digest": digest.hexdigest()[:16]}


def _files(path: Path) -> Iterator[tuple[str, int]]:
    """Relative names and sizes, in an order that does not depend on the file system."""
    if path.is_file():
        yield path.name, path.stat().st_size
        return
    for folder, folders, files in os.walk(path):
        folders.sort()
        for name in sorted(files):
            file = Path(folder) / name
            if not file.is_file():
                continue  # a link to what is gone, or no file at all
            yield file.relative_to(path).as_posix(), file.stat().st_size


def _commit(repo: str, revision: str | None) -> str | None:
    try:
        return HfApi().dataset_info(repo, revision=revision, timeout=TIMEOUT_S).sha
    # Not asked, not reached, not found: if it matters, reading the data says so.
    except (HTTPError, OSError, ValueError):
        return None


__all__ = ["data_fingerprint", "data_stamp", "local_fingerprint"]
