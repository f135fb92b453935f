"""Pictures alone, without masks or labels: `data.format: images`."""

import logging
import os
from pathlib import Path

from ..canonical import no_objects
from ..paths import visible
from ..splits import KNOWN_SPLITS, ONLY_SPLIT, SEVERAL_PARTS, is_saved, resolve_split
from .find import find_layout
from .listed import IMAGE_SUFFIXES, ListedSource


logger = logging.getLogger(__name__)


class PictureSource(ListedSource):
    """Image files in a folder and in folders within it, in the order of their paths; canonical examples without
    objects.

    Args:
        root (`Path`): The folder.
        source (`Path`): Folder of the whole source, in which all files must lie.

    Raises:
        ValueError: If there is none.
    """

    def __init__(self, root: Path, source: Path) -> None:
        names = picture_names(root)
        if not names:
            raise ValueError(f"{root} has no picture ({', '.join(IMAGE_SUFFIXES)}).")
        super().__init__(root, names, source)

    def objects(self, index: int, file: Path, size: tuple[int, int]) -> dict[str, list]:
        return no_objects()

    def mask_files(self, file: Path) -> list[Path]:
        return []

    def image_id(self, index: int, file: Path) -> str:
        return str(file.relative_to(self.root).with_suffix(""))


def picture_names(root: Path) -> list[str]:
    """Paths of the visible image files under a folder, relative to it and sorted; how many other files are left out is
    logged."""
    names, others = [], 0
    for parent, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if visible(name))
        for name in filter(visible, files):
            if name.lower().endswith(IMAGE_SUFFIXES):
                names.append(os.path.relpath(os.path.join(parent, name), root))
            else:
                others += 1
    if others:
        logger.warning(f"{others} files under {root} are no pictures and left out.")
    return sorted(names)


def holds_pictures(path: Path) -> bool:
    """Whether a visible image file lies in a folder, or in folders within it."""
    for _, folders, files in os.walk(path):
        folders[:] = [name for name in folders if visible(name)]
        if any(visible(name) and name.lower().endswith(IMAGE_SUFFIXES) for name in files):
            return True
    return False


def is_picture_folder(path: Path) -> bool:
    """Whether pictures at a local path are files of their own: it is a folder without tables."""
    return path.is_dir() and not is_saved(path) and not any(path.rglob("*.parquet"))


def picture_splits(path: Path) -> dict[str, Path]:
    """Folders of pictures by split: those in it that have a split's name, where all pictures lie in such; otherwise
    the whole folder is the training split."""
    there = [child for child in sorted(path.iterdir()) if visible(child.name)]
    folders = {child.name: child for child in there if child.is_dir()}
    loose = any(child.is_file() and child.name.lower().endswith(IMAGE_SUFFIXES) for child in there)
    if folders and not loose and set(folders) <= set(KNOWN_SPLITS):
        return folders
    return {ONLY_SPLIT: path}


def open_pictures(path: Path, split: str) -> PictureSource:
    """The pictures of a split of a folder.

    Raises:
        ValueError: If the split is not there, or has no picture.
    """
    path = path.resolve()
    splits = picture_splits(path)
    return PictureSource(splits[resolve_split(split, list(splits), f"{path} ({SEVERAL_PARTS})")], path)


def check_pictures(path: Path) -> None:
    """Raises `ValueError` where masks or annotations lie at a local path too: masks must not be taken for pictures.
    A table's other columns are left aside."""
    if path.is_file() and path.suffix != ".parquet":
        raise ValueError(
            f"`data.source` {str(path)!r} is a file; `data.format: images` needs a folder of pictures, or a table "
            "with a column `image`."
        )
    layout = find_layout(path) if is_picture_folder(path) else None
    if layout is not None:
        raise ValueError(
            f"{str(path)!r} holds masks as well (layout {layout!r}), which `data.format: images` would take for "
            "pictures: name the folder of the pictures alone, or set `--data.format auto` to learn from the masks."
        )


__all__ = ["PictureSource", "check_pictures", "holds_pictures", "is_picture_folder", "open_pictures"]
