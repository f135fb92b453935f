"""`load_source`: from `DataArguments` to a canonical dataset."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .arguments import DataArguments, SourceFormat
from .files import from_coco, from_folder
from .shapes import shapes
from .splits import is_saved, open_stored, resolve_split, split_slice, stored_splits, take_slice
from .streaming import in_memory, open_stream
from .tables import canonical_stream, from_canonical, from_instances


if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


LOOKED_FOR = (
    "annotations/instances_*.json (coco), images/ and masks/, here or in a folder a split (folder), "
    "*.parquet with columns `image` and `instances` or `objects` (instances, canonical), a folder of `save_to_disk`"
)


def load_source(args: DataArguments, part: Literal["train", "eval"]) -> "Dataset":
    """The canonical dataset to train or to evaluate on.

    Args:
        args (`DataArguments`): Where the data lies; `train_split` or `eval_split`, and the most images to take. With
            `streaming` these are read as [`stream_source`] does, and held in memory.
        part (`str`): "train" or "eval".

    Raises:
        ValueError: If the source, its split, its columns or its masks are not there (saying what is).
    """
    if part not in ("train", "eval"):
        raise ValueError(f"`part` must be 'train' or 'eval', got {part!r}.")
    training = part == "train"
    if args.streaming:
        return in_memory(stream_source(args, part))
    if "shapes" in (args.source, args.format):
        dataset = _scenes(args, training)
    else:
        split, rows = split_slice(args.train_split if training else args.eval_split)
        dataset = take_slice(_read(args, split), rows)
    limit = args.max_train_images if training else args.max_eval_images
    return dataset if limit is None else dataset.select(range(min(limit, len(dataset))))


def stream_source(args: DataArguments, part: Literal["train", "eval"]) -> "IterableDataset":
    """The canonical rows to train or to evaluate on, read as they are needed, images still encoded.

    Args:
        args (`DataArguments`): As for [`load_source`]; parquet files or a dataset on the Hub.
        part (`str`): "train" or "eval".

    Raises:
        ValueError: If the source, its split or its columns are not there, or it cannot be streamed.
    """
    training = part == "train"
    stream = open_stream(args.source, args.train_split if training else args.eval_split)
    rows = canonical_stream(stream, args.format)
    limit = args.max_train_images if training else args.max_eval_images
    return rows if limit is None else rows.take(limit)


def find_format(source: str) -> SourceFormat:
    """The layout of what lies at a local path, or "auto" where its columns must tell.

    Raises:
        ValueError: If a local folder has none of the known layouts (listing what was looked for).
    """
    path = Path(source)
    if not path.is_dir() or is_saved(path):
        return "auto"
    layout = mask_layout(path)
    if layout is None and not any(path.rglob("*.parquet")):
        raise ValueError(f"`data.source` {source!r} has none of the known layouts; looked for: {LOOKED_FOR}.")
    return layout or "auto"


def mask_layout(path: Path) -> Literal["coco", "folder"] | None:
    """The layout of a folder of image and mask files; None where it is none."""
    if any((path / "annotations").glob("instances_*.json")):
        return "coco"
    return "folder" if path.is_dir() and _folder_splits(path) else None


def source_splits(source: str, layout: SourceFormat) -> list[str]:
    """The names of the splits of a source of segmented images, as it names them.

    Raises:
        ValueError: If nothing is there, or no folder where the layout needs one.
    """
    path = Path(source)
    layout = find_format(source) if layout == "auto" else layout
    _check_folder(path, layout)
    if layout == "coco":
        return [
            file.stem.removeprefix("instances_") for file in sorted((path / "annotations").glob("instances_*.json"))
        ]
    return list(_folder_splits(path)) if layout == "folder" else stored_splits(source)


def _read(args: DataArguments, split: str) -> "Dataset":
    layout = find_format(args.source) if args.format == "auto" else args.format
    _check_folder(Path(args.source), layout)
    if layout == "coco":
        return from_coco(args.source, split)
    if layout == "folder":
        return from_folder(_split_folder(Path(args.source), split))
    stored = open_stored(args.source, split)
    if layout == "canonical" or (layout == "auto" and "objects" in stored.column_names):
        return from_canonical(stored)
    return from_instances(stored)


def _check_folder(path: Path, layout: SourceFormat) -> None:
    if layout in ("coco", "folder") and not path.is_dir():
        raise ValueError(f"`data.source` {str(path)!r} is not a folder; `data.format: {layout}` needs one.")


def _folder_splits(path: Path) -> dict[str, Path]:
    """Folders of images and masks by split; one without split folders is the training split."""
    if (path / "images").is_dir():
        return {"train": path}
    return {p.name: p for p in sorted(path.iterdir()) if (p / "images").is_dir()}


def _split_folder(path: Path, split: str) -> Path:
    splits = _folder_splits(path)
    return splits[resolve_split(split, list(splits), f"{path} (one of it can be cut as train[:90%] and train[90%:])")]


def _scenes(args: DataArguments, training: bool) -> "Dataset":
    count = args.shapes_train_images if training else args.shapes_eval_images
    # Even seeds draw training scenes, odd ones evaluation scenes.
    return shapes(count, image_size=args.shapes_image_size, seed=2 * args.shapes_seed + (0 if training else 1))
