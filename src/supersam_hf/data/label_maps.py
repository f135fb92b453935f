"""Images with a class for every pixel: Cityscapes, ADE20K's scene parsing, folders of label maps, and the foreground
of any source of objects."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .arguments import DataArguments
from .canonical import check_mask_size, decode_mask
from .images import read_rgb
from .label_classes import (
    ADE20K_CLASSES,
    CITYSCAPES,
    IGNORED,
    Classes,
    ade20k_classes,
    check_seen,
    cityscapes_classes,
    own_classes,
    read_classes,
    seen_classes,
)
from .layouts.folder import check_stems, image_names, names_by_stem
from .load import load_source
from .paths import check_inside, source_root
from .rows import TableRows
from .semantic_arguments import SemanticArguments
from .unreadable import broken_example


FOREGROUND = ["background", "object"]
# Names of a split that mean the same, and what is read where images lie in no folder of a split.
TRAINING, VALIDATION, ALL = ("train", "training"), ("validation", "val"), "all"
LOOKED_FOR = (
    "leftImg8bit/ and gtFine/ (cityscapes), images/ and annotations/ (ade20k), images/ and labels/ (label_maps)"
)


class LabelMapRows:
    """Image files and the files of their label maps.

    Args:
        pairs (`Sequence[tuple[Path, Path]]`): Image and map, in order.
        classes (`Callable`): From the ids of a map (height, width) to classes from 0 on, -1 where there is none.
        count (`int`): Classes that there are.
    """

    def __init__(self, pairs: Sequence[tuple[Path, Path]], classes: Classes, count: int) -> None:
        self.pairs, self.classes, self.count = pairs, classes, count

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        return str(self.pairs[index][0])

    def read(self, index: int) -> dict[str, Any]:
        file, labels = self.pairs[index]
        with broken_example(str(file)):
            picture, shown = read_rgb(file, "it"), read_classes(labels, self.classes, self.count)
            check_mask_size(shown.shape, (picture.height, picture.width), file.name)
            return {"image": picture, "labels": shown}


class ForegroundRows(TableRows):
    """Canonical examples: class 1 wherever an object is."""

    def read(self, index: int) -> dict[str, Any]:
        row = super().read(index)
        image = row["image"].convert("RGB")
        labels = np.zeros((image.height, image.width), dtype=np.uint8)
        with broken_example(self.name(index)):
            for rle in row["objects"]["segmentation"]:
                check_mask_size(rle["size"], labels.shape, self.name(index))
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
        ValueError: If the folders or files are not there, saying what was looked for, a label map is missing, or a
            link leads out of the source.
    """
    split, limit = (
        (args.train_split, args.max_train_images) if part == "train" else (args.eval_split, args.max_eval_images)
    )
    layout = find_layout(args)
    if args.label_names and len(args.label_names) > IGNORED:
        raise ValueError(f"`data.label_names` has {len(args.label_names)} names; ids are 0 to {IGNORED - 1}.")
    if layout == "foreground":
        return _foreground(args, part)
    root, skip = Path(args.source), args.on_error == "skip"
    if layout == "cityscapes":
        pairs = cityscapes_pairs(root, split)[:limit]
        return Labelled(LabelMapRows(pairs, cityscapes_classes, len(CITYSCAPES)), list(CITYSCAPES.values()))
    if layout == "ade20k":
        pairs, classes, ids_from = folder_pairs(root, "annotations", split)[:limit], ade20k_classes, 1
        names = args.label_names or [str(i) for i in range(1, ADE20K_CLASSES + 1)]
        seen = seen_classes([labels for _, labels in pairs], classes, named=True, skip=skip)
    else:
        pairs, classes, ids_from = folder_pairs(root, "labels", split), own_classes, 0
        pairs = pairs[:limit] if args.label_names else pairs  # all of them tell how many classes there are
        seen = seen_classes([labels for _, labels in pairs], classes, named=args.label_names is not None, skip=skip)
        names = args.label_names or _numbered(seen)
    check_seen(seen, ids_from, names, split, training=part == "train")
    return Labelled(LabelMapRows(pairs[:limit], classes, len(names)), names)


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
    return _checked(root, pairs, f"{root / 'leftImg8bit' / split}/<city>/*_leftImg8bit.png")


def folder_pairs(root: Path, maps: str, split: str) -> list[tuple[Path, Path]]:
    """`images/<split>/<stem>.*` with `<maps>/<split>/<stem>.png` (or another suffix of images), or of the split "all"
    without the folders; ADE20K's splits are called training and validation."""
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
    names, stored = image_names(images), names_by_stem(labels)
    check_stems(images, names)
    several = next((stored[Path(name).stem] for name in names if len(stored.get(Path(name).stem, [])) > 1), None)
    if several:
        raise ValueError(f"{labels} has {' and '.join(several)} for one image: keep one.")
    pairs = [(images / name, labels / stored.get(stem := Path(name).stem, [f"{stem}.png"])[0]) for name in names]
    return _checked(root, pairs, str(images))


def _checked(root: Path, pairs: list[tuple[Path, Path]], looked_in: str) -> list[tuple[Path, Path]]:
    if not pairs:
        raise ValueError(f"There is no image in {looked_in}; a source may have {LOOKED_FOR}.")
    missing = [str(labels) for _, labels in pairs if not labels.is_file()]
    if missing:
        raise ValueError(f"{len(missing)} of {len(pairs)} images have no label map, the first {missing[0]}.")
    check_inside([file for pair in pairs for file in pair], [source_root(root)])
    return pairs


def _numbered(seen: dict[Path, np.ndarray]) -> list[str]:
    """Numbers for as many classes as the maps show.

    Raises:
        ValueError: If that is more than ids below 255, where no label is.
    """
    file = max(seen, key=lambda labels: seen[labels][-1], default=Path())
    highest = int(seen[file][-1]) if seen else 0
    if highest >= IGNORED:
        raise ValueError(
            f"The label map {file} has the id {highest}; ids are classes, 0 to {IGNORED - 1}, and {IGNORED} where "
            "there is none."
        )
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
