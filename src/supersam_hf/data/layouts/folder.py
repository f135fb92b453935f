"""A folder of images and one of their masks."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from ..canonical import check_mask_size, encode_masks, instances_to_objects
from ..masks import ids_of
from .listed import IMAGE_SUFFIXES, ListedSource, binary_mask


class FolderSource(ListedSource):
    """Images `<stem>.*` with `<stem>.png` in another folder (an id for each pixel, 0 = background), or there
    `<stem>/*.png` (one binary mask an object).

    Ids may be of instances, or of classes as in the scene parsing of ADE20K: then each class that is to be seen is one
    object.

    Args:
        images (`Path`): Folder of images.
        masks (`Path`): Folder of their masks.
        source (`Path`, *optional*): Folder of the whole source, where both lie.

    Raises:
        ValueError: If a folder is missing, or there is no image.
    """

    def __init__(self, images: Path, masks: Path, source: Path | None = None) -> None:
        for folder in (images, masks):
            if not folder.is_dir():
                raise ValueError(f"There is no folder {folder}; the layout needs {images} and {masks}.")
        super().__init__(images, image_names(images), source)
        self.masks = masks
        if not self.shards:
            raise ValueError(f"{images} has no image ({', '.join(IMAGE_SUFFIXES)}).")

    def objects(self, index: int, file: Path, size: tuple[int, int]) -> dict[str, list]:
        map_file, folder = self._masks_of(file)
        if not (map_file.is_file() or folder.is_dir()):
            raise ValueError(f"There is neither {map_file} nor a folder {folder}.")
        if not map_file.is_file():
            return encode_masks([binary_mask(path, size) for path in self.mask_files(file)])
        with Image.open(map_file) as image:
            ids = self.ids(image, file.name)
        check_mask_size(ids.shape, size, file.name)
        return instances_to_objects(ids)

    def ids(self, image: Image.Image, name: str) -> np.ndarray:
        """The object of each pixel, int64 (height, width), from the map of an image; 0 = none."""
        return ids_of(image, name)

    def mask_files(self, file: Path) -> list[Path]:
        map_file, folder = self._masks_of(file)
        return [map_file] if map_file.is_file() else sorted(folder.glob("*.png"))

    def _masks_of(self, file: Path) -> tuple[Path, Path]:
        """Where the map of an image's objects lies, or else the folder of their masks."""
        return self.masks / f"{file.stem}.png", self.masks / file.stem


def image_names(folder: Path) -> list[str]:
    """Names of the image files in a folder, sorted."""
    return sorted(name for name in os.listdir(folder) if name.lower().endswith(IMAGE_SUFFIXES))
