"""Folders of image and mask files turned into canonical datasets (see `canonical_features`)."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from .canonical import (
    CONVERSION,
    canonical_features,
    check_mask_size,
    decoded_size,
    encode_masks,
    id_map_array,
    instances_to_objects,
    segmentations_to_objects,
)
from .splits import VALIDATION_NAMES, resolve_split


if TYPE_CHECKING:
    from datasets import Dataset


IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def from_folder(path: str | Path) -> "Dataset":
    """From `images/<stem>.*` and `masks/<stem>.png` (instance ids, 0 = background) or `masks/<stem>/*.png` (one binary
    mask an object).

    Raises:
        ValueError: If a folder or an image's masks are missing, or a mask is not of its image's size.
    """
    path = Path(path).resolve()
    for name in ("images", "masks"):
        if not (path / name).is_dir():
            raise ValueError(f"There is no folder {name!r} in {path}; the folder layout needs `images/` and `masks/`.")
    files = _image_files(path)
    bare = [p.name for p in files if not (_id_map_file(path, p).is_file() or _binary_folder(path, p).is_dir())]
    if not files or bare:
        raise ValueError(
            f"{path / 'images'} has {len(files)} images, of which {len(bare)} have neither `masks/<stem>.png` nor "
            f"`masks/<stem>/`: {bare[:5]}."
        )
    return _generate(_read_folder, path=str(path), stamp=_stamp([*files, *sorted((path / "masks").rglob("*.png"))]))


def from_coco(path: str | Path, split: str = "train") -> "Dataset":
    """From the official COCO layout, `annotations/instances_<split>.json` and `<split>/`; crowds are left out.

    Args:
        path (`str` or `Path`): Folder that holds both.
        split (`str`, *optional*, defaults to `"train"`): As "train2017"; "train" and "validation" are understood where
            only one annotation file can be meant.

    Raises:
        ValueError: If the split or an image is missing, or a mask is not of its image's size.
    """
    path = Path(path).resolve()
    names = [p.stem.removeprefix("instances_") for p in sorted((path / "annotations").glob("instances_*.json"))]
    name = _coco_split(split, names, str(path / "annotations"))
    file = path / "annotations" / f"instances_{name}.json"
    if not (path / name).is_dir():
        raise ValueError(f"There is no image folder {path / name} for the annotations {file.name}.")
    return _generate(_read_coco, path=str(path), split=name, stamp=_stamp([file, path / name]))


def _generate(generator: Callable[..., Iterator[dict[str, Any]]], **arguments: str) -> "Dataset":
    """Writes rows to the datasets cache once; read from there until the files (`stamp`) or the conversion change."""
    from datasets import Dataset
    from datasets.exceptions import DatasetGenerationError

    arguments["stamp"] += f"-{CONVERSION}"
    try:
        return Dataset.from_generator(generator, features=canonical_features(), gen_kwargs=arguments)
    except DatasetGenerationError as error:
        # What is wrong with the files is said by the cause; the wrapper only says that something is.
        if isinstance(error.__cause__, ValueError):
            raise error.__cause__ from None
        raise


def _stamp(files: list[Path]) -> str:
    """Digest of names, sizes and times of files, and of folders, whose time changes with the list of their files."""
    digest = hashlib.sha256()
    for file in files:
        status = file.stat()
        digest.update(f"{file}:{status.st_size}:{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _read_folder(path: str, stamp: str) -> Iterator[dict[str, Any]]:
    root = Path(path)
    for file in _image_files(root):
        with Image.open(file) as image:
            size = decoded_size(image)
        id_map = _id_map_file(root, file)
        if id_map.is_file():
            with Image.open(id_map) as image:
                ids = id_map_array(image, file.name)
            check_mask_size(ids.shape, size, file.name)
            objects = instances_to_objects(ids)
        else:
            masks = [_binary_mask(p, size, file.name) for p in sorted(_binary_folder(root, file).glob("*.png"))]
            objects = encode_masks(masks)
        yield {"image": str(file), "image_id": file.stem, "objects": objects}


def _image_files(root: Path) -> list[Path]:
    return sorted(p for p in (root / "images").iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)


def _binary_mask(file: Path, size: tuple[int, int], name: str) -> np.ndarray:
    with Image.open(file) as image:
        mask = np.asarray(image.convert("L")) > 0
    check_mask_size(mask.shape, size, name)
    return mask


def _id_map_file(root: Path, image_file: Path) -> Path:
    return root / "masks" / f"{image_file.stem}.png"


def _binary_folder(root: Path, image_file: Path) -> Path:
    return root / "masks" / image_file.stem


def _coco_split(split: str, names: list[str], where: str) -> str:
    """The name with its year: "validation" is "val2017" where no other year is there."""
    stem = "val" if split in VALIDATION_NAMES else split
    years = [name for name in names if name.startswith(stem) and name.removeprefix(stem).isdigit()]
    return years[0] if split not in names and len(years) == 1 else resolve_split(split, names, where)


def _read_coco(path: str, split: str, stamp: str) -> Iterator[dict[str, Any]]:
    content = json.loads((Path(path) / "annotations" / f"instances_{split}.json").read_text(encoding="utf-8"))
    segmentations = defaultdict(list)
    for annotation in content["annotations"]:
        if not annotation.get("iscrowd", 0):
            if "segmentation" not in annotation:
                raise ValueError(
                    f"annotations/instances_{split}.json has annotations without `segmentation` (boxes only?); "
                    "masks are needed."
                )
            segmentations[annotation["image_id"]].append(annotation["segmentation"])
    for entry in content["images"]:
        file = Path(path) / split / entry["file_name"]
        if not file.is_file():
            raise ValueError(f"Image {entry['file_name']!r} of the annotations is not in {file.parent}.")
        with Image.open(file) as image:
            size = decoded_size(image)
        check_mask_size((entry["height"], entry["width"]), size, entry["file_name"])
        objects = segmentations_to_objects(segmentations[entry["id"]], size, entry["file_name"])
        yield {"image": str(file), "image_id": str(entry["id"]), "objects": objects}
