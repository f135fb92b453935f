"""From `DataArguments` to canonical examples: a dataset that is converted once, or a source that is read as needed."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from .arguments import DataArguments, FileLayout, SourceFormat
from .cells import Cells
from .convert import convert, without_unreadable
from .layouts import LOOKED_FOR, StackSource, find_layout, open_layout
from .layouts.pictures import check_pictures, holds_pictures, is_picture_folder, open_pictures
from .ranges import sliced
from .segmented_parquet import segmented_parquet
from .shapes import shapes
from .shaping import Mapped, Patches, components, merged
from .skipped import SkipLog, report_skipped, tell_left_out
from .source import Source
from .splits import check_local, is_saved, split_slice, take_slice
from .stored import Stored, open_stored
from .tables import TableSource


if TYPE_CHECKING:
    from datasets import Dataset


Part = Literal["train", "eval"]
FILE_LAYOUTS = get_args(FileLayout)
STORED = (
    "*.parquet with columns `image` and `instances` or `objects` (instances, canonical), a folder of `save_to_disk`"
)


def load_source(
    args: DataArguments, part: Part, skip_log: SkipLog | None = None, *, decode: bool = False
) -> "Dataset":
    """The canonical dataset to train or to evaluate on.

    Args:
        args (`DataArguments`): Where the data lies; `train_split` or `eval_split`, and the most images (patches, where
            they are cut) to take. What `streaming` says is left aside.
        part (`str`): "train" or "eval".
        skip_log ([`SkipLog`], *optional*): Where to list what is left out: with `on_error: skip` what cannot be read.
        decode (`bool`, *optional*, defaults to `False`): Decode every image, so that none fails later; with
            `on_error: skip` they are in any case.

    Raises:
        ValueError: If the source, its split, its columns or its masks are not there (saying what is), an example
            cannot be read, or none can.
    """
    wanted = Wanted.of(args, part)
    layout = layout_of(args)
    if layout == "shapes":
        scenes = _scenes(args, part == "train")
        if args.patch_size is None and not args.merge_objects:
            rows = take_slice(scenes, wanted.rows)
            return rows if wanted.limit is None else rows.select(range(min(wanted.limit, len(rows))))
        source: Source = TableSource(Stored(scenes, Cells()), "canonical", "shapes")
    elif _lies_in_files(args, layout):
        source = _open_files(args, layout, wanted.split, skip_log)
    else:
        stored = open_stored(args.source, wanted.split, args.config_name, args.revision)
        source = TableSource(stored, layout, args.source, args.columns)
    shaped = _shaped(source, args, wanted)
    if args.on_error == "raise":
        return convert(shaped, skip=False, decode=decode)
    dataset = convert(shaped, skip=True)
    kept, skipped = without_unreadable(dataset)
    report_skipped(skipped, len(dataset), part, skip_log)
    if not len(kept):
        raise ValueError(f"None of the {len(dataset)} {part} examples of {args.source!r} can be read.")
    return kept


def open_source(args: DataArguments, part: Part, skip_log: SkipLog | None = None) -> Source:
    """The same examples as those of [`load_source`], broken ones among them, read as they are needed.

    Args:
        args (`DataArguments`): As of [`load_source`]; files, or parquet here or on the Hub.
        part (`str`): "train" or "eval".
        skip_log ([`SkipLog`], *optional*): Where to list what lies there and is no part of an example.

    Raises:
        ValueError: If the source, its split or its columns are not there, or it cannot be read in this way.
    """
    wanted = Wanted.of(args, part)
    layout = layout_of(args)
    if _lies_in_files(args, layout):
        source = _open_files(args, layout, wanted.split, skip_log)
    else:
        source = segmented_parquet(args, wanted.split)
    return _shaped(source, args, wanted)


def _lies_in_files(args: DataArguments, layout: SourceFormat) -> bool:
    """Whether the images of a source are files of their own, and not rows of a table."""
    return layout in FILE_LAYOUTS or (layout == "images" and is_picture_folder(Path(args.source)))


def _open_files(args: DataArguments, layout: SourceFormat, split: str, skip_log: SkipLog | None) -> Source:
    """A split of image and mask files; tells what of it is left out."""
    if args.columns:
        raise ValueError(f"`data.columns` is for tables; {args.source!r} holds image files (`data.format: {layout}`).")
    if layout == "images":
        return open_pictures(Path(args.source), split)
    source = open_layout(Path(args.source), layout, split)  # type: ignore[arg-type]
    tell_left_out(source.left_out, skip_log)
    return source


def peek_source(args: DataArguments, part: Part) -> Source:
    """The same examples as those of [`load_source`], where looking at them takes no conversion: files, parquet, and
    folders of `save_to_disk`.

    Raises:
        NotParquetError: If they are stored in another way.
        ValueError: As [`open_source`].
    """
    if not is_saved(Path(args.source)):
        return open_source(args, part)
    wanted = Wanted.of(args, part)
    stored = open_stored(args.source, wanted.split, args.config_name, args.revision)
    return _shaped(TableSource(stored, args.format, args.source, args.columns), args, wanted)


@dataclass(frozen=True)
class Wanted:
    """Which rows of a source are wanted.

    Args:
        split (`str`): Name of the split.
        rows (`str`): Slice of it, "" for all of it.
        limit (`int`, *optional*): Most rows.
    """

    split: str
    rows: str
    limit: int | None

    @classmethod
    def of(cls, args: DataArguments, part: Part) -> "Wanted":
        """What the arguments say of a part."""
        if part not in get_args(Part):
            raise ValueError(f"`part` must be 'train' or 'eval', got {part!r}.")
        if part == "train":
            return cls(*split_slice(args.train_split), args.max_train_images)
        return cls(*split_slice(args.eval_split), args.max_eval_images)


def find_format(source: str) -> SourceFormat:
    """The layout of what lies at a local path, or "auto" where its columns must tell.

    Raises:
        ValueError: If a local folder has none of the known layouts (listing what was looked for).
    """
    path = Path(source)
    if not path.exists() or is_saved(path):
        return "auto"
    layout = find_layout(path)
    if layout is None and path.is_dir() and not any(path.rglob("*.parquet")):
        pictures = (
            " It holds pictures: to learn from them alone, without labels, set `data.format: images`."
            if holds_pictures(path)
            else ""
        )
        raise ValueError(
            f"`data.source` {source!r} has none of the known layouts; looked for: {LOOKED_FOR}, {STORED}.{pictures}"
        )
    return layout or "auto"


def layout_of(args: DataArguments) -> SourceFormat:
    """The layout that the arguments name or, with "auto", that lies there.

    Raises:
        ValueError: If a local folder has none of the known layouts or, plainly, another one than is named, or is given
            what only the Hub has.
    """
    check_local(args.source, config_name=args.config_name, revision=args.revision)
    if "shapes" in (args.source, args.format):
        return "shapes"
    if args.format == "auto":
        return find_format(args.source)
    if args.format == "images":
        check_pictures(Path(args.source))
    else:
        _check_format(Path(args.source), args.format)
    return args.format


def _check_format(path: Path, layout: SourceFormat) -> None:
    """Raises `ValueError` where a local source is tables and files are asked for, or the other way round."""
    if not path.exists():
        return
    tables = is_saved(path) or path.suffix == ".parquet"
    found = None if tables else find_layout(path)
    advice = "Set `--data.format auto`, which finds the layout"
    if layout in FILE_LAYOUTS and tables:
        raise ValueError(f"{str(path)!r} holds a table, not files of `data.format: {layout}`. {advice}.")
    if layout not in FILE_LAYOUTS and found is not None and not any(path.glob("*.parquet")):
        raise ValueError(
            f"`data.format: {layout}` is for tables (parquet, `save_to_disk`, the Hub); {str(path)!r} holds image "
            f"files, layout {found!r}. {advice}, or `--data.format {found}`."
        )


def _shaped(source: Source, args: DataArguments, wanted: Wanted) -> Source:
    """The wanted examples of a split, cut and merged as the arguments say."""
    connected = isinstance(source, StackSource)
    if args.patch_size is not None:
        source = Patches(source, args.patch_size)
    if args.merge_objects:
        source = Mapped(source, merged)
    elif connected:  # after the cut: what a border divides are two objects
        source = Mapped(source, components)
    return sliced(source, wanted.rows, wanted.limit)


def _scenes(args: DataArguments, training: bool) -> "Dataset":
    count = args.shapes_train_images if training else args.shapes_eval_images
    # Even seeds draw training scenes, odd ones evaluation scenes.
    return shapes(count, image_size=args.shapes_image_size, seed=2 * args.shapes_seed + (0 if training else 1))
