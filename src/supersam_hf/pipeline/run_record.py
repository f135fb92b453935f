"""`run.json`: what it would take to run a run again. Versions, recipe, data, hardware, and each sitting."""

import json
import logging
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..data.fingerprint import Part, data_fingerprint, data_stamp
from ..files import flattened, write_json
from ..interruption import Interrupted
from ..measure import hardware
from ..spread import on_main
from .folder import RunFolder, image_counts


logger = logging.getLogger(__name__)

FILE = "run.json"
# What may decide a number; those that are not installed are left out.
PACKAGES = (
    *("supersam_hf", "torch", "torchvision", "transformers", "accelerate", "datasets", "numpy", "pillow"),
    *("safetensors", "huggingface_hub", "peft", "opentuner", "codecarbon", "torchdata"),
)


@contextmanager
def sitting(run: RunFolder, given: str | None = None, *, reads: Sequence[Part] = ("train", "eval")) -> Iterator[None]:
    """Writes `run.json` as a sitting begins, and completes it as it ends; one that was killed has no end there. No
    other process may write to the folder meanwhile.

    Args:
        given (`str`, *optional*): The values that the run is begun with, see [`RunFolder.writing`].
        reads (`Sequence[str]`): The splits of the data that it needs; of none, the record keeps what it says of them.

    Raises:
        ValueError: If the `run.json` that is there cannot be read, or another process writes to the folder.
    """
    with run.writing(given):
        record = on_main(run.state, lambda: _begin(run, reads))
        outcome = "failed"
        try:
            yield
            outcome = "finished"
        except Interrupted:
            outcome = "interrupted"
            raise
        finally:
            if run.state.is_main_process:
                _end(run, record, outcome)


def _begin(run: RunFolder, reads: Sequence[Part]) -> dict[str, Any]:
    before = read_record(run.folder)
    record = begun(before, present(run, before, reads))
    write_json(run.folder / FILE, record)
    return record


def _end(run: RunFolder, record: dict[str, Any], outcome: str) -> None:
    record["images"] = record["images"] | read_images(run)
    record["sittings"][-1] |= {"ended": _now(), "outcome": outcome}
    try:
        write_json(run.folder / FILE, record)
    except OSError as error:  # what ended the sitting says more, and comes next
        logger.warning(f"The end of this sitting is not recorded: {error}")


def read_record(folder: Path) -> dict[str, Any] | None:
    """`run.json` of a run's folder, or None.

    Raises:
        ValueError: If it is no JSON object.
    """
    return read_json(folder / FILE)


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object that a run left, or None if it is not there.

    Raises:
        ValueError: If it is no JSON object, naming the file.
    """
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); repair it, or remove it.") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds no JSON object; repair it, or remove it.")
    return data


def begun(before: dict[str, Any] | None, now: dict[str, Any]) -> dict[str, Any]:
    """The record as a sitting begins: what holds now, and how that differs from the sitting before."""
    sitting: dict[str, Any] = {"began": _now(), "ended": None, "outcome": None, "command": command_line()}
    if before is None:
        return {**now, "images": {}, "sittings": [sitting]}
    was, now_flat = (flattened(json.loads(json.dumps({k: r.get(k) for k in now}))) for r in (before, now))
    for flat in (was, now_flat):
        flat.pop("data_stamp", None)  # says no more than whether to look at the data
    # A value that was not there before was null.
    sitting["changed"] = {k: was.get(k) for k in sorted({*was, *now_flat}) if was.get(k) != now_flat.get(k)}
    return {**now, "images": before["images"], "sittings": [*before["sittings"], sitting]}


def present(run: RunFolder, before: dict[str, Any] | None, reads: Sequence[Part]) -> dict[str, Any]:
    """What a sitting runs with; data that were not touched since the record `before` are not looked through again."""
    recipe: Any = run.recipe
    was = {} if before is None else {key: before.get(key) for key in ("data", "data_stamp")}
    stamp = data_stamp(recipe.data) if reads else was.get("data_stamp")
    known = was.get("data") if not reads or stamp is not None and stamp == was.get("data_stamp") else None
    data = data_fingerprint(recipe.data, reads[0]) if known is None and reads else known or {}
    return {
        "versions": versions(),
        "git": git_revision(Path(__file__).parents[1] / "__init__.py"),
        "recipe": asdict(recipe),
        "data": data,
        "data_stamp": stamp,
        "hardware": hardware(run.state.device),
        "processes": run.state.num_processes,
    }


def command_line() -> str:
    """As it was typed, but for a launcher of several processes."""
    program = Path(sys.argv[0])
    ours = program.name == "supersam-hf" or program.parts[-2:] == ("supersam_hf", "__main__.py")
    return shlex.join(["supersam-hf", *sys.argv[1:]] if ours else sys.orig_argv)


def versions() -> dict[str, str]:
    """Of Python and of the libraries that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git_revision(file: Path) -> dict[str, Any] | None:
    """Commit of the checkout that tracks this file, and whether tracked files differ from it; None outside of one."""
    if shutil.which("git") is None or _git(file, "ls-files", "--error-unmatch", file.name) is None:
        return None
    return {"revision": _git(file, "rev-parse", "HEAD"), "dirty": _git(file, "diff", "HEAD", "--name-only") != ""}


def _git(file: Path, *words: str) -> str | None:
    done = subprocess.run(["git", "-C", str(file.parent), *words], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def read_images(run: RunFolder) -> dict[str, int]:
    """How many images this sitting trained and evaluated on, where it read them."""
    loaders = vars(run)  # cached properties are there once they were asked for
    train, evaluation = (loaders.get(name) for name in ("train_loader", "eval_loader"))
    return image_counts(train and train.dataset, evaluation and evaluation.dataset)


def known_images(run: RunFolder) -> dict[str, int]:
    """The same with what earlier sittings read; nothing is opened for it."""
    return ((read_record(run.folder) or {}).get("images") or {}) | read_images(run)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


__all__ = ["FILE", "git_revision", "known_images", "read_json", "read_record", "sitting", "versions"]
