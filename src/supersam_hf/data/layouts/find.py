"""Which layout a folder of image and mask files has, and what its splits are."""

from collections.abc import Iterator
from pathlib import Path

from ..arguments import FileLayout
from ..paths import check_inside, source_root, visible
from ..source import Source
from ..splits import KNOWN_SPLITS, ONLY_SPLIT, SEVERAL_PARTS, VALIDATION_NAMES, resolve_split
from .ade20k import SEGMENTATION, ChallengeInstanceSource, FullReleaseSource
from .coco import CocoSource
from .folder import FolderSource
from .sa1b import Sa1bFolderSource, Sa1bTarSource
from .stacks import StackSource, stacks_by_split, truth_of


LOOKED_FOR = (
    "annotations/instances_*.json (coco), sa_*.jpg with sa_*.json here or in folders, or *.tar of them (sa1b), "
    "images/ and annotations/ (ade20k), images/ and annotations_instance/, or *_seg.png (ade20k_instances), "
    "<name>.tif with <name>_groundtruth.tif (stacks), images/ and masks/, here or in a folder a split (folder)"
)


def find_layout(path: Path) -> FileLayout | None:
    """The layout of a folder of image and mask files, or of a tar; None where it is none."""
    if path.suffix == ".tar" and path.is_file():
        return "sa1b"
    if not path.is_dir():
        return None
    if any((path / "annotations").glob("instances_*.json")):
        return "coco"
    if stacks_by_split(path):
        return "stacks"
    if _has_images(path) and (path / "annotations").is_dir():
        return "ade20k"
    if _has_images(path) and _is_challenge(path):
        return "ade20k_instances"
    if _folder_splits(path):
        return "folder"
    if _tars(path) or any(_found(path, "sa_*.json")) or any(_found(path, "sa_*.jpg")):
        return "sa1b"
    return "ade20k_instances" if any(path.rglob(f"*{SEGMENTATION}")) else None


def layout_splits(path: Path, layout: FileLayout) -> list[str]:
    """The names of the splits of a source of files, as it names them; one without any is `ONLY_SPLIT`.

    Raises:
        ValueError: If there is no folder, or none of the layout.
    """
    if not path.is_dir() and not (layout == "sa1b" and path.is_file()):
        raise ValueError(f"`data.source` {str(path)!r} is not a folder; `data.format: {layout}` needs one.")
    if layout == "coco":
        files = sorted((path / "annotations").glob("instances_*.json"))
        names = [file.stem.removeprefix("instances_") for file in files]
    elif layout == "folder":
        names = list(_folder_splits(path))
    elif layout == "stacks":
        names = list(stacks_by_split(path))
    elif layout == "ade20k_instances" and not _is_challenge(path):
        names = list(_release_splits(path))
    else:
        within = [] if layout == "sa1b" else _split_folders(path / "images")
        names = within or [ONLY_SPLIT]
    if not names:
        raise ValueError(f"{str(path)!r} is not of `data.format: {layout}`; looked for: {LOOKED_FOR}.")
    return names


def open_layout(path: Path, layout: FileLayout, split: str) -> Source:
    """The examples of a split.

    Args:
        path (`Path`): Folder, or a tar of SA-1B.
        layout (`str`): Its layout.
        split (`str`): Name of the split; "val" and "validation" mean the same, as do "train" and "training".

    Raises:
        ValueError: If the split, or a folder that the layout needs, is not there.
    """
    path = path.resolve()
    names = layout_splits(path, layout)
    name = _with_year(split, names) if layout == "coco" else split
    name = resolve_split(name, names, f"{path} ({SEVERAL_PARTS})")
    if layout == "coco":
        return CocoSource(path, name)
    if layout == "stacks":
        stacks = stacks_by_split(path)[name]
        check_inside([file for stack in stacks for file in (stack, truth_of(stack))], [source_root(path)])
        return StackSource(stacks)
    if layout == "sa1b":
        tars = [path] if path.is_file() else _tars(path)
        check_inside(tars, [source_root(path)])
        return Sa1bTarSource(tars) if tars else Sa1bFolderSource(path)
    if layout == "folder":
        root = _folder_splits(path)[name]
        return FolderSource(root / "images", root / "masks", path)
    if layout == "ade20k_instances" and not _is_challenge(path):
        return FullReleaseSource(_release_splits(path)[name], path)
    within = name if name in _split_folders(path / "images") else ""
    if layout == "ade20k":
        return FolderSource(path / "images" / within, path / "annotations" / within, path)
    return ChallengeInstanceSource(path / "images" / within, path / "annotations_instance" / within, path)


def _is_challenge(path: Path) -> bool:
    """Whether instances of ADE20K are those of its challenge, and not of its full release."""
    return (path / "annotations_instance").is_dir()


def _release_splits(path: Path) -> dict[str, Path]:
    """Folders of the full release of ADE20K by split: in `images/ADE/`, in `images/`, or here."""
    for root in (path / "images" / "ADE", path / "images", path / "ADE", path):
        splits = {name: root / name for name in _split_folders(root) if name in KNOWN_SPLITS}
        if splits:
            return splits
    return {ONLY_SPLIT: path}


def _has_images(path: Path) -> bool:
    return (path / "images").is_dir()


def _folder_splits(path: Path) -> dict[str, Path]:
    """Folders of images and masks by split; one without split folders is the training split."""
    if _has_images(path):
        return {ONLY_SPLIT: path} if (path / "masks").is_dir() else {}
    children = [path / name for name in _split_folders(path)]
    return {child.name: child for child in children if _has_images(child) and (child / "masks").is_dir()}


def _split_folders(images: Path) -> list[str]:
    """Names of the visible folders in a folder."""
    if not images.is_dir():
        return []
    return sorted(child.name for child in images.iterdir() if child.is_dir() and visible(child.name))


def _tars(path: Path) -> list[Path]:
    return sorted(file for file in path.glob("*.tar") if visible(file.name))


def _found(path: Path, pattern: str) -> Iterator[Path]:
    """Files of a pattern in a folder, then in those within it, one by one."""
    yield from path.glob(pattern)
    yield from path.glob(f"*/{pattern}")


def _with_year(split: str, names: list[str]) -> str:
    """COCO's name of a split: "validation" is "val2017" where no other year is there."""
    stem = "val" if split in VALIDATION_NAMES else split
    years = [name for name in names if name.startswith(stem) and name.removeprefix(stem).isdigit()]
    return years[0] if split not in names and len(years) == 1 else split
