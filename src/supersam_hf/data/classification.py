"""`load_classification`: from `ImageClassificationArguments` to labelled images."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .cells import Cells, files_inside
from .classification_arguments import ImageClassificationArguments
from .columns import check_there
from .image_dataset import ImageDataset
from .image_folder import from_image_folder, is_image_folder
from .parquet_files import cells_of, open_split
from .parquet_source import ParquetSource
from .ranges import sliced
from .shape_classes import shape_classes
from .skipped import SkipLog, report_skipped
from .source import Source
from .splits import check_local, split_slice, take_slice
from .stored import open_stored


if TYPE_CHECKING:
    from datasets import ClassLabel, Dataset


__all__ = [
    "ImageClassificationArguments",
    "ImageDataset",
    "checked_labels",
    "evenly_over_classes",
    "load_classification",
    "read_classification",
    "stream_classification",
]


def load_classification(
    args: ImageClassificationArguments, part: Literal["train", "eval"], skip_log: SkipLog | None = None
) -> "Dataset":
    """The labelled images to train or to evaluate on, columns `image` and `label` (a `ClassLabel`).

    Args:
        args (`ImageClassificationArguments`): Where the data lies, its columns and labels, and the most images to take
            (the first ones of each class, as many of every class as can be).
        part (`str`): "train" or "eval".
        skip_log ([`SkipLog`], *optional*): Where to list what is left out.

    Raises:
        ValueError: If the source, its split or its columns are not there (saying what is), or an image has no label
            (unless `on_error` is "skip" and others have one).
    """
    training = _is_training(part)
    if args.source == "shapes":
        dataset = _generate(args, training)
    else:
        split, rows = split_slice(args.train_split if training else args.eval_split)
        dataset = take_slice(read_classification(args, split, skip_log), rows)
    field = "train_split" if training else "eval_split"
    if args.on_error == "skip":
        dataset = without_unlabelled(dataset, part, skip_log)
    labels = checked_labels(dataset, f"take a labelled split as `data.{field}`")
    limit = args.max_train_images if training else args.max_eval_images
    return dataset if limit is None else dataset.select(evenly_over_classes(labels, limit))


def stream_classification(
    args: ImageClassificationArguments, part: Literal["train", "eval"]
) -> tuple[Source, list[str]]:
    """The labelled images to train or to evaluate on, read as they are needed, and the names of their classes.

    Args:
        args (`ImageClassificationArguments`): As for [`load_classification`], but the most images to take are the
            first; parquet files or a dataset of them on the Hub.
        part (`str`): "train" or "eval".

    Raises:
        ValueError: If the source, its split or its columns are not there (saying what is), or it is no parquet.
    """
    training = _is_training(part)
    check_local(args.source, config_name=args.config_name, revision=args.revision)
    split, rows = split_slice(args.train_split if training else args.eval_split)
    opened = open_split(args.source, split, args.config_name, args.revision)
    image, label = _columns(opened.features, args)
    classes = _classes(opened.features[label], args.label_names)
    convert = LabelledRow(image, label, classes, cells_of(args.source))
    source = ParquetSource(opened, [image, label], convert, args.shuffle_buffer if training else 0)
    return sliced(source, rows, args.max_train_images if training else args.max_eval_images), classes.names


def _is_training(part: str) -> bool:
    """Raises `ValueError` for what is no part."""
    if part not in ("train", "eval"):
        raise ValueError(f"`part` must be 'train' or 'eval', got {part!r}.")
    return part == "train"


@dataclass(frozen=True)
class LabelledRow:
    """Makes `image`, still encoded, and `label` of a row of a table.

    Args:
        image (`str`): Column of the images.
        label (`str`): Column of the labels.
        classes (`ClassLabel`): What the labels mean.
        cells ([`Cells`]): How the images are found.
    """

    image: str
    label: str
    classes: "ClassLabel"
    cells: Cells

    def __call__(self, row: dict[str, Any], number: int) -> dict[str, Any]:
        value = row[self.label]
        label = -1 if value is None else self.classes.encode_example(value)
        if not 0 <= label < self.classes.num_classes:
            raise ValueError(
                f"its label is {value}; labels are 0 to {self.classes.num_classes - 1} (-1 or none marks hidden "
                "labels, as in a test set). Take a labelled split."
            )
        return {"image": self.cells.image(row, self.image), "label": label}


def evenly_over_classes(labels: np.ndarray, count: int) -> np.ndarray:
    """Ascending rows of at most `count` images: the first of every class, then the second of every class, and so on.

    Args:
        labels (`np.ndarray`): int (n,).
        count (`int`): Images to take, at least 1.
    """
    by_class = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[by_class], labels[by_class])
    place = np.empty(len(labels), dtype=np.int64)  # of an image among those of its class
    place[by_class] = np.arange(len(labels)) - starts
    return np.sort(np.lexsort((labels, place))[:count])


def _generate(args: ImageClassificationArguments, training: bool) -> "Dataset":
    count = args.shapes_train_images if training else args.shapes_eval_images
    # Even seeds draw training images, odd ones evaluation images.
    return shape_classes(count, image_size=args.shapes_image_size, seed=2 * args.shapes_seed + (0 if training else 1))


def read_classification(args: ImageClassificationArguments, split: str, skip_log: SkipLog | None = None) -> "Dataset":
    """A whole split of the source, columns `image` and `label`, whatever its labels are. What is no image of a class,
    and with `on_error: skip` images that lie outside of the source, are left out, counted and named.

    Raises:
        ValueError: If the source, its split or its columns are not there (saying what is).
    """
    path = Path(args.source)
    check_local(args.source, config_name=args.config_name, revision=args.revision)
    if is_image_folder(path):
        check_no_columns(args)
        return _name_columns(from_image_folder(path, split, args.on_error, skip_log), args)
    stored = open_stored(args.source, split, args.config_name, args.revision)
    return files_inside(_name_columns(stored.dataset, args), stored.cells, args.on_error, split, skip_log)


def check_no_columns(args: ImageClassificationArguments) -> None:
    """Raises `ValueError` where a folder of class folders is given columns."""
    if args.columns:
        raise ValueError(f"`data.columns` is for tables; {args.source!r} is a folder of class folders.")


def _name_columns(dataset: "Dataset", args: ImageClassificationArguments) -> "Dataset":
    """The columns of images and labels alone, called `image` and `label`."""
    from datasets import Image

    image, label = _columns(dataset.features, args)
    dataset = dataset.select_columns([image, label])
    renamed = {old: new for old, new in ((image, "image"), (label, "label")) if old != new}
    dataset = dataset.rename_columns(renamed) if renamed else dataset
    if not isinstance(dataset.features["image"], Image):
        dataset = dataset.cast_column("image", Image())
    return _name_labels(dataset, args.label_names)


def _columns(features: Mapping[str, Any], args: ImageClassificationArguments) -> tuple[str, str]:
    """The columns of images and of labels."""
    from datasets import ClassLabel, Image

    given = args.columns or {}
    check_there(given, features)
    image = given.get("image") or args.image_column or _only_column(features, Image, "image_column")
    label = given.get("label") or args.label_column or _only_column(features, ClassLabel, "label_column")
    for name, field in ((image, "image_column"), (label, "label_column")):
        if name not in features:
            raise ValueError(f"`data.{field}` {name!r} is not a column; the columns are {list(features)}.")
    return image, label


def _only_column(features: Mapping[str, Any], kind: type, field: str) -> str:
    """The one column of a kind of feature."""
    found = [name for name, column in features.items() if isinstance(column, kind)]
    if len(found) != 1:
        raise ValueError(
            f"The dataset has {len(found)} columns of kind {kind.__name__} {found or ''}; name the one to take as "
            f"`data.{field}`, or `data.columns.{field.removesuffix('_column')}`. Its columns are {list(features)}."
        )
    return found[0]


def _name_labels(dataset: "Dataset", names: list[str] | None) -> "Dataset":
    """Labels as a `ClassLabel` of these names, or of the dataset's own."""
    from datasets import ClassLabel, Value

    labels = dataset.features["label"]
    classes = _classes(labels, names)
    if names is None:
        return dataset
    plain = Value("int64") if isinstance(labels, ClassLabel) else labels
    try:
        return dataset.cast_column("label", plain).cast_column("label", classes)
    except ValueError as error:
        raise ValueError(f"`data.label_names` does not name every label of the dataset: {error}") from error


def _classes(labels: Any, names: list[str] | None) -> "ClassLabel":
    """What labels mean, by these names or by the dataset's own."""
    from datasets import ClassLabel

    if names is None:
        if not isinstance(labels, ClassLabel):
            raise ValueError(
                f"The labels are of type {labels}, not ClassLabel; say what they mean by `data.label_names`, the "
                "names of the classes in the order of their labels."
            )
        return labels
    if isinstance(labels, ClassLabel) and labels.num_classes != len(names):
        raise ValueError(f"`data.label_names` has {len(names)} names; the dataset has {labels.num_classes} classes.")
    return ClassLabel(names=names)


def without_unlabelled(dataset: "Dataset", part: str, skip_log: SkipLog | None = None) -> "Dataset":
    """The images that have a label, where some have; how many have none is told."""
    labels = dataset.select_columns(["label"])[:]["label"]
    kept = [row for row, label in enumerate(labels) if label is not None and label >= 0]
    if not kept or len(kept) == len(labels):
        return dataset
    why = {f"{part}, row {row}": "It has no label." for row in sorted(set(range(len(labels))) - set(kept))}
    report_skipped(why, len(labels), part, skip_log)
    return dataset.select(kept)


def checked_labels(dataset: "Dataset", advice: str) -> np.ndarray:
    """int64 (n,), each the index of a class.

    Args:
        dataset (`datasets.Dataset`): With a column `label`, a `ClassLabel`.
        advice (`str`): What to do where labels are missing.

    Raises:
        ValueError: If an image has no label, or there are no images.
    """
    num_classes = dataset.features["label"].num_classes
    # A missing label is -1, as in the hidden labels of test sets.
    labels = np.array([-1 if x is None else x for x in dataset.select_columns(["label"])[:]["label"]], dtype=np.int64)
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        raise ValueError(
            f"{len(wrong)} of {len(labels)} labels are not in 0 to {num_classes - 1}, the first in row {wrong[0]} "
            f"(-1 or none marks hidden labels, as in a test set); {advice}."
        )
    if not len(labels):
        raise ValueError(f"It has no images; {advice}.")
    return labels
