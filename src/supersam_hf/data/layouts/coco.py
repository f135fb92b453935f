"""COCO: images, and one file of annotations a split."""

import json
import logging
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..canonical import check_mask_size
from ..paths import check_inside, source_root
from ..segmentations import segmentations_to_objects
from ..skipped import LeftOut
from ..unreadable import UNREADABLE, reason
from .folder import image_names
from .listed import ListedSource


logger = logging.getLogger(__name__)

CROWD = {0: False, 1: True, "0": False, "1": True, None: False}
BOXES_ONLY = "it has annotations without `segmentation` (boxes only?); masks are needed."
SHOWN = 3


class CocoSource(ListedSource):
    """`annotations/instances_<split>.json` with the images in `<split>/`. Crowds are left out, and counted; what else
    is left out (annotations of images that are not listed, without a segmentation, or listed twice) is named too.

    The file is read once; of it the segmentations are kept as text, which takes a fraction of the memory of Python
    objects and is shared with loader workers.

    Args:
        root (`Path`): Folder of both.
        split (`str`): As "train2017".

    Raises:
        ValueError: If the file or the folder is missing, or the file is not of COCO's form.
    """

    def __init__(self, root: Path, split: str) -> None:
        self.annotations = root / "annotations" / f"instances_{split}.json"
        if not (root / split).is_dir():
            raise ValueError(f"There is no image folder {root / split} for the annotations {self.annotations.name}.")
        check_inside([self.annotations], [source_root(root)])
        read = read_annotations(self.annotations)
        super().__init__(root / split, read.names, root)
        self.left_out = read.left_out
        unlisted = len(set(image_names(root / split)) - {os.path.normpath(name) for name in read.names})
        if unlisted:
            logger.info(f"{root / split}: {unlisted} images are not listed in {self.annotations.name}, and left out.")
        self._ids, self._sizes = np.array(read.ids), np.array(read.sizes, dtype=np.int64).reshape(-1, 2)
        self._ends, self._texts = np.cumsum([0] + [len(text) for text in read.texts]), b"".join(read.texts)

    def image_id(self, index: int, file: Path) -> str:
        return str(self._ids[index])

    def objects(self, index: int, file: Path, size: tuple[int, int]) -> dict[str, list]:
        check_mask_size((self._sizes[index, 0], self._sizes[index, 1]), size, file.name)
        segmentations = json.loads(self._texts[self._ends[index] : self._ends[index + 1]])
        return segmentations_to_objects(segmentations, size, file.name)

    def mask_files(self, file: Path) -> list[Path]:
        return [self.annotations]


@dataclass(frozen=True)
class Annotations:
    """What a file of annotations says.

    Args:
        names (`list[str]`): File names of the images.
        ids (`list[str]`): Their ids.
        sizes (`list[tuple[int, int]]`): Their heights and widths.
        texts (`list[bytes]`): JSON of the segmentations of each, a list.
        left_out (`list[LeftOut]`): Annotations that are no object.
    """

    names: list[str]
    ids: list[str]
    sizes: list[tuple[int, int]]
    texts: list[bytes]
    left_out: list[LeftOut]


LONGEST_SIDE_DIGITS = 9  # of a side in px


def read_annotations(file: Path) -> Annotations:
    """Reads a file of annotations and logs how many there are, and what is left out.

    Raises:
        ValueError: If the file is not of COCO's form, naming it and the field; if an id is that of two images.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"it is a {type(content).__name__}, not an object with `images` and `annotations`.")
        for name in ("images", "annotations"):
            if not isinstance(content[name], list):
                raise ValueError(f"its `{name}` is {content[name]!r:.60}, not a list.")
        images = content["images"]
        names, ids = [_file_name(image) for image in images], [_key(image, "id") for image in images]
        sizes = [(_whole(image, "height"), _whole(image, "width")) for image in images]
        _check_unique(ids, names)
        sorted_out = _sorted_out(content["annotations"], ids)
    except UNREADABLE as error:
        raise ValueError(f"{file} is not of COCO's form: {reason(error)}") from error
    _tell(file.name, names, sorted_out)
    texts = [f"[{', '.join(found)}]".encode() for found in sorted_out.segmentations.values()]
    return Annotations(names, ids, sizes, texts, sorted_out.left_out(file.name))


@dataclass
class SortedOut:
    """Annotations by image, and those that are left out, each by its id.

    Args:
        segmentations (`dict`): JSON of the segmentations of each image that is listed, by its id.
    """

    segmentations: dict[str, list[str]]
    crowds: int = 0
    lost: dict[str, str] = field(default_factory=dict)  # the image's id by the annotation's
    empty: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)

    def left_out(self, file: str) -> list[LeftOut]:
        """What is no object, but for crowds, and why."""
        images = ", ".join(dict.fromkeys(self.lost.values()))
        reasons = {
            f"they are of images that it does not list: {images}": list(self.lost),
            "they have no `segmentation`": self.empty,
            "they are listed twice": self.twice,
        }
        return [LeftOut(file, "annotations", ids, why) for why, ids in reasons.items() if ids]


def _sorted_out(annotations: list[dict[str, Any]], images: list[str]) -> SortedOut:
    """Raises `ValueError` where none of them is of a listed image, or none has a segmentation."""
    found = SortedOut({image: [] for image in images})
    seen: set[tuple[str, str, str]] = set()
    for number, annotation in enumerate(annotations):
        name = str(annotation.get("id", f"number {number}"))
        segmentation = annotation.get("segmentation")
        if _is_crowd(annotation, name):
            found.crowds += 1
        elif not segmentation:
            found.empty.append(name)
        elif (image := _key(annotation, "image_id")) not in found.segmentations:
            found.lost[name if name not in found.lost else f"{name} (number {number})"] = image
        else:
            text = json.dumps(segmentation)
            same = (image, str(annotation.get("category_id")), text)
            if same in seen:
                found.twice.append(name)
            else:
                seen.add(same)
                found.segmentations[image].append(text)
    _check_some(found, len(annotations), images)
    return found


def _check_some(found: SortedOut, total: int, images: list[str]) -> None:
    if any(found.segmentations.values()) or not (found.empty or found.lost):
        return
    if found.empty:
        raise ValueError(BOXES_ONLY)
    shown = ", ".join(list(dict.fromkeys(found.lost.values()))[:SHOWN])
    raise ValueError(
        f"none of its {total} annotations is of an image that it lists: `image_id` is {shown}, ...; the images have "
        f"`id` {', '.join(images[:SHOWN]) or 'none'}, ..."
    )


def _is_crowd(annotation: dict[str, Any], name: str) -> bool:
    value = annotation.get("iscrowd")
    if isinstance(value, (list, dict)) or value not in CROWD:
        raise ValueError(f"`iscrowd` of annotation {name} is {value!r}; it must be 0 or 1.")
    return CROWD[value]


def _file_name(image: dict[str, Any]) -> str:
    name = image["file_name"]
    if not isinstance(name, str) or not name:
        raise ValueError(f"the `file_name` of an image is {name!r}; it must be a name.")
    return name


def _key(record: dict[str, Any], name: str) -> str:
    """An id of an image as text: 1, 1.0 and "1" are the same one, as are "000139" and 139."""
    value = record[name]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, str)) or value == "":
        raise ValueError(f"an `{name}` is {value!r}; it must be a whole number or text.")
    text = str(value)
    return str(int(text)) if text.isascii() and text.isdecimal() else text


def _whole(record: dict[str, Any], name: str) -> int:
    """A length in px: a whole number above 0 that a picture can have, perhaps as text."""
    text = _key(record, name)
    if not text.isdecimal() or len(text) > LONGEST_SIDE_DIGITS or int(text) == 0:
        raise ValueError(f"the `{name}` of an image is {record[name]!r:.60}; it must be a whole number of px.")
    return int(text)


def _check_unique(ids: list[str], names: list[str]) -> None:
    """Raises `ValueError` where two images have one id: whose masks are whose, nobody can tell."""
    twice = [image for image, count in Counter(ids).items() if count > 1]
    if twice:
        files = [name for image, name in zip(ids, names) if image == twice[0]]
        raise ValueError(
            f"{len(twice)} ids are each that of several images, the first {twice[0]} of {', '.join(files[:SHOWN])}; "
            "their masks cannot be told apart. Give each image an id of its own."
        )


def _tell(file: str, names: list[str], found: SortedOut) -> None:
    without = sum(not texts for texts in found.segmentations.values())
    bare = f", {without} of them without an object" if without else ""
    logger.info(f"{file}: {len(names)} images{bare}; {found.crowds} crowd annotations are left out.")
    again = [name for name, count in Counter(names).items() if count > 1]
    if again:
        logger.warning(f"{file}: {len(again)} files are listed as several images: {', '.join(again[:SHOWN])}, ...")
