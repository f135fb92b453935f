"""`load_source`: from `DataArguments` to a canonical dataset."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .arguments import DataArguments, SourceFormat
from .files import from_coco, from_folder
from .shapes import shapes
from .splits import is_saved, open_stored, resolve_split, split_slice, take_slice
from .tables import from_canonical, from_instances


if TYPE_CHECKING:
    from datasets import Dataset


LOOKED_FOR = (
    "annotations/instances_*.json (coco), images/ and masks/, here or in a folder a split (folder), "
    "*.parquet with columns `image` and `instances` or `objects` (instances, canonical), a folder of `save_to_disk`"
)


def load_source(args: DataArguments, part: Literal["train", "eval"]) -> "Dataset":
    """The canonical dataset to train or to evaluate on.

    Args:
        args (`DataArguments`): Where the data lies; `train_split` or `eval_split`, and the most images to take.
        part (`str`): "train" or "eval".

    Raises:
        ValueError: If the source, its split, its columns or its masks are not there (saying what is).
    """
    if part not in ("train", "eval"):
        raise ValueError(f"`part` must be 'train' or 'eval', got {part!r}.")
    training = part == "train"
    if "shapes" in (args.source, args.format):
        dataset = _scenes(args, training)
    else:
        split, rows = split_slice(args.train_split if training else args.eval_split)
        dataset = take_slice(_read(args, split), rows)
    limit = args.max_train_images if training else args.max_eval_images
    return dataset if limit is None else dataset.select(range(min(limit, len(dataset))))


def find_format(source: str) -> SourceFormat:
    """The layout of what lies at a local path, or "auto" where its columns must tell.

    Raises:
        ValueError: If a local folder has none of the known layouts (listing what was looked for).
    """
    path = Path(source)
    if not path.is_dir() or is_saved(path):
        return "auto"
    if any((path / "annotations").glob("instances_*.json")):
        return "coco"
    if _folder_splits(path):
        return "folder"
    if any(path.rglob("*.parquet")):
        return "auto"
    raise ValueError(f"`data.source` {source!r} has none of the known layouts; looked for: {LOOKED_FOR}.")


def _read(args: DataArguments, split: str) -> "Dataset":
    layout = find_format(args.source) if args.format == "auto" else args.format
    if layout in ("coco", "folder") and not Path(args.source).is_dir():
        raise ValueError(f"`data.source` {args.source!r} is not a folder; `data.format: {layout}` needs one.")
    if layout == "coco":
        return from_coco(args.source, split)
    if layout == "folder":
        return from_folder(_split_folder(Path(args.source), split))
    stored = open_stored(args.source, split)
    if layout == "canonical" or (layout == "auto" and "objects" in stored.column_names):
        return from_canonical(stored)
    return from_instances(stored)


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
