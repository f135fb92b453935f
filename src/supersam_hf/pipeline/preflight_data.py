"""Whether the data of a run are there and fit it: splits, layout, columns, rows, labels. No row but a few is read."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from ..data import DataArguments, ImageClassificationArguments, PromptStream, load_classification, match_labels
from ..data.arguments import FileLayout
from ..data.classification import stream_classification
from ..data.image_folder import is_image_folder
from ..data.layouts.find import find_layout, layout_splits
from ..data.layouts.pictures import check_pictures
from ..data.load import Part, find_format, peek_source
from ..data.parquet_files import NotParquetError
from ..data.shape_classes import CLASS_NAMES
from ..data.source import Source, UnreadableError
from ..data.splits import NoSplitError, check_local, hub_splits, is_saved, resolve_split, split_slice
from ..data.stored import stored_splits
from .preflight import Problems, check_installed


# Of a split whose first images show no object, so many are looked at.
LOOKED_AT = 32


@dataclass(frozen=True)
class Split:
    """What is known of a split without reading it.

    Args:
        rows (`int`, *optional*): Its images, as the recipe takes them; None where that cannot be told.
        names (`list[str]`, *optional*): The names of its classes, where it has labels.
        source ([`Source`], *optional*): Its rows, where they can be read one by one.
    """

    rows: int | None = None
    names: list[str] | None = None
    source: Source | None = None


# prompted images -----------------------------------------------------------------------------------------------------


def prompted_splits(args: DataArguments, parts: Collection[Part], problems: Problems) -> dict[Part, Split]:
    """The splits of segmented images that are there; problems of the others."""
    if "shapes" in (args.source, args.format):
        return _generated(args, parts, None)
    readable = _with_layout(args, problems)
    if readable is None:
        return {}
    if find_layout(Path(args.source)) == "stacks" and not args.merge_objects:
        check_installed("scipy", "data.format", "stacks, whose objects are connected parts,", "stacks", problems)
    return _splits(parts, lambda part: _prompted_split(readable, part), args, problems)


def _with_layout(args: DataArguments, problems: Problems) -> DataArguments | None:
    """The arguments with the layout that lies there, and a problem where `data.format` names another; None where
    nothing lies there."""
    path = Path(args.source)
    with problems.of("data.source"):
        if not path.exists():
            hub_splits(args.source, args.config_name, args.revision)
            return args
        check_local(args.source, config_name=args.config_name, revision=args.revision)
        if args.unlabelled:
            check_pictures(path)
            return args
        layout = find_format(args.source) if args.format == "auto" else args.format
        if layout in get_args(FileLayout) and _has_layout(path, layout):
            return args
        there = None if is_saved(path) else find_layout(path)
        if layout not in get_args(FileLayout) and (there is None or _has_layout(path, layout)):
            return args
        found = (
            "holds no such files: give auto" if there is None else f"is of the layout {there!r}: give that, or auto"
        )
        problems.add("data.format", f"{layout!r}, but {path} {found}.")
        return None if there is None else replace(args, format=there)
    return None


def _has_layout(path: Path, layout: str) -> bool:
    if layout not in get_args(FileLayout):
        return path.is_file() or any(path.rglob("*.parquet"))
    try:
        return bool(layout_splits(path, layout))  # type: ignore[arg-type]
    except ValueError:
        return False


def _prompted_split(args: DataArguments, part: Part) -> Split:
    source = peek_source(args, part)
    return Split(len(source), source=source)


def check_shown(splits: dict[Part, Split], args: DataArguments, image_processor: Any, problems: Problems) -> None:
    """The first images can be read, and some shows an object of `data.min_area` (in evaluation: in the crop)."""
    for part, split in splits.items():
        if split.source is None:
            continue
        with problems.of(_field(part)):
            if args.unlabelled:  # every picture counts: that the first ones can be read is enough
                _ = list(_first_rows(split.source, args.on_error))
                continue
            samples = PromptStream(split.source, image_processor, args, training=part == "train")
            if (
                not any(samples.keeps(row) for row in _first_rows(split.source, args.on_error))
                and len(split.source) <= LOOKED_AT
            ):
                problems.add(
                    "data.min_area",
                    f"{args.min_area} px leaves no object in any of the {len(split.source)} images of "
                    f"`{_field(part)}`"
                    + ("" if part == "train" or args.crop_eval is None else ", in the middle `data.crop_eval` px")
                    + "; make it smaller, or the crop larger, or check the masks.",
                )


def _first_rows(source: Source, on_error: str) -> Iterator[dict[str, Any]]:
    places = ((shard, row) for shard, one in enumerate(source.shards) for row in range(one.rows))
    for shard, row in islice(places, LOOKED_AT):
        try:
            yield source.read(shard, row)
        except UnreadableError:
            if on_error == "raise":
                raise


# labelled images -----------------------------------------------------------------------------------------------------


def labelled_splits(
    args: ImageClassificationArguments, parts: Collection[Part], problems: Problems
) -> dict[Part, Split]:
    """The splits of labelled images that are there, with their classes; problems of the others, and of classes that
    differ."""
    if args.source == "shapes":
        return _generated(args, parts, list(CLASS_NAMES))
    with problems.of("data.source"):
        if not Path(args.source).exists():
            hub_splits(args.source, args.config_name, args.revision)
        found = _splits(parts, lambda part: _labelled_split(args, part), args, problems)
        _check_classes([split.names for split in found.values() if split.names is not None], problems)
        return found
    return {}


def _check_classes(names: list[list[str]], problems: Problems) -> None:
    if any(other != names[0] for other in names):
        counts = " and ".join(str(len(some)) for some in names)
        problems.add(
            "data.eval_split",
            f"its classes are not those of `data.train_split` ({counts}, or in another order); give splits of one "
            "dataset, or `data.label_names`.",
        )


def _labelled_split(args: ImageClassificationArguments, part: Part) -> Split:
    path = Path(args.source)
    if not args.streaming and path.exists() and (is_saved(path) or is_image_folder(path)):
        data = load_classification(args, part)
        return Split(len(data), data.features["label"].names)
    source, names = stream_classification(args, part)
    for _ in _first_rows(source, args.on_error):
        break  # it is an image, with a label: of a hidden test set it has none
    return Split(len(source), names)


def check_labels(
    names: Sequence[str], config: Any, mapping: str | None, field: str, problems: Problems
) -> list[int] | None:
    """The labels of a checkpoint that the classes of the data are; a problem, and None, where they are not."""
    with problems.of(field):
        return match_labels(names, [config.id2label[i] for i in range(config.num_labels)], mapping)
    return None


# both ----------------------------------------------------------------------------------------------------------------


def _splits(
    parts: Collection[Part], look: Callable[[Part], Split], args: Any, problems: Problems
) -> dict[Part, Split]:
    """What `look` finds of each part that is there."""
    found: dict[Part, Split] = {}
    for part in parts:
        with problems.of(_field(part)):
            try:
                split = _looked_at(part, look, args, problems)
            except NoSplitError as error:
                raise ValueError(_no_split(error)) from error
            if split.rows == 0:
                raise ValueError("it has no images.")
            found[part] = split
    return found


def _looked_at(part: Part, look: Callable[[Part], Split], args: Any, problems: Problems) -> Split:
    """What `look` finds, or, of what only a conversion can tell, that the split is there."""
    try:
        return look(part)
    except NotParquetError as error:
        if args.streaming:
            problems.add("data.streaming", str(error))
        name, _ = split_slice(args.train_split if part == "train" else args.eval_split)
        resolve_split(name, stored_splits(args.source, args.config_name), args.source)
        return Split()


def _generated(args: Any, parts: Collection[Part], names: list[str] | None) -> dict[Part, Split]:
    counts = {"train": (args.shapes_train_images, args.max_train_images)}
    counts["eval"] = (args.shapes_eval_images, args.max_eval_images)
    return {part: Split(min(filter(None, counts[part])), names) for part in parts}


def _no_split(error: NoSplitError) -> str:
    """Which splits there are, and how the only one is cut in two."""
    advice = "give one of them"
    if len(error.names) == 1:
        (name,) = error.names
        advice = f"`--data.train_split '{name}[:80%]' --data.eval_split '{name}[80%:]'` cuts it in two"
    return (
        f"there is no split {error.split!r}; there {'is' if len(error.names) == 1 else 'are'} {error.names}: {advice}."
    )


def _field(part: Part) -> str:
    return f"data.{part}_split"


__all__ = ["Split", "check_labels", "check_shown", "labelled_splits", "prompted_splits"]
