"""Files of a source: what records name and links lead to lies within it, or is refused; hidden files are no data."""

import os
from collections.abc import Sequence
from pathlib import Path


# What operating systems, editors and version control leave in folders of images, besides names that begin with a dot.
NO_DATA = ("__macosx", "__pycache__", "thumbs.db", "desktop.ini")
# In the cache of the Hub the files of a snapshot are links to blobs beside it.
SNAPSHOTS, BLOBS = "snapshots", "blobs"


def source_root(source: Path) -> Path:
    """The folder that all files of a local source must lie in, links followed.

    It is the source itself, which may be a link; of a snapshot in the cache of the Hub, whose files are links, the
    repository's folder there.

    Args:
        source (`Path`): Folder, or a file.
    """
    folder = source.resolve() if source.is_dir() else Path(os.path.abspath(source)).parent.resolve()
    for parent in (folder, *folder.parents):
        if parent.name == SNAPSHOTS and (parent.parent / BLOBS).is_dir():
            return parent.parent
    return folder


def inside(folder: Path, name: str | Path, roots: Sequence[Path] | None = None) -> Path:
    """The file that a record names.

    Args:
        folder (`Path`): Folder that the name is relative to.
        name (`str` or `Path`): As the record has it: relative and within the folder, or absolute.
        roots (`Sequence[Path]`, *optional*): Folders, links resolved, in one of which the file must lie once links are
            followed, and an absolute name too; by default the one folder.

    Returns:
        `Path`: Path of the file, without `..`; whether there is one is not looked at.

    Raises:
        ValueError: If the name leads out of the folder, by itself or over links.
    """
    name = os.fspath(name)
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"{name!r} is no name of a file.")
    if "://" in name:
        raise ValueError(f"{name!r} is a URL; only files within the source are read.")
    file = Path(os.path.normpath(folder / name))
    allowed = [folder.resolve()] if roots is None else roots
    if not os.path.isabs(name) and not file.is_relative_to(os.path.normpath(folder)):
        raise ValueError(f"The name {name!r} leads out of {folder}; only files within the source are read.")
    target = file.resolve()
    if not any(target.is_relative_to(root) for root in allowed):
        over = f" over a link to {target}" if target != file else ""
        within = " or ".join(map(str, allowed)) or "the source, which holds no files"
        raise ValueError(f"{shown(name)!r} leads{over} out of {within}; only files within the source are read.")
    return file


def check_inside(files: Sequence[Path], roots: Sequence[Path]) -> None:
    """Raises `ValueError` naming the first file that lies, or leads over links, outside of `roots`."""
    for file in files:
        inside(file.parent, file.name, roots)


def visible(name: str) -> bool:
    """Whether a file or folder of this name may be data: not hidden, and not what a system leaves behind, as
    `._a.png`, `.ipynb_checkpoints` and `__MACOSX`."""
    return not name.startswith(".") and name.lower() not in NO_DATA


def shown(name: str | Path) -> str:
    """A name of a file as text that can be printed and stored; bytes that are no UTF-8 as `\\udce9`."""
    return str(name).encode("utf-8", "backslashreplace").decode("utf-8")


def check_utf8(file: Path) -> None:
    """Raises `ValueError` for a path that is no UTF-8, which tables cannot hold."""
    if shown(file) != str(file):
        raise ValueError(f"The name of {shown(file)} is no UTF-8; rename it.")


__all__ = ["check_inside", "check_utf8", "inside", "shown", "source_root", "visible"]
