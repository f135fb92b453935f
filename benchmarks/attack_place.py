"""A scratch folder for one way in, with others' files beside it, and what became of them."""

import base64
import contextlib
import hashlib
import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from attack_inputs import picture


MARKER = b"NOBODYS-BUSINESS-5d1f"
MEMORY_BYTES = 6 * 2**30
SECONDS = 180


class GotIn(Exception):
    """A way in that is found by looking at what was written."""


class Skipped(Exception):
    """A way that cannot be tried here."""


@dataclass
class Command:
    """What one command came to."""

    code: int
    out: str
    err: str
    hung: bool = False
    filled: bool = False


@dataclass
class Place:
    """A scratch folder for one way, with others' files beside it.

    Args:
        root (`Path`): The folder.
        in_process (`bool`): Run commands in this process: faster, but without bounds of time and memory.
        hub (`HubServer`, *optional*): Where this process is pointed at; one is started where it is not given.

    Attributes:
        work (`Path`): Where inputs and outputs lie.
        outside (`Path`): Others' files: `secret.png` and `secret.txt`, which hold the marker, and `thesis/`.
        canary (`Path`): Code of an input makes this file when it is run.
        commands (`list`): What ran.
    """

    root: Path
    in_process: bool = False
    hub: Any = None
    commands: list[Command] = field(default_factory=list)
    own: list[Path] = field(default_factory=list)
    before: dict[str, str] = field(default_factory=dict)
    inputs: set[Path] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.work, self.outside, self.canary = self.root / "work", self.root / "outside", self.root / "code-was-run"
        for folder in (self.work, self.outside / "thesis"):
            folder.mkdir(parents=True)
        self.secret = picture(self.outside / "secret.png", MARKER)
        (self.outside / "secret.txt").write_bytes(MARKER)
        (self.outside / "thesis" / "chapter.txt").write_text("years of work")
        self.own.append(self.outside)

    def users_own(self, path: Path, text: str = "years of work") -> Path:
        """A file or folder of the user's in `work`, which is to stay as it is."""
        file = path if path.suffix and not path.name.endswith(".tmp") else path / "chapter.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        self.own.append(path)
        return path

    def arm(self) -> None:
        """Looks at the users' files: from here on they may not change."""
        self.before = self._state()
        self.inputs = set(written(self.work))

    def supersam(self, *argv: object, stdin: str = "", **env: str) -> Command:
        """Runs `supersam-hf`."""
        if not self.before:
            self.arm()
        words = [str(word) for word in argv]
        if self.in_process:
            return self._within(words)
        return self.python("-m", "supersam_hf", *words, stdin=stdin, **env)

    def python(self, *argv: str, stdin: str = "", **env: str) -> Command:
        """Runs Python with bounds."""
        if not self.before:
            self.arm()
        plain = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        plain |= {"HOME": str(self.root / "home"), "HF_HOME": str(self.root / "hf")}
        with (self.root / "out").open("w+") as out, (self.root / "err").open("w+") as err:
            process = subprocess.Popen(
                [sys.executable, *argv],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                cwd=self.work,
                env={**os.environ, **plain, **env},
                start_new_session=True,
            )
            assert process.stdin is not None
            try:
                process.stdin.write(stdin.encode())
                process.stdin.close()
            except BrokenPipeError:
                pass  # it has ended
            hung, filled = watch(process)
        done = Command(process.returncode, *((self.root / n).read_text(errors="replace") for n in ("out", "err")))
        done.hung, done.filled = hung, filled
        self.commands.append(done)
        return done

    def _within(self, words: list[str]) -> Command:
        from supersam_hf_cli import main

        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main(words)
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else 1
        self.commands.append(Command(code, out.getvalue(), err.getvalue()))
        return self.commands[-1]

    def _state(self) -> dict[str, str]:
        """A digest of every file of others."""
        found = {}
        for path in [file for own in self.own for file in (own, *sorted(own.rglob("*")))]:
            kind = f"link to {os.readlink(path)}" if path.is_symlink() else "folder" if path.is_dir() else None
            if kind is None:
                kind = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "gone"
            found[str(path.relative_to(self.root))] = kind
        return found

    def break_in(self) -> str | None:
        """What the way got at, None if nothing."""
        if self.canary.exists():
            return "code was run"
        now = self._state() if self.before else {}  # nothing was tried otherwise
        changed = sorted(name for name in {*self.before, *now} if self.before.get(name) != now.get(name))
        if changed:
            return f"changed or deleted: {', '.join(changed[:3])}"
        if any(done.hung for done in self.commands):
            return "did not end"
        if any(done.filled for done in self.commands):
            return "filled the memory"
        leaked = [path for path in written(self.work) if path not in self.inputs and holds_marker(path)]
        return f"read into {leaked[0].relative_to(self.work)}" if leaked else None


def watch(process: subprocess.Popen) -> tuple[bool, bool]:
    """Waits for a process and those it began; ends it past its time or its memory. Whether it hung, and filled it."""
    began = time.monotonic()
    while process.poll() is None:
        time.sleep(0.05)
        hung = time.monotonic() - began > SECONDS
        filled = memory(process.pid) > MEMORY_BYTES
        if hung or filled:
            for child in family(process.pid):
                child.kill()
            process.wait()
            return hung and not filled, filled
    return False, False


def family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def memory(pid: int) -> int:
    total = 0
    for process in family(pid):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def written(folder: Path) -> Iterator[Path]:
    """Regular files below a folder; links are not followed."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path


def holds_marker(path: Path) -> bool:
    """Whether a file has the marker in it: as it is, in base64, or in a cell of a table."""
    data = path.read_bytes()
    spellings = [MARKER, *(base64.b64encode(b"x" * shift + MARKER)[4:-4] for shift in range(3))]
    if any(spelling in data for spelling in spellings):
        return True
    if path.suffix != ".parquet":
        return False
    import pyarrow.parquet

    return MARKER in repr(pyarrow.parquet.read_table(path).to_pylist()).encode()
