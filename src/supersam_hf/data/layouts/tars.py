"""Where the members of a tar lie in it, found once without reading their contents."""

import hashlib
import logging
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from uuid import uuid4

import numpy as np

from ..paths import visible


logger = logging.getLogger(__name__)

# Of a stem: where its image and its annotations begin, and their bytes; -1 where there is none.
FIELDS = ("jpg", "jpg_size", "json", "json_size")
# A tar ends with two blocks of zeros, and more of them until a record is full.
BLOCK = 512
LARGEST_RECORD = 1024**2
# Part of the key of what is kept: to be raised when other members are taken.
INDEX = 2


def tar_index(file: Path) -> np.ndarray:
    """The pairs of `<stem>.jpg` and `<stem>.json` in a tar, sorted by stem. Where it is cut off or damaged between two
    pairs, or is no tar, the last row has no stem.

    It is kept in the cache of datasets, since to find it takes a look at each member's header; read from there, it
    stays on the disk until it is used.

    Args:
        file (`Path`): Uncompressed tar.

    Returns:
        `numpy.ndarray`: (pairs,) of `stem` and `FIELDS`.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    kept = _kept(file)
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        scratch = kept.with_name(f"{kept.stem}.{uuid4().hex}.npy")
        np.save(scratch, _read_index(file))
        scratch.replace(kept)
    return np.load(kept, mmap_mode="r", allow_pickle=False)


def _kept(file: Path) -> Path:
    from datasets import config

    status = file.stat()
    name = hashlib.sha256(
        f"{file.resolve()}:{status.st_size}:{status.st_mtime_ns}:{FIELDS}:{INDEX}".encode()
    ).hexdigest()
    return Path(config.HF_DATASETS_CACHE) / "tar_index" / f"{name[:32]}.npy"


def _read_index(file: Path) -> np.ndarray:
    rows: dict[str, dict[str, int]] = {}
    path, whole = "", False
    try:
        with tarfile.open(file, "r:") as tar:
            for member in _members(tar, file):
                path, suffix = os.path.splitext(member.name)
                kind = suffix[1:].lower()
                if member.isfile() and kind in ("jpg", "json"):
                    rows.setdefault(path, {}).update({kind: member.offset_data, f"{kind}_size": member.size})
            # A header that is damaged ends a tar as its end does.
            whole = _is_end(file, tar.offset)
    except tarfile.TarError:
        pass
    found = [
        (os.path.basename(stem).encode(), *(rows[stem].get(name, -1) for name in FIELDS)) for stem in sorted(rows)
    ]
    if not rows or not (whole or _is_cut(rows.get(path, {}), file.stat().st_size)):
        found.append((b"", -1, -1, -1, -1))
    stems = np.array([row[0] for row in found], dtype=np.bytes_)
    return np.array(found, dtype=[("stem", stems.dtype), *((name, np.int64) for name in FIELDS)])


def _members(tar: tarfile.TarFile, file: Path) -> Iterator[tarfile.TarInfo]:
    """The members of a tar, one by one, but for hidden files, as macOS adds for each; how many those are is logged.

    Raises:
        ReadError: If a header leads back to members before it.
    """
    hidden, end = 0, -1
    for member in tar:
        if member.offset <= end:
            raise tarfile.ReadError(f"a member at byte {member.offset} follows one at {end}")
        end = member.offset
        if all(visible(part) for part in PurePosixPath(member.name).parts if part != ".."):
            yield member
        else:
            hidden += 1
    if hidden:
        logger.warning(f"{file}: {hidden} hidden members are left out.")


def _is_end(file: Path, offset: int) -> bool:
    """Whether nothing but the zeros at the end of a tar comes from there on."""
    with file.open("rb") as tar:
        tar.seek(offset)
        end = tar.read(LARGEST_RECORD)
    return len(end) >= 2 * BLOCK and not end.strip(b"\0")


def _is_cut(pair: dict[str, int], size: int) -> bool:
    """Whether a pair of a tar of so many bytes lacks something, so that it fails when it is read."""
    return any(name not in pair or pair[name] + pair[f"{name}_size"] > size for name in ("jpg", "json"))
