"""A folder of images and one of their masks."""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..canonical import check_mask_size, encode_masks, instances_to_objects
from ..masks import read_ids
from ..paths import visible
from .listed import IMAGE_SUFFIXES, ListedSource, binary_mask


logger = logging.getLogger(__name__)


class FolderSource(ListedSource):
    """Images `<stem>.*` with, in another folder, `<stem>.png` (an id for each pixel, 0 = background) or
    `<stem>/*.png` (one binary mask an object); masks of any suffix of images, in upper or lower case.

    Ids may be of instances, or of classes as in the scene parsing of ADE20K: then each class that is to be seen is one
    object.

    Args:
        images (`Path`): Folder of images.
        masks (`Path`): Folder of their masks.
        source (`Path`, *optional*): Folder of the whole source; by default the one that holds both.

    Raises:
        ValueError: If a folder is missing, there is no image, or two images have one name, and so one mask.
    """

    def __init__(self, images: Path, masks: Path, source: Path | None = None) -> None:
        for folder in (images, masks):
            if not folder.is_dir():
                raise ValueError(f"There is no folder {folder}; the layout needs {images} and {masks}.")
        names = image_names(images)
        check_stems(images, names)
        super().__init__(images, names, source or Path(os.path.commonpath([images, masks])))
        self.masks = masks
        if not self.shards:
            raise ValueError(f"{images} has no image ({', '.join(IMAGE_SUFFIXES)}).")

    @cached_property
    def _maps(self) -> dict[str, list[str]]:
        return names_by_stem(self.masks)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_maps"}

    def objects(self, index: int, file: Path, size: tuple[int, int]) -> dict[str, list]:
        folder, maps = self.masks / file.stem, self._maps.get(file.stem, [])
        if not maps and not folder.is_dir():
            raise ValueError(f"There is neither {folder}.png nor a folder {folder}.")
        single = mask_names(folder) if folder.is_dir() else []
        if len(maps) > 1 or (maps and single):
            several = [*maps, *(f"{file.stem}/{path.name}" for path in single)]
            raise ValueError(
                f"It has several masks in {self.masks} ({', '.join(several[:3])}): keep one map, or the folder."
            )
        if not maps:
            return encode_masks([binary_mask(path, size) for path in single])
        ids = self.ids(self.masks / maps[0])
        check_mask_size(ids.shape, size, file.name)
        return instances_to_objects(ids)

    def ids(self, file: Path) -> np.ndarray:
        """The object of each pixel, int64 (height, width), from the map of an image; 0 = none."""
        return read_ids(file)

    def mask_files(self, file: Path) -> list[Path]:
        maps, folder = self._maps.get(file.stem, []), self.masks / file.stem
        return [self.masks / name for name in maps] + (sorted(folder.iterdir()) if folder.is_dir() else [])


def names_by_stem(folder: Path) -> dict[str, list[str]]:
    """Names of the image files in a folder by their stems; `a` has several where `a.png` and `a.tif` lie there."""
    found: dict[str, list[str]] = {}
    for name in _split_names(folder)[0]:
        found.setdefault(Path(name).stem, []).append(name)
    return found


def mask_names(folder: Path) -> list[Path]:
    """The masks of one image, a file an object, sorted.

    Raises:
        ValueError: If something else lies there, which would be left out.
    """
    files = sorted(path for path in folder.iterdir() if visible(path.name))
    odd = [path.name for path in files if path.suffix.lower() not in IMAGE_SUFFIXES]
    if odd:
        raise ValueError(f"{folder} holds {odd[0]!r}, which is no mask ({', '.join(IMAGE_SUFFIXES)}): remove it.")
    return files


def image_names(folder: Path) -> list[str]:
    """Names of the image files in a folder, sorted; how many other files are left out is logged."""
    names, others = _split_names(folder)
    files = [name for name in others if (folder / name).is_file()]
    if files:
        logger.warning(f"{len(files)} files in {folder} are no images and left out, the first {files[0]!r}.")
    return names


def check_stems(folder: Path, names: Sequence[str]) -> None:
    """Raises `ValueError` where two images differ in their suffixes alone: both would have the mask of one."""
    stems = Counter(Path(name).stem for name in names)
    stem, count = max(stems.items(), key=lambda item: item[1], default=("", 0))
    if count > 1:
        same = [name for name in names if Path(name).stem == stem]
        raise ValueError(f"{folder} has {' and '.join(same)}, which would share one mask: rename or remove one.")


def _split_names(folder: Path) -> tuple[list[str], list[str]]:
    """What lies in a folder and is not hidden: names of image files, and all others, each sorted."""
    names = sorted(name for name in os.listdir(folder) if visible(name))
    images = [name for name in names if name.lower().endswith(IMAGE_SUFFIXES)]
    return images, [name for name in names if not name.lower().endswith(IMAGE_SUFFIXES)]
