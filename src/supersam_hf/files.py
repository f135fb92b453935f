"""Small things about files and JSON data that several rooms need."""

import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import torch


try:
    import fcntl
except ImportError:  # Windows: there, what a killed process left is not cleared away
    fcntl = None  # type: ignore[assignment]

# Of folders and files that are being written; nobody names theirs so.
ASIDE = ".supersam-hf-writing"
LOCK = "lock"
# What our own pages and figures (PNG, PDF, SVG) have in their first or last bytes, and other files do not.
MARK = "supersam_hf"
MARKS = (
    f'<meta name="generator" content="{MARK}">'.encode(),
    *(f"tEXtSoftware\0{MARK}".encode(), f"/Creator ({MARK})".encode(), f"<dc:title>{MARK}</dc:title>".encode()),
)
# Figures of earlier versions are not marked. Beside one of these files they are ours too.
UNMARKED, RECORDS = b"tEXtSoftware\0Matplotlib version", ("start.json", "results.json", "experiment.json")
LOOKED_AT = 4096


def read_json(path: Path) -> Any:
    """The data of a JSON file.

    Raises:
        ValueError: If it is no JSON, naming the file: a run's folder may come from elsewhere, or from a full disk.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged and cannot be read: {error}.") from error


def write_json(path: Path, data: Any) -> None:
    """Writes aside, then renames: whole or not at all."""
    write_whole(path, json.dumps(data, indent=2) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Writes aside, then renames: whole or not at all, also where the machine goes down. A link at `path` is replaced,
    and what it leads to is left alone."""
    with file_aside(path) as aside, aside.open("x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def file_aside(path: Path) -> Iterator[Path]:
    """Gives the path of a new file beside `path`, which takes its place at the end, or goes where that fails.

    Its name does not end as that of `path`: what a killed process leaves is no file that anybody reads.
    """
    aside = path.with_name(f"{_prefix(path)}{uuid4().hex[:12]}{ASIDE}")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def written_aside(folder: Path) -> Iterator[Path]:
    """Gives an empty folder to write, which takes the place of `folder` at the end: whole, or `folder` is as it was.

    It lies beside `folder`, under a name that is nobody else's. What a killed process left there is removed first.

    Args:
        folder (`Path`): What to write; a folder that lies there is replaced. Where it is a link, the folder that it
            leads to is written.

    Raises:
        ValueError: If `folder` is the current directory, or holds it: what is there would be gone.
    """
    folder = folder.resolve()
    if Path.cwd().is_relative_to(folder):
        raise ValueError(f"{folder} is the current directory or holds it: give a folder inside it.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder)
    scratch = Path(tempfile.mkdtemp(prefix=_prefix(folder), suffix=ASIDE, dir=folder.parent))
    try:
        with (scratch / LOCK).open("w") as lock:
            _lock(lock)
            aside, old = scratch / "new", scratch / "old"
            aside.mkdir()
            yield aside
            if folder.exists():
                folder.rename(old)
            try:
                aside.rename(folder)
            except OSError:
                if old.exists():
                    old.rename(folder)
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _prefix(path: Path) -> str:
    """What the names of all that is written aside for a path begin with."""
    return f".{path.name[:40]}-"


def _remove_abandoned(folder: Path) -> None:
    """Removes what [`written_aside`] of a process that was killed left: its lock went with the process."""
    for scratch in folder.parent.glob(f"{glob.escape(_prefix(folder))}*{ASIDE}"):
        lock = scratch / LOCK
        if fcntl is not None and not scratch.is_symlink() and lock.is_file() and not lock.is_symlink():
            with lock.open("r+") as file:
                if _lock(file):
                    shutil.rmtree(scratch, ignore_errors=True)


def _lock(file: IO[str]) -> bool:
    """Locks an open file until it is closed; False if another process has it locked."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def check_links(folder: Path) -> None:
    """Raises `ValueError` where a link within a folder leads out of it: what is read there would be others' files."""
    root = folder.resolve()
    for parent, folders, files in os.walk(root):
        for path in (Path(parent, name) for name in (*folders, *files)):
            if path.is_symlink() and not leads_within(path, root):
                raise ValueError(
                    f"{path} is a link to {path.resolve()}, outside of {folder}, and is not followed: copy what it "
                    "leads to into the folder, or remove the link."
                )


def leads_within(path: Path, folder: Path) -> bool:
    """Whether a path, its links followed, lies in a folder."""
    return path.resolve().is_relative_to(folder.resolve())


def scratch_of(path: Path) -> Path:
    """Where what is to lie at `path` is written before: hidden beside it, by a name that nobody else gives, so that
    what a killed process left there can be removed."""
    return path.with_name(f".{path.name}.writing")


def open_no_link(path: str, flags: int) -> int:
    """An opener that follows no link: one in a folder from elsewhere may lead to any file."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def check_empty(folder: Path) -> None:
    """Raises `ValueError` where something lies at a path that is to be written."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{str(folder)!r} is not an empty folder; name a new one, or empty it.")


def check_overwritable(path: Path, name: str) -> None:
    """Raises `ValueError` where something that we did not write lies at a path that is to be written.

    Args:
        path (`Path`): Of a page or a figure.
        name (`str`): What the message calls it.
    """
    if (path.exists() or path.is_symlink()) and not (path.is_file() and _is_marked(path)):
        raise ValueError(
            f"{name} is {str(path)!r}, which is there and is no page or figure of supersam_hf: it is left as it is. "
            "Name a new file, or remove that one."
        )


def _is_marked(path: Path) -> bool:
    with path.open("rb") as file:
        ends = file.read(LOOKED_AT)
        file.seek(max(0, path.stat().st_size - LOOKED_AT))
        ends += file.read(LOOKED_AT)
    of_a_run = any((path.parent / record).is_file() for record in RECORDS)
    return any(mark in ends for mark in (*MARKS, *([UNMARKED] if of_a_run else [])))


def fingerprint(model: torch.nn.Module) -> str:
    """A digest of all weights, to tell whether stored results are this model's."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def flattened(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested data as dotted keys, as they are given on the command line."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flattened(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def changed_keys(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Dotted names of the values in which two JSON-like records differ, as messages name them: "`a.b`, `c`"."""
    old, new = flattened(json.loads(json.dumps(then))), flattened(json.loads(json.dumps(now)))
    return [f"`{key}`" for key in sorted({*old, *new}) if old.get(key) != new.get(key)]


def as_far_as_read(then: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """A record without the values, here and in its sections, that are not read any more: records of earlier versions
    list more."""
    return {
        key: {name: v for name, v in value.items() if name in now[key]}
        if isinstance(value, dict) and isinstance(now[key], dict)
        else value
        for key, value in then.items()
        if key in now
    }


def cut_to(path: Path, size: int) -> None:
    """Leaves the first `size` bytes of a file: not written anew, for killed at that it would lose them. No link is
    followed."""
    with open(path, "r+b", opener=open_no_link) as file:
        file.truncate(size)


def whole_lines(path: Path) -> list[str]:
    """The lines of a JSONL file. A last line without its end was cut off when a run was killed: it is dropped."""
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        cut_to(path, len(whole))
    return whole.decode("utf-8").splitlines()
