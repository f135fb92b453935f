"""Which files of a folder are sent: those that an export writes, and those that are named. Everything else stays."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Literal

from ..files import leads_within, read_json


Kind = Literal["model", "adapter", "dataset"]

INDEX = "model.safetensors.index.json"
# What exports of each kind hold beside their card and its figures; of a model, its code too (`folder.CODE_FILES`).
WRITTEN: dict[Kind, tuple[str, ...]] = {
    "model": (
        *("config.json", "model.safetensors", "model-*-of-*.safetensors", INDEX),
        *("processor_config.json", "preprocessor_config.json", "search.json", "pareto.json"),
    ),
    "adapter": ("adapter_config.json", "adapter_model.safetensors"),
    "dataset": ("data/*-?????-of-?????.parquet",),
}
FIGURES = (".png", ".svg", ".jpg", ".webp")
# Pickle runs code when it is loaded, and these are or may hold pickles, or code of another library: none is published.
UNSAFE = (
    *(".bin", ".ckpt", ".h5", ".joblib", ".msgpack", ".npy", ".npz"),
    *(".pickle", ".pkl", ".pt", ".pth"),
)
LISTED = 20


def selected(folder: Path, patterns: Iterable[str], include: Sequence[str] = ()) -> dict[str, Path]:
    """The files of a folder to publish, by their path in the repository.

    Args:
        folder (`Path`): Of a model, an adapter or a dataset.
        patterns (`Iterable[str]`): What an export writes there, beside README.md and the figures that it shows.
        include (`Sequence[str]`): More files, by their path in the folder.

    Raises:
        ValueError: If one of them is a link that leads out of the folder, or `include` names what is not published.
    """
    wanted = [*patterns, "README.md"]
    parents = {Path(pattern).parent.as_posix() for pattern in wanted}
    lying = sorted(name for parent in parents for name in _names(folder, parent))
    found = {name: folder / name for name in lying if any(fnmatchcase(name, pattern) for pattern in wanted)}
    _check_within(found, folder)
    if "README.md" in found:
        shown = {name: folder / name for name in _shown(found["README.md"]) if (folder / name).is_file()}
        _check_within(shown, folder)
        found |= shown
    _check_shards(found, folder)
    return found | included(folder, include)


def included(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """The files that are named to be sent as well, by their path in the folder.

    Raises:
        ValueError: If one is not there, is no file, is hidden, may be a pickle, or lies elsewhere.
    """
    found = {}
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"`include` has {name!r}; give paths within {folder}.")
        if any(part.startswith(".") for part in path.parts):
            raise ValueError(f"`include` has {name!r}; hidden files are not published.")
        if path.suffix.lower() in UNSAFE:
            raise ValueError(f"`include` has {name!r}, which may be a pickle: only safetensors are published.")
        if not (folder / path).is_file():
            raise ValueError(f"`include` has {name!r}, but {folder} has no such file; folders are sent file by file.")
        found[path.as_posix()] = folder / path
    _check_within(found, folder)
    return found


def left_out(folder: Path, sent: Mapping[str, Path]) -> list[str]:
    """What of a folder stays: its files by name, its folders with the number of their files.

    Args:
        folder (`Path`): What was to be published, or the run that it came from.
        sent (`Mapping[str, Path]`): What is published, by its path in the repository.
    """
    stays = []
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            count = sum(not _is_sent(file, folder, sent) for file in _files_below(path))
            stays += [f"{path.name}/ ({count:,} file{'s' * (count != 1)})"] if count else []
        elif not _is_sent(path, folder, sent):
            stays.append(path.name)
    return stays


def left_out_line(folder: Path, stays: Sequence[str], *, whole: bool = False) -> str:
    """What of a folder stays, in a sentence; of a long list the first ones, unless it is to be `whole`."""
    shown = list(stays) if whole else list(stays[:LISTED])
    more = f" and {len(stays) - len(shown):,} more" if len(shown) < len(stays) else ""
    return f"not sent of {folder}: {', '.join(shown)}{more} (`include` names files to send as well)"


def _names(folder: Path, parent: str) -> list[str]:
    """Files of a folder within `folder` by their path there; hidden ones are not seen."""
    place = folder / parent
    files = [path for path in place.iterdir() if path.is_file()] if place.is_dir() else []
    return [path.relative_to(folder).as_posix() for path in files if not path.name.startswith(".")]


def _shown(readme: Path) -> set[str]:
    """The pictures beside a card that it shows."""
    targets = re.findall(r"\]\(([^()\s/\\]+)\)", readme.read_text(encoding="utf-8", errors="replace"))
    return {name for name in targets if Path(name).suffix in FIGURES and not name.startswith(".")}


def _check_within(files: Mapping[str, Path], folder: Path) -> None:
    for name, path in files.items():
        if not leads_within(path, folder):
            raise ValueError(
                f"{name} of {folder} is a link to {path.resolve()}, which lies elsewhere and is not published: put a "
                "copy in its place."
            )


def _check_shards(files: Mapping[str, Path], folder: Path) -> None:
    """`ValueError` where the index of sharded weights names a file that is not among them: it could lie anywhere."""
    if INDEX not in files:
        return
    index = read_json(files[INDEX])
    others = sorted({str(name) for name in index.get("weight_map", {}).values()} - set(files))
    if others:
        raise ValueError(f"{INDEX} of {folder} names {others}, which are no shards of weights beside it.")


def _files_below(folder: Path) -> list[Path]:
    return [Path(parent, name) for parent, _, names in os.walk(folder) for name in names]


def _is_sent(path: Path, folder: Path, sent: Mapping[str, Path]) -> bool:
    return path.relative_to(folder).as_posix() in sent or path in sent.values()


__all__ = ["FIGURES", "INDEX", "UNSAFE", "WRITTEN", "Kind", "included", "left_out", "left_out_line", "selected"]
