"""A folder a class: the names of the folders are the labels of the images in them."""

import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .arguments import OnError
from .layouts.listed import IMAGE_SUFFIXES
from .paths import check_utf8, inside, shown, source_root, visible
from .skipped import LeftOut, SkipLog, report_skipped, tell_left_out
from .splits import KNOWN_SPLITS, ONLY_SPLIT, SEVERAL_PARTS, resolve_split


if TYPE_CHECKING:
    from datasets import Dataset


# The order of the images is drawn once and for all, so that a slice as "train[:90%]" shows every class.
ORDER_SEED = 0
# How deep below a class folder images are looked for, which would be of no class.
DEEPER = 3
# Folders of a source with masks, which are no classes.
MASK_LAYOUT = {"images", "masks", "labels", "annotations", "annotations_instance"}


def is_image_folder(path: Path) -> bool:
    """Whether images lie in `<class>/` or `<split>/<class>/` of a folder, or deeper, with no metadata that says more
    of them and no parquet files."""
    if not path.is_dir():
        return False
    tree = ClassTree.of(path)
    return not tree.described and (any(tree.splits.values()) or bool(tree.nested))


def from_image_folder(
    path: str | Path, split: str = "train", on_error: OnError = "raise", skip_log: SkipLog | None = None
) -> "Dataset":
    """Columns `image` and `label` from `<split>/<class>/*` or, as the one split "train", `<class>/*`.

    The labels are the names of the class folders of all splits together, sorted, so that they mean the same in a split
    that lacks a class. The images are in a fixed random order. Hidden folders are no classes; what is left out is
    counted and named.

    Args:
        path (`str` or `Path`): The folder.
        split (`str`, *optional*, defaults to `"train"`): Name of the split.
        on_error (`str`, *optional*, defaults to `"raise"`): "raise" or "skip": what is done about links that lead out
            of the folder and names that are no UTF-8.
        skip_log ([`SkipLog`], *optional*): Where to list what is left out.

    Raises:
        ValueError: If there is no such split, it has fewer than two classes, images lie in folders of a class folder,
            or a link leads out of the source.
    """
    from datasets import ClassLabel, Dataset, Features, Image

    path = Path(path)
    tree = ClassTree.of(path)
    tree.check()
    folder = tree.splits[resolve_split(split, list(tree.splits), f"{path} ({SEVERAL_PARTS})")]
    names = tree.classes()
    tell_left_out(tree.left_out, skip_log)
    files = [(file, names.index(name)) for name, images in folder.items() for file in images]
    refused = {shown(file): reason for file, _ in files if (reason := _refused(file, tree.root))} | tree.outside
    if refused and on_error == "raise":
        file, reason = next(iter(refused.items()))
        raise ValueError(f"{len(refused)} files of {path} are refused, the first {file}: {reason}")
    report_skipped(refused, len(files), split, skip_log)
    rows = [(str(file), label) for file, label in files if shown(file) not in refused]
    order = np.random.default_rng(ORDER_SEED).permutation(len(rows))
    columns = {"image": [rows[i][0] for i in order], "label": [rows[i][1] for i in order]}
    return Dataset.from_dict(columns, features=Features({"image": Image(), "label": ClassLabel(names=names)}))


def image_folder_splits(path: Path) -> list[str]:
    """The names of the splits of a folder of class folders."""
    return list(ClassTree.of(path).splits)


@dataclass(frozen=True)
class Listing:
    """What lies in a folder, by name, sorted.

    Args:
        images (`list[str]`): Image files.
        folders (`list[str]`): Folders.
        others (`list[str]`): Files of other kinds.
        hidden (`list[str]`): Image files and folders that are hidden or were left behind by a system.
        outside (`dict[str, str]`): Links to folders out of the source, and what is wrong with them.
    """

    images: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    outside: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path, root: Path) -> "Listing":
        """Of a folder of a source; links are followed within the source."""
        found = cls()
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                found._add(entry, folder, root)
        return found

    def _add(self, entry: "os.DirEntry[str]", folder: Path, root: Path) -> None:
        is_image = entry.name.lower().endswith(IMAGE_SUFFIXES)
        if not visible(entry.name):
            if is_image or entry.is_dir():
                self.hidden.append(entry.name)
        elif entry.is_dir():
            if entry.is_symlink() and (reason := _outside(folder / entry.name, root)):
                self.outside[str(folder / entry.name)] = reason
            else:
                self.folders.append(entry.name)
        else:
            (self.images if is_image else self.others).append(entry.name)


@dataclass(frozen=True)
class ClassTree:
    """The images of a folder of class folders.

    Args:
        path (`Path`): The folder.
        root (`Path`): Where links must lead to.
        splits (`dict`): The image files of each class, by split.
        nested (`list[Path]`): Images in folders of class folders.
        described (`bool`): Whether there are metadata or parquet files, which say what is what.
        outside (`dict[str, str]`): Links to folders out of the source, and what is wrong with them.
        left_out (`list[LeftOut]`): What is of no class.
    """

    path: Path
    root: Path
    splits: dict[str, dict[str, list[Path]]]
    nested: list[Path]
    described: bool
    outside: dict[str, str]
    left_out: list[LeftOut]

    @classmethod
    def of(cls, path: Path) -> "ClassTree":
        """Looks at a folder, those in it, and those in these."""
        root = source_root(path)
        listings = {path: Listing.of(path, root)}
        children = [path / name for name in listings[path].folders]
        listings |= {child: Listing.of(child, root) for child in children}
        below = [child / name for child in children for name in listings[child].folders]
        listings |= {folder: Listing.of(folder, root) for folder in below}
        split_folders = [child for child in children if _is_split(child, listings)]
        parents = {child.name: child for child in split_folders} or {ONLY_SPLIT: path}
        splits = {name: _classes_in(parent, listings) for name, parent in parents.items()}
        splits = {name: classes for name, classes in splits.items() if classes}
        classes = [parent / name for parent in parents.values() for name in listings[parent].folders]
        nested = [file for folder in classes for file in _deeper(folder, listings, root)]
        described = any(
            name.startswith("metadata.") or name.endswith(".parquet")
            for found in listings.values()
            for name in found.others
        )
        outside = {file: reason for found in listings.values() for file, reason in found.outside.items()}
        left_out = list(_left_out(path, listings, parents, classes))
        return cls(path, root, splits, nested, described, outside, left_out)

    def classes(self) -> list[str]:
        """Names of the classes of all splits, in the order of their labels."""
        return sorted({name for folder in self.splits.values() for name in folder})

    def check(self) -> None:
        """Raises `ValueError` where it is not plain which class an image has, or there are fewer than two."""
        names = self.classes()
        if self.nested:
            raise ValueError(
                f"{len(self.nested)} images of {self.path} lie in folders of a class folder, the first "
                f"{shown(self.nested[0])}. A class is one folder, here or in a folder a split: move its images there, "
                "or name the folder of the class folders as `data.source`."
            )
        if set(names) & {"images"} and set(names) <= MASK_LAYOUT:
            raise ValueError(f"The folders {names} of {self.path} hold images and their masks; they are no classes.")
        if len(names) < 2:
            raise ValueError(
                f"{self.path} has only one folder of images, {names}; the layout needs a folder for each class."
            )


def _is_split(folder: Path, listings: dict[Path, Listing]) -> bool:
    """Whether a folder holds class folders; one that holds images as well is a class, unless it is called a split."""
    own = listings[folder]
    has_classes = any(listings[folder / name].images for name in own.folders)
    return has_classes and (not own.images or folder.name in KNOWN_SPLITS)


def _classes_in(parent: Path, listings: dict[Path, Listing]) -> dict[str, list[Path]]:
    """Image files by class. A name is the same however its accents are stored, which differs by system."""
    classes: dict[str, list[Path]] = {}
    for folder in listings[parent].folders:
        images = [parent / folder / image for image in listings[parent / folder].images]
        name = unicodedata.normalize("NFC", shown(folder))
        if images and name in classes:
            raise ValueError(
                f"Two folders of {parent} are called {name!r}, with accents stored in two ways; join them."
            )
        if images:
            classes[name] = images
    return classes


def _deeper(folder: Path, listings: dict[Path, Listing], root: Path, depth: int = DEEPER) -> Iterator[Path]:
    """The images in the folders of a class folder."""
    for name in (listings.get(folder) or Listing.of(folder, root)).folders:
        child = folder / name
        yield from (child / image for image in (listings.get(child) or Listing.of(child, root)).images)
        if depth > 1:
            yield from _deeper(child, listings, root, depth - 1)


def _left_out(
    path: Path, listings: dict[Path, Listing], parents: dict[str, Path], classes: list[Path]
) -> Iterator[LeftOut]:
    """What of a folder is no image of a class."""
    used = {path, *parents.values(), *classes}

    def names(kind: str, folders: "set[Path] | list[Path]") -> list[str]:
        return [
            shown((folder / name).relative_to(path))
            for folder in sorted(folders)
            for name in getattr(listings[folder], kind)
        ]

    loose = set(listings) - set(classes)
    kinds = {
        "they are hidden, or what a system leaves behind": names("hidden", used),
        f"they are no images ({', '.join(IMAGE_SUFFIXES)})": names("others", classes),
        "they lie in no class folder": names("images", loose),
        "no image lies in them": [
            shown(folder.relative_to(path)) for folder in classes if not listings[folder].images
        ],
    }
    for why, found in kinds.items():
        if found:
            yield LeftOut(str(path), "folders" if why.startswith("no image") else "files or folders", found, why)


def _refused(file: Path, root: Path) -> str | None:
    """What is wrong with the path of an image."""
    try:
        check_utf8(file)
    except ValueError as error:
        return str(error)
    return _outside(file, root) if file.is_symlink() else None


def _outside(link: Path, root: Path) -> str | None:
    """What is wrong with a link that leads out of the source."""
    try:
        inside(link.parent, link.name, [root])
    except ValueError as error:
        return str(error)
    return None
