"""Images with a class for every pixel: Cityscapes, ADE20K's scene parsing, folders of label maps, and the foreground
of any source of objects."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from .arguments import DataArguments
from .canonical import check_mask_size, decode_mask
from .layouts.folder import image_names
from .load import load_source
from .rows import TableRows
from .semantic_arguments import SemanticArguments
from .source import UnreadableError


IGNORED = 255
FOREGROUND = ["background", "object"]
# Of Cityscapes' 34 ids, the 19 that are trained and evaluated on, in the order of their train ids.
CITYSCAPES: dict[int, str] = {
    **{7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light"},
    **{20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car"},
    **{27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle"},
}
ADE20K_CLASSES = 150
# Names of a split that mean the same, and what is read where images lie in no folder of a split.
TRAINING, VALIDATION, ALL = ("train", "training"), ("validation", "val"), "all"
LOOKED_FOR = (
    "leftImg8bit/ and gtFine/ (cityscapes), images/ and annotations/ (ade20k), images/ and labels/ (label_maps)"
)


class LabelMapRows:
    """Image files and the files of their label maps.

    Args:
        pairs (`Sequence[tuple[Path, Path]]`): Image and map, in order.
        train_ids (`Callable`): From the map as it is stored (height, width) to classes from 0 on, 255 where there is
            none.
    """

    def __init__(self, pairs: Sequence[tuple[Path, Path]], train_ids: Callable[[np.ndarray], np.ndarray]) -> None:
        self.pairs, self.train_ids = pairs, train_ids

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        return str(self.pairs[index][0])

    def read(self, index: int) -> dict[str, Any]:
        file, labels = self.pairs[index]
        try:
            with Image.open(file) as image, Image.open(labels) as stored:
                picture, ids = image.convert("RGB"), np.asarray(stored)
            if ids.ndim != 2:
                raise ValueError(f"its label map {labels} has {ids.ndim} dimensions, not rows and columns")
            check_mask_size(ids.shape, (picture.height, picture.width), file.name)
            return {"image": picture, "labels": self.train_ids(ids)}
        except (OSError, ValueError) as error:
            raise UnreadableError(f"{file}: {error}") from error


class ForegroundRows(TableRows):
    """Canonical examples: class 1 wherever an object is."""

    def read(self, index: int) -> dict[str, Any]:
        row = super().read(index)
        image = row["image"].convert("RGB")
        labels = np.zeros((image.height, image.width), dtype=np.uint8)
        for rle in row["objects"]["segmentation"]:
            labels |= decode_mask(rle).astype(np.uint8)
        return {"image": image, "labels": labels}


@dataclass(frozen=True)
class Labelled:
    """Rows of images and label maps, and the names of the classes."""

    rows: Any
    label_names: list[str]


def load_label_maps(args: SemanticArguments, part: Literal["train", "eval"]) -> Labelled:
    """The labelled images to train or to evaluate on.

    Args:
        args (`SemanticArguments`): Where they lie.
        part (`str`): "train" or "eval".

    Raises:
        ValueError: If the folders or files are not there, saying what was looked for, or a label map is missing.
    """
    split, limit = (
        (args.train_split, args.max_train_images) if part == "train" else (args.eval_split, args.max_eval_images)
    )
    layout = find_layout(args)
    if layout == "foreground":
        return _foreground(args, part)
    root = Path(args.source)
    if layout == "cityscapes":
        pairs, to_train = cityscapes_pairs(root, split), cityscapes_train_ids
        names = list(CITYSCAPES.values())
    elif layout == "ade20k":
        pairs, to_train = folder_pairs(root, "annotations", split), ade20k_train_ids
        names = args.label_names or [str(i) for i in range(1, ADE20K_CLASSES + 1)]
    else:
        pairs, to_train = folder_pairs(root, "labels", split), _as_they_are
        names = args.label_names or _numbered(pairs)
    return Labelled(LabelMapRows(pairs[:limit], to_train), names)


def find_layout(args: SemanticArguments) -> str:
    """Of a source, by what lies there."""
    if args.format != "auto":
        return args.format
    root = Path(args.source)
    for layout, folders in {
        "cityscapes": ("leftImg8bit", "gtFine"),
        "ade20k": ("images", "annotations"),
        "label_maps": ("images", "labels"),
    }.items():
        if all((root / folder).is_dir() for folder in folders):
            return layout
    return "foreground"


def cityscapes_pairs(root: Path, split: str) -> list[tuple[Path, Path]]:
    """`leftImg8bit/<split>/<city>/*_leftImg8bit.png` with `gtFine/.../*_gtFine_labelIds.png`."""
    split = "val" if split in VALIDATION else split
    images = sorted((root / "leftImg8bit" / split).glob("*/*_leftImg8bit.png"))
    folder = root / "gtFine" / split
    pairs = [
        (file, folder / file.parent.name / file.name.replace("_leftImg8bit", "_gtFine_labelIds")) for file in images
    ]
    return _checked(pairs, f"{root / 'leftImg8bit' / split}/<city>/*_leftImg8bit.png")


def folder_pairs(root: Path, maps: str, split: str) -> list[tuple[Path, Path]]:
    """`images/<split>/<stem>.*` with `<maps>/<split>/<stem>.png`, or of the split "all" without the folders; ADE20K's
    splits are called training and validation."""
    same = next((names for names in (TRAINING, VALIDATION) if split in names), ())
    for name in [""] if split == ALL else dict.fromkeys((split, *same)):
        images, labels = root / "images" / name, root / maps / name
        if images.is_dir() and labels.is_dir():
            break
    else:
        raise ValueError(
            f"There is no {root / 'images' / split} with {root / maps / split}; a source may have {LOOKED_FOR}. Of "
            f"images without a folder a split, say that all are meant: `--data.train_split {ALL}`."
        )
    pairs = [(images / name, labels / f"{Path(name).stem}.png") for name in image_names(images)]
    return _checked(pairs, str(images))


def _checked(pairs: list[tuple[Path, Path]], looked_in: str) -> list[tuple[Path, Path]]:
    if not pairs:
        raise ValueError(f"There is no image in {looked_in}; a source may have {LOOKED_FOR}.")
    missing = [str(labels) for _, labels in pairs if not labels.is_file()]
    if missing:
        raise ValueError(f"{len(missing)} of {len(pairs)} images have no label map, the first {missing[0]}.")
    return pairs


def cityscapes_train_ids(ids: np.ndarray) -> np.ndarray:
    """Cityscapes' label ids to its 19 train ids; 255 for all others."""
    table = np.full(256, IGNORED, dtype=np.uint8)
    table[list(CITYSCAPES)] = np.arange(len(CITYSCAPES))
    return table[ids]


def ade20k_train_ids(ids: np.ndarray) -> np.ndarray:
    """ADE20K's 1 to 150 to 0 to 149; 0, anything else, is 255."""
    return (ids.astype(np.int64) - 1).clip(-1, IGNORED).astype(np.uint8)


def _as_they_are(ids: np.ndarray) -> np.ndarray:
    return ids.astype(np.uint8)


def _numbered(pairs: list[tuple[Path, Path]]) -> list[str]:
    """Numbers for as many classes as the maps show."""
    highest = 0
    for _, labels in pairs:
        with Image.open(labels) as stored:
            ids = np.asarray(stored)
        highest = max(highest, int(ids[ids != IGNORED].max(initial=0)))
    return [str(i) for i in range(highest + 1)]


def _foreground(args: SemanticArguments, part: Literal["train", "eval"]) -> Labelled:
    shared = (
        "source",
        "config_name",
        "revision",
        "columns",
        "train_split",
        "eval_split",
        "max_train_images",
        "max_eval_images",
    )
    data = DataArguments(**{name: getattr(args, name) for name in shared}, on_error=args.on_error)
    return Labelled(ForegroundRows(load_source(data, part), part == "train"), FOREGROUND)


__all__ = ["CITYSCAPES", "FOREGROUND", "IGNORED", "LabelMapRows", "Labelled", "load_label_maps"]
