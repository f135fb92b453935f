"""COCO: images, and one file of annotations a split."""

import json
import logging
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from ..canonical import check_mask_size, segmentations_to_objects
from ..unreadable import UNREADABLE, reason
from .listed import ListedSource


logger = logging.getLogger(__name__)

# Of an image.
FACTS = ("id", "height", "width")


class CocoSource(ListedSource):
    """`annotations/instances_<split>.json` with the images in `<split>/`. Crowds are left out, and counted.

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
        names, self._facts, segmentations, crowds = read_annotations(self.annotations)
        super().__init__(root / split, names)
        logger.info(f"{self.annotations.name}: {len(names)} images; {crowds} crowd annotations are left out.")
        texts = [json.dumps(segmentations[image]).encode() for image in self._facts[:, 0].tolist()]
        self._ends, self._texts = np.cumsum([0] + [len(text) for text in texts]), b"".join(texts)

    def image_id(self, index: int, file: Path) -> str:
        return str(self._facts[index, 0])

    def objects(self, index: int, file: Path, size: tuple[int, int]) -> dict[str, list]:
        check_mask_size((self._facts[index, 1], self._facts[index, 2]), size, file.name)
        segmentations = json.loads(self._texts[self._ends[index] : self._ends[index + 1]])
        return segmentations_to_objects(segmentations, size, file.name)

    def mask_files(self, file: Path) -> list[Path]:
        return [self.annotations]


def read_annotations(file: Path) -> tuple[list[str], np.ndarray, dict[int, list], int]:
    """What a file of annotations says: names of the images; their id, height and width, int64 (images, 3); the
    segmentations by image id; and how many crowds were left out.

    Raises:
        ValueError: If the file is not of COCO's form, naming it and the field.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        images = content["images"]
        names = [str(image["file_name"]) for image in images]
        facts = np.array([[image[name] for name in FACTS] for image in images], dtype=np.int64).reshape(-1, len(FACTS))
        return names, facts, *_by_image(content["annotations"])
    except UNREADABLE as error:
        raise ValueError(f"{file} is not of COCO's form: {reason(error)}") from error


def _by_image(annotations: list[dict[str, Any]]) -> tuple[dict[int, list], int]:
    """Segmentations by image id, and how many crowds were left out."""
    crowds, segmentations = 0, defaultdict(list)
    for annotation in annotations:
        if annotation.get("iscrowd", 0):
            crowds += 1
        elif "segmentation" not in annotation:
            raise ValueError("it has annotations without `segmentation` (boxes only?); masks are needed.")
        else:
            segmentations[annotation["image_id"]].append(annotation["segmentation"])
    return segmentations, crowds
