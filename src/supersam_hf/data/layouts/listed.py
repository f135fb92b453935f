"""What the layouts with an image file each have in common."""

import hashlib
import os
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..canonical import check_mask_size
from ..images import encoded_size
from ..masks import read_binary_mask
from ..paths import check_inside, check_utf8, inside, shown, source_root
from ..source import Shard, Source
from ..unreadable import broken_example


IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
SHARD_FILES = 1000


class ListedSource(Source):
    """Image files by name, 1,000 of them a shard.

    Args:
        root (`Path`): Folder that the names are relative to.
        names (`Sequence[str]`): Image files, in order.
        source (`Path`, *optional*): Folder of the whole source, in which all files must lie; by default `root`.
    """

    def __init__(self, root: Path, names: Sequence[str], source: Path | None = None) -> None:
        self.root, self.within = root, source_root(source or root)
        # Bytes without their trailing zeros: a tenth of the memory of as many strings.
        self._names = np.array([os.fsencode(name) for name in names], dtype=np.bytes_)
        self.shards = []
        for start in range(0, len(names), SHARD_FILES):
            part = self._names[start : start + SHARD_FILES]
            digest = hashlib.sha256(b"\0".join(part.tolist())).hexdigest()[:16]
            self.shards.append(Shard(f"{root} (from {shown(names[start])} on)", len(part), contents=digest))

    @abstractmethod
    def objects(self, index: int, file: Path, size: tuple[int, int]) -> dict[str, list]:
        """`objects` of a canonical example: those of image number `index`, a file of (height, width)."""

    @abstractmethod
    def mask_files(self, file: Path) -> list[Path]:
        """The files that the objects of an image come from."""

    def image_id(self, index: int, file: Path) -> str:
        return file.stem

    def file(self, shard: int, row: int) -> Path:
        return self.root / os.fsdecode(self._names[shard * SHARD_FILES + row])

    def name(self, shard: int, row: int) -> str:
        return shown(self.file(shard, row))

    def checked_file(self, shard: int, row: int) -> Path:
        """The image file of a row; `ValueError` where it or its masks lie outside of the source, or its name is no
        UTF-8."""
        file = inside(self.root, os.fsdecode(self._names[shard * SHARD_FILES + row]), [self.within])
        check_utf8(file)
        check_inside(self.mask_files(file), [self.within])
        return file

    def read(self, shard: int, row: int) -> dict[str, Any]:
        index = shard * SHARD_FILES + row
        with broken_example(self.name(shard, row), self.root):
            file = self.checked_file(shard, row)
            objects = self.objects(index, file, encoded_size(file, "it"))
        name = self.image_id(index, file)
        return {"image": {"bytes": None, "path": str(file)}, "image_id": name, "objects": objects}

    def image_size(self, shard: int, row: int) -> tuple[int, int]:
        with broken_example(self.name(shard, row), self.root):
            return encoded_size(self.checked_file(shard, row), "it")

    def stamp(self, shard: int) -> str:
        files = [self.file(shard, row) for row in range(self.shards[shard].rows)]
        return stamp_of([path for file in files for path in (file, *self.mask_files(file))])


def stamp_of(files: Sequence[Path]) -> str:
    """Names, sizes and times of files; those that are missing are said to be."""
    parts = []
    for file in files:
        status = file.stat() if file.exists() else None
        parts.append(f"{file}:{status and (status.st_size, status.st_mtime_ns)}")
    return "\n".join(parts)


def binary_mask(file: Path, size: tuple[int, int]) -> np.ndarray:
    """Boolean (height, width) of a mask file of the size given (see `read_binary_mask`).

    Raises:
        ValueError: If it is of another size, or it is not clear what its object is.
    """
    mask = read_binary_mask(file)
    check_mask_size(mask.shape, size, file.name)
    return mask
