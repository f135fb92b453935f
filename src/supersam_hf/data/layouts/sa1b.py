"""SA-1B: an image and a JSON of its masks each, in folders or in tars."""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from ..images import encoded_size
from ..paths import visible
from ..segmentations import segmentations_to_objects
from ..source import Shard, Source
from ..unreadable import broken_example
from .listed import ListedSource, stamp_of
from .tars import tar_index


INDEX_THREADS = 16


class Sa1bFolderSource(ListedSource):
    """`sa_<id>.jpg` with `sa_<id>.json`, in a folder or in folders within it.

    Args:
        root (`Path`): The folder.

    Raises:
        ValueError: If there is none.
    """

    def __init__(self, root: Path) -> None:
        within = (child for child in root.iterdir() if child.is_dir() and visible(child.name))
        folders = [root, *sorted(within)]
        names = [name for folder in folders for name in _image_names(folder, root)]
        if not names:
            raise ValueError(f"There is no file sa_*.jpg in {root}, or in a folder in it.")
        super().__init__(root, names)

    def objects(self, index: int, file: Path, size: tuple[int, int]) -> dict[str, list]:
        return sa1b_objects(self.mask_files(file)[0].read_bytes(), size, file.name)

    def mask_files(self, file: Path) -> list[Path]:
        return [file.with_suffix(".json")]


class Sa1bTarSource(Source):
    """Tars of `sa_<id>.jpg` with `sa_<id>.json`, as SA-1B comes. Of a tar that is cut off or damaged between
    members, or is none, the last example is broken.

    Args:
        files (`Sequence[Path]`): Uncompressed tars, on a disk.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)
        with ThreadPoolExecutor(INDEX_THREADS) as pool:
            rows = list(pool.map(lambda file: len(tar_index(file)), self.files))
        self.shards = [Shard(str(file), count, file.stat().st_size) for file, count in zip(self.files, rows)]

    def read(self, shard: int, row: int) -> dict[str, Any]:
        file, name = self.files[shard], self.name(shard, row)
        with broken_example(name, file):
            pair = tar_index(file)[row]
            stem = pair["stem"].item().decode()
            if not stem:
                raise ValueError("it is cut off or damaged, or is no uncompressed tar of .jpg and .json.")
            with file.open("rb") as tar:
                image = {"bytes": _member(tar, pair, "jpg"), "path": f"{stem}.jpg"}
                objects = sa1b_objects(_member(tar, pair, "json"), encoded_size(image), f"{stem}.jpg")
        return {"image": image, "image_id": stem, "objects": objects}

    def name(self, shard: int, row: int) -> str:
        file = self.files[shard]
        with broken_example(str(file), file):
            stem = tar_index(file)[row]["stem"].item().decode()
        return f"{file}/{stem}.jpg" if stem else str(file)

    def stamp(self, shard: int) -> str:
        return stamp_of([self.files[shard]])


def sa1b_objects(content: bytes, size: tuple[int, int], name: str) -> dict[str, list]:
    """`objects` of a canonical example from a JSON of SA-1B and its image's (height, width).

    Raises:
        ValueError: If it is no JSON, has no masks, or one of them is not of the image's size, or its run lengths do
            not add up to it (naming the image).
    """
    annotations = json.loads(content)["annotations"]
    return segmentations_to_objects([annotation["segmentation"] for annotation in annotations], size, name)


def _image_names(folder: Path, root: Path) -> list[str]:
    """Images of SA-1B in a folder, by their path in the root. One whose image is missing has annotations still."""
    stems = {os.path.splitext(name) for name in os.listdir(folder) if name.startswith("sa_")}
    within = "" if folder == root else f"{folder.name}/"
    return [f"{within}{stem}.jpg" for stem in sorted({stem for stem, suffix in stems if suffix in (".jpg", ".json")})]


def _member(tar: BinaryIO, pair: np.void, kind: Literal["jpg", "json"]) -> bytes:
    """The contents of a member; `ValueError` if it is missing or cut off."""
    begin, size = int(pair[kind]), int(pair[f"{kind}_size"])
    if begin < 0:
        raise ValueError(f"its .{kind} is not in the tar.")
    tar.seek(begin)
    content = tar.read(size)
    if len(content) != size:
        raise ValueError(f"its .{kind} is cut off: {len(content)} of {size} bytes.")
    return content
