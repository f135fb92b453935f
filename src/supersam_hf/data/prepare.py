"""`prepare`: any source that can be trained on, as parquet files that load anywhere and can be streamed."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..escape import hub_link
from ..fields import Checked, Place, Side, Text
from ..files import check_empty, scratch_of
from ..lock import sole_writer
from .arguments import DataArguments, OnError, SourceFormat
from .classification import checked_labels, read_classification, without_unlabelled
from .classification_arguments import ImageClassificationArguments
from .columns import LABELLED, SEGMENTED, check_columns_field
from .convert import decoded
from .dataset_card import Task, dataset_card, made_by, recipe_line
from .image_folder import ORDER_SEED, image_folder_splits, is_image_folder
from .layouts import find_layout, layout_splits
from .load import FILE_LAYOUTS, find_format, load_source
from .parquet import write_parquet
from .skipped import SkipLog
from .splits import VALIDATION_NAMES, check_local
from .stored import stored_columns, stored_splits


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


FIRST_SPLITS = ("train", "validation", "test")
Layout = SourceFormat | Literal["image folder", "columns"]

MASKS = "Masks are kept to the pixel, as COCO compressed run lengths; boxes and areas are taken from them."
MADE_FROM = {
    "coco": f"images and annotations in COCO's layout. {MASKS} Crowd annotations are left out.",
    "sa1b": f"images and annotations in SA-1B's layout. {MASKS}",
    "ade20k": f"images with a map of classes each; each class that is to be seen is one mask. {MASKS}",
    "ade20k_instances": f"images with the instances of ADE20K. {MASKS}",
    "stacks": f"TIFF stacks of slices and of their masks; connected parts of a mask are objects. {MASKS}",
    "folder": f"a folder of images and a folder of their masks. {MASKS}",
    "instances": f"images with a map of object ids each. {MASKS}",
    "canonical": f"images with the run lengths or polygons of their objects. {MASKS}",
    "image folder": "a folder of images for each class; they are in a fixed random order.",
    "columns": "images with their labels; they are in a fixed random order.",
}


@dataclass
class PrepareArguments(Checked):
    """What to prepare.

    Args:
        source (`str`): What `load_source` or `load_classification` reads: a local path, or a dataset id on the Hub.
        task ("segmentation" or "classification", *optional*): By default what the source has: masks, or labels.
        format (`str`, *optional*, defaults to `"auto"`): Layout of a source with masks.
        splits (`list[str]`, *optional*): Which splits; by default all that there are.
        max_shard_size (`str`, *optional*, defaults to `"500MB"`): Most of a parquet file, in memory: a whole number
            of KB, MB, GB, TB, or KiB, MiB, GiB, TiB.
        config_name (`str`, *optional*): Configuration of a dataset on the Hub that has several.
        on_error, columns (*optional*): As in `DataArguments`, or in `ImageClassificationArguments`.
        patch_size, merge_objects (*optional*): As in `DataArguments`, of a source with masks.
        image_column, label_column, label_names (*optional*): As in `ImageClassificationArguments`, of labelled images.
        license (`str`, *optional*): The Hub's id of the license, for the card.

    Raises:
        ValueError: If a value is none of those accepted.
    """

    source: Place
    task: Task | None = None
    format: SourceFormat = "auto"
    splits: list[Text] | None = None
    max_shard_size: Text = "500MB"
    config_name: Text | None = None
    patch_size: Side | None = None
    merge_objects: bool = False
    on_error: OnError = "raise"
    columns: dict[str, Text] | None = None
    image_column: Text | None = None
    label_column: Text | None = None
    label_names: list[Text] | None = None
    license: Text | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source == "shapes" or self.format == "shapes":
            raise ValueError("`source` 'shapes' is generated anew wherever it is named; prepare stored images.")
        if self.task == "classification" and self.format != "auto":
            raise ValueError(f"`format` {self.format!r} is for sources with masks; `task` is classification.")
        if self.task == "segmentation":
            self.check_segmentation()
        if self.task == "classification":
            self.check_classification()
        check_local(self.source, section="", config_name=self.config_name)
        if re.fullmatch(r"[1-9]\d* ?[KMGT]i?B", self.max_shard_size) is None:
            raise ValueError(
                "`max_shard_size` must be a whole number of KB, MB, GB or TB (or KiB, ...) such as 500MB, got "
                f"{self.max_shard_size!r}."
            )
        self.max_shard_size = self.max_shard_size.replace(" ", "")

    def check_segmentation(self) -> None:
        """Raises `ValueError` where an argument is given that a source with masks has no use for."""
        given = [name for name in ("image_column", "label_column", "label_names") if vars(self)[name] is not None]
        if given:
            raise ValueError(
                f"`{given[0]}` is for labelled images; this is segmentation, whose columns are `image` and "
                "`instances` or `objects`. Leave it out, or choose `task` classification."
            )
        check_columns_field(self.columns, SEGMENTED)

    def check_classification(self) -> None:
        """Raises `ValueError` where an argument is given that labelled images have no use for."""
        unused = {"patch_size": None, "merge_objects": False}
        given = [name for name, default in unused.items() if vars(self)[name] != default]
        if given:
            raise ValueError(f"`{given[0]}` is for sources with masks; these are labelled images. Leave it out.")
        check_columns_field(self.columns, LABELLED)

    def recipe(self, output_dir: str | Path) -> str:
        """What stands for these arguments and, of a local source, for its files as they are now."""
        values, path, output = asdict(self), Path(self.source), Path(output_dir).resolve()
        if path.exists():
            values["source"] = str(path.resolve())
            files = sorted(file for file in [path, *path.rglob("*")] if file.is_file())
            # What is written may lie within what is read.
            kept = [file for file in files if output not in file.resolve().parents]
            stats = [(str(file.relative_to(path)), file.stat()) for file in kept]
            values["files"] = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:32]


def prepare(args: PrepareArguments, output_dir: str | Path, name: str | None = None) -> "DatasetDict":
    """Writes a dataset as `data/<split>-00000-of-0000N.parquet` and `README.md`, images within, whole or not at all.

    Args:
        args ([`PrepareArguments`]): What to prepare.
        output_dir (`str` or `Path`): Folder to write; new or empty.
        name (`str`, *optional*): Under which the card says to load it; by default the folder's.

    Returns:
        `datasets.DatasetDict`: What was written, by split: columns `image`, `image_id`, `objects` (see
        `canonical_features`), or `image` and `label`.

    Raises:
        ValueError: If the folder is not empty, or the source, a split or its columns are not there (saying what is).
    """
    folder = Path(output_dir).resolve()
    check_empty(folder)
    recipe = args.recipe(folder)
    task, layout = find_task(args)
    if task == "segmentation":
        args.check_segmentation()
    else:
        args.check_classification()
    dataset = read_splits(args, task, layout, skip_log_of(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _scratch(folder) as written:
        (written / "data").mkdir(parents=True)
        sizes = {
            str(split): write_parquet(rows, written / "data", str(split), args.max_shard_size)
            for split, rows in dataset.items()
        }
        card = _card(dataset, sizes, task, layout, args, name or folder.name, recipe, written / "data")
        (written / "README.md").write_text(card, encoding="utf-8")
        if folder.is_dir():
            folder.rmdir()  # it is empty, or was until now: then this fails
        written.rename(folder)
    return dataset


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that is not there yet, and is gone after the block; also what a killed process left of
    it. Of two processes that would write the same dataset one is refused."""
    scratch = scratch_of(folder)
    try:
        with sole_writer(scratch):
            shutil.rmtree(scratch / "dataset", ignore_errors=True)
            try:
                yield scratch / "dataset"
            finally:
                shutil.rmtree(scratch / "dataset", ignore_errors=True)
    finally:
        with suppress(OSError):  # another process is at work in it
            scratch.rmdir()


def _card(
    dataset: "DatasetDict",
    sizes: dict[str, int],
    task: Task,
    layout: Layout,
    args: PrepareArguments,
    name: str,
    recipe: str,
    files: Path,
) -> str:
    size = sum(file.stat().st_size for file in files.iterdir())
    named = not os.path.exists(args.source)  # an id on the Hub; a path of this machine means nothing elsewhere
    origin = f"{hub_link(args.source, 'datasets/')}: " if named else ""
    made = f"{made_by()} made it from {origin}{MADE_FROM[layout]}"
    return dataset_card(
        dataset, task, sizes=sizes, name=name, made=made, files_size=size, recipe=recipe, license_id=args.license
    )


def skip_log_of(folder: Path) -> SkipLog:
    """Where [`prepare`] lists what it leaves out of a folder: beside it."""
    return SkipLog(folder.parent / f"{folder.name}-skipped.jsonl")


def is_prepared(folder: Path, recipe: str) -> bool:
    """Whether a folder is what [`prepare`] wrote by this recipe; it is whole then."""
    card = folder / "README.md"
    return card.is_file() and recipe_line(recipe) in card.read_text(encoding="utf-8").splitlines()


def find_task(args: PrepareArguments) -> tuple[Task, Layout]:
    """Whether a source has masks or labels, and its layout, from what lies there.

    Raises:
        ValueError: If nothing is there, or it has none of the known layouts.
    """
    path = Path(args.source)
    if args.task == "classification":
        return "classification", "image folder" if is_image_folder(path) else "columns"
    if args.format == "images":
        raise ValueError(
            "`--data.format images` has neither masks nor labels to prepare: train on the pictures as they are."
        )
    if args.format != "auto":
        return "segmentation", args.format
    # Folders of images and masks look like folders of classes too.
    if args.task is None and find_layout(path) is None and is_image_folder(path):
        return "classification", "image folder"
    layout = find_format(args.source)
    if layout != "auto":
        return "segmentation", layout
    columns = set(stored_columns(args.source, args.config_name)) | set(args.columns or ())
    if args.task is None and not {"instances", "objects"} & columns:
        return "classification", "columns"
    given = set(args.columns or ()) & {"instances", "objects"} or columns
    return "segmentation", "canonical" if "objects" in given else "instances"


def read_splits(args: PrepareArguments, task: Task, layout: Layout, skip_log: SkipLog) -> "DatasetDict":
    """The wanted splits, converted, under the names that they have on the Hub.

    Raises:
        ValueError: If a split is not there, its name cannot be a split's, or two would have the same name.
    """
    from datasets import DatasetDict

    dataset = DatasetDict()
    for split, stored in _wanted_splits(args, layout).items():
        try:
            dataset[split] = _read(args, task, layout, stored, skip_log)
        except ValueError as error:
            raise ValueError(f"Split {stored!r}: {error}") from error
    features = [rows.features for rows in dataset.values()]
    if any(other != features[0] for other in features):
        raise ValueError(f"The splits {list(dataset)} have different classes; choose those that agree by `splits`.")
    return dataset


def _wanted_splits(args: PrepareArguments, layout: Layout) -> dict[str, str]:
    """Names of splits in the source by the names that they get."""
    found = _found_splits(args, layout)
    stored: dict[str, str] = {}
    for name in found:
        split = _published_name(name, layout)
        if args.splits is not None and not {name, split} & {_published_name(s, layout) for s in args.splits}:
            continue
        if split in stored:
            raise ValueError(f"The splits {stored[split]!r} and {name!r} would both be {split!r}; choose by `splits`.")
        if re.fullmatch(r"\w+(\.\w+)*", split) is None:
            raise ValueError(f"Split {name!r} must be named with letters, digits and _ to be a dataset's; rename it.")
        stored[split] = name
    missing = {_published_name(split, layout) for split in args.splits or ()} - set(stored)
    if missing or not stored:
        raise ValueError(f"There is no split {sorted(missing)} in {args.source}; the splits there are {found}.")
    return {split: stored[split] for split in (*FIRST_SPLITS, *stored) if split in stored}


def _found_splits(args: PrepareArguments, layout: Layout) -> list[str]:
    if layout == "image folder":
        return image_folder_splits(Path(args.source))
    if layout in FILE_LAYOUTS:
        return layout_splits(Path(args.source), layout)  # type: ignore[arg-type]
    return stored_splits(args.source, args.config_name)


def _published_name(split: str, layout: Layout) -> str:
    """As the Hub names it: "val2017" of COCO is "validation"."""
    if layout == "coco":
        split = re.sub(r"(?<=\D)\d{4}$", "", split)
    return "validation" if split in VALIDATION_NAMES else split


def _read(args: PrepareArguments, task: Task, layout: Layout, split: str, skip_log: SkipLog) -> "Dataset":
    """A split, every image of which was decoded."""
    if task == "segmentation":
        names = ("source", "config_name", "columns", "patch_size", "merge_objects", "on_error")
        values: dict[str, Any] = {name: vars(args)[name] for name in names}
        data = DataArguments(format=layout, train_split=split, **values)  # type: ignore[arg-type]
        return load_source(data, "train", skip_log, decode=True)
    labelled = ("source", "config_name", "columns", "on_error", "image_column", "label_column", "label_names")
    chosen = ImageClassificationArguments(**{name: vars(args)[name] for name in labelled})
    rows = read_classification(chosen, split, skip_log)
    skip = args.on_error == "skip"
    if skip:
        rows = without_unlabelled(rows, split, skip_log)
    checked_labels(rows, "leave it out: name the others by `--splits`")
    rows = decoded(rows, split, skip=skip, skip_log=skip_log)
    if layout == "image folder":
        return rows  # in such an order already
    return rows.select(np.random.default_rng(ORDER_SEED).permutation(len(rows)))


__all__ = ["PrepareArguments", "find_task", "is_prepared", "prepare", "read_splits"]
