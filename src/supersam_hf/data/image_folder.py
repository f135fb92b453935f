"""A folder a class: the names of the folders are the labels of the images in them."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .layouts.listed import IMAGE_SUFFIXES
from .splits import ONLY_SPLIT, SEVERAL_PARTS, resolve_split


if TYPE_CHECKING:
    from datasets import Dataset


# The order of the images is drawn once and for all, so that a slice as "train[:90%]" shows every class.
ORDER_SEED = 0


def is_image_folder(path: Path) -> bool:
    """Whether images lie in `<class>/` or `<split>/<class>/` of a folder, with no metadata that says more of them."""
    return path.is_dir() and bool(_split_folders(path)) and not any(path.rglob("metadata.*"))


def from_image_folder(path: str | Path, split: str = "train") -> "Dataset":
    """Columns `image` and `label` from `<split>/<class>/*` or, as the one split "train", `<class>/*`.

    The labels are the names of the class folders of all splits together, sorted, so that they mean the same in a split
    that lacks a class. The images are in a fixed random order.

    Raises:
        ValueError: If there is no such split, or it has fewer than two classes.
    """
    from datasets import ClassLabel, Dataset, Features, Image

    path = Path(path)
    splits = _split_folders(path)
    folder = splits[resolve_split(split, list(splits), f"{path} ({SEVERAL_PARTS})")]
    names = image_folder_classes(path)
    if len(names) < 2:
        raise ValueError(f"{path} has only one folder of images, {names}; the layout needs a folder for each class.")
    rows = [(str(file), names.index(child.name)) for child in _class_folders(folder) for file in _images(child)]
    order = np.random.default_rng(ORDER_SEED).permutation(len(rows))
    columns = {"image": [rows[i][0] for i in order], "label": [rows[i][1] for i in order]}
    return Dataset.from_dict(columns, features=Features({"image": Image(), "label": ClassLabel(names=names)}))


def image_folder_classes(path: Path) -> list[str]:
    """The names of the classes, those of all splits together, in the order of their labels."""
    return sorted({child.name for root in _split_folders(path).values() for child in _class_folders(root)})


def image_folder_splits(path: Path) -> list[str]:
    """The names of the splits of a folder of class folders."""
    return list(_split_folders(path))


def _split_folders(path: Path) -> dict[str, Path]:
    """Folders of class folders by split; class folders without split folders are the training split."""
    splits = {child.name: child for child in _folders(path) if _class_folders(child)}
    if splits:
        return splits
    return {ONLY_SPLIT: path} if _class_folders(path) else {}


def _class_folders(path: Path) -> list[Path]:
    return [child for child in _folders(path) if _images(child)]


def _folders(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if child.is_dir())


def _images(path: Path) -> list[Path]:
    return sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
