"""Checkpoint folders: whole or not there, with a checksum of every file, the newest sound one found again."""

import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..files import write_json
from .errors import CheckpointError


STATE_FILE = "trainer_state.json"
MANIFEST = "manifest.json"
# All that a checkpoint is made of: JSON, and safetensors, which hold numbers alone. Sharded, a file a process.
OWN_FILES = re.compile(
    r"(?:manifest|trainer_state)\.json|(?:state|model(?:-\d+)?|optimizer(?:-\d+)?|random-\d+)\.(?:json|safetensors)"
)
# What PyTorch and Accelerate write, earlier versions of this package among them.
PICKLES = (".bin", ".pkl", ".pickle", ".pt", ".pth", ".distcp", ".metadata")

logger = logging.getLogger(__name__)


def checkpoints(output_dir: Path | str) -> list[Path]:
    """Checkpoint folders that were written to their end, oldest first; [`flaw`] tells whether they still are whole."""
    return [folder for folder in _numbered(Path(output_dir)) if (folder / STATE_FILE).is_file()]


def kept(output_dir: Path) -> str:
    """What a training in this folder can go on from, in a sentence."""
    saved = checkpoints(output_dir)
    if not saved:
        return "There is no checkpoint yet."
    return f"The last good checkpoint is {saved[-1]}; the same command goes on from there."


def step_of(folder: Path) -> int:
    """Steps done when a checkpoint was written."""
    return int(folder.name.removeprefix("checkpoint-"))


def aside_of(output_dir: Path, step: int) -> Path:
    """Where a checkpoint is written before [`seal`] makes it one."""
    return output_dir / f"checkpoint-{step:08d}.tmp"


def seal(aside: Path, state: Mapping[str, Any]) -> Path:
    """Makes a written folder a checkpoint: state and manifest are added, all of it brought to disk, then renamed.

    Args:
        aside (`Path`): From [`aside_of`], with all files that the processes write.
        state (`dict`): Where the run stands, as JSON data.
    """
    write_json(aside / STATE_FILE, state)
    files = sorted(path for path in aside.rglob("*") if path.is_file())
    write_json(aside / MANIFEST, {str(path.relative_to(aside)): _facts(path) for path in files})
    for path in (*files, *(path for path in aside.rglob("*") if path.is_dir()), aside):
        _to_disk(path)
    folder = aside.with_suffix("")
    discard(folder)
    aside.rename(folder)
    _to_disk(folder.parent)
    return folder


def flaw(folder: Path) -> str | None:
    """Why a checkpoint cannot be used: the file and what is wrong with it. None: every file is one that checkpoints
    are made of, and as it was written.

    Reads all of it, and loads none of it. Checksums are no proof of where a checkpoint comes from: whoever changes a
    file can change them too, so that what is loaded must be harmless by its kind.
    """
    names = sorted(path.name for path in folder.iterdir())
    foreign = next((name for name in names if not _is_own(folder / name)), None)
    if foreign is not None:
        return f"{foreign} is no file of a checkpoint{_of_pickles(foreign)}"
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        listed = {name: (int(facts["bytes"]), str(facts["sha256"])) for name, facts in manifest.items()}
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"{MANIFEST} is corrupt ({error})"
    if STATE_FILE not in listed:
        return f"{MANIFEST} is corrupt (it does not list {STATE_FILE})"
    for name, (size, digest) in listed.items():
        path = folder / name
        if name not in names:
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} bytes instead of {size:,}"
        if _sha256(path) != digest:
            return f"{name} is corrupt (its checksum differs)"
    unlisted = [name for name in names if name not in listed and name != MANIFEST]
    return f"{unlisted[0]} is not in {MANIFEST}" if unlisted else None


def _is_own(path: Path) -> bool:
    return OWN_FILES.fullmatch(path.name) is not None and path.is_file() and not path.is_symlink()


def _of_pickles(name: str) -> str:
    if not name.endswith(PICKLES):
        return ""
    return (
        ", and is not loaded: it may be a pickle, which can run any code. Earlier versions kept part of the state so; "
        "end such a run with the version that began it"
    )


def read_standing(folder: Path) -> dict[str, Any]:
    """Where the run stood: `global_step`, `evaluated`, `ended`, `run`, and `shape` where a training has one.

    Raises:
        CheckpointError: If that is not what the file holds.
    """
    path = folder / STATE_FILE
    try:
        standing = json.loads(path.read_text(encoding="utf-8"))
        kinds = {"global_step": int, "evaluated": bool, "ended": bool, "run": dict}
        broken = [key for key, kind in kinds.items() if type(standing[key]) is not kind]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} does not say where the run stood ({type(error).__name__}: {error}).") from error
    if broken or standing["global_step"] < 0:
        raise CheckpointError(f"{path} does not say where the run stood ({', '.join(broken) or 'a negative step'}).")
    return standing


def find_checkpoint(output_dir: Path, wanted: str | None) -> Path | None:
    """The checkpoint to go on from.

    Args:
        wanted (`str` or None): `latest`: the newest sound one, with a warning for each newer one that is not; a
            folder: that one; None: none.

    Returns:
        `Path` or None: None also where `latest` finds no checkpoint at all.

    Raises:
        CheckpointError: If the given one is not sound, or there are checkpoints and none is: a run is never begun
            anew in silence.
    """
    if wanted is None:
        return None
    if wanted != "latest":
        reason = flaw(Path(wanted)) if Path(wanted).is_dir() else "there is no such folder"
        if reason is not None:
            raise CheckpointError(f"`resume_from_checkpoint` is {wanted}, which cannot be used: {reason}.")
        return Path(wanted)
    flaws: list[str] = []
    for folder in reversed(_numbered(output_dir)):
        reason = flaw(folder)
        if reason is None:
            return folder
        logger.warning(f"{folder} cannot be used: {reason}. The one before it is tried.")
        flaws.append(f"{folder.name}: {reason}")
    if flaws:
        raise CheckpointError(
            f"No checkpoint in {output_dir} can be used ({'; '.join(flaws)}). Restore one, or set "
            "`resume_from_checkpoint: null` to begin anew."
        )
    return None


def forget_after(output_dir: Path, step: int) -> None:
    """Removes the checkpoints beyond `step`, which will be written again, and what a killed run left half-written."""
    for folder in (*output_dir.glob("checkpoint-*.tmp"), *(f for f in _numbered(output_dir) if step_of(f) > step)):
        discard(folder)


def keep_newest(output_dir: Path, limit: int) -> None:
    """Removes all but the `limit` newest checkpoints."""
    for folder in _numbered(output_dir)[:-limit]:
        discard(folder)


def discard(folder: Path) -> None:
    """Removes a checkpoint so that there is never half of one."""
    if folder.is_dir():
        aside = folder if folder.suffix == ".tmp" else folder.rename(folder.with_suffix(".old.tmp"))
        shutil.rmtree(aside)


def check_room(folder: Path, needed: int) -> None:
    """Raises `OSError` (ENOSPC) if the disk of `folder` has less than `needed` bytes free: before anything is
    written."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        text = f"a checkpoint needs about {needed / 2**20:,.1f} MiB, {folder} has {free / 2**20:,.1f} MiB free"
        raise OSError(errno.ENOSPC, text)


def tensor_bytes(data: Any) -> int:
    """Bytes of all tensors in nested dicts and lists."""
    if isinstance(data, torch.Tensor):
        return data.numel() * data.element_size()
    if isinstance(data, Mapping):
        return sum(tensor_bytes(value) for value in data.values())
    if isinstance(data, Sequence) and not isinstance(data, str):
        return sum(tensor_bytes(value) for value in data)
    return 0


def _numbered(output_dir: Path) -> list[Path]:
    found = (path for path in output_dir.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit())
    return sorted(path for path in found if path.is_dir())


def _facts(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": _sha256(path)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _to_disk(path: Path) -> None:
    """Files and folders alike: what was written survives a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


__all__ = [
    "MANIFEST",
    "STATE_FILE",
    "aside_of",
    "check_room",
    "checkpoints",
    "find_checkpoint",
    "flaw",
    "forget_after",
    "keep_newest",
    "kept",
    "read_standing",
    "seal",
    "step_of",
    "tensor_bytes",
]
