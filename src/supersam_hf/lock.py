"""One writer a folder: two processes that go on with one run would each write over what the other has just made."""

import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import psutil

from .files import open_no_link


LOCK_FILE = ".writing.json"
# Seconds: how often a writer says that it lives, and how long its silence must be for another machine to take over.
BEAT = 20
SILENCE = 120
# What file systems say that have no locks.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@dataclass(frozen=True)
class Writer:
    """The process that writes to a folder."""

    pid: int
    host: str
    since: str

    @classmethod
    def present(cls) -> "Writer":
        return cls(os.getpid(), socket.gethostname(), datetime.now(UTC).isoformat(timespec="seconds"))

    @classmethod
    def read(cls, file: IO[str]) -> "Writer | None":
        """The one that left this record; None if it was killed before it had written it."""
        file.seek(0)
        try:
            data = json.loads(file.read())
            return cls(int(data["pid"]), str(data["host"]), str(data["since"]))
        except (ValueError, LookupError, TypeError):
            return None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} (since {self.since})"


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Within the block, no other process may write to `folder`, which is made.

    The lock goes with its process, however that ends: one that was killed keeps nobody out. On file systems whose
    locks do not reach other machines, the record in `.writing.json` tells: its writer renews it every 20 s, and
    another machine takes over after two minutes of silence. A process that `torchrun` started anew takes over at once.

    Raises:
        ValueError: If another process writes there, naming it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_FILE
    with _locked(path) as file:
        _check_other_machines(path, file)
        file.truncate(0)
        json.dump(asdict(Writer.present()), file)
        file.flush()
        try:
            with _renewed(path):
                yield
        finally:
            if _lies_at(path, file):
                path.unlink()


@contextmanager
def _locked(path: Path) -> Iterator[IO[str]]:
    """The file, locked for this process; forked ones do not keep the lock."""
    while True:
        with open(path, "a+", encoding="utf-8", opener=open_no_link) as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    raise ValueError(_refusal(path, Writer.read(file))) from error
                if error.errno not in NO_LOCKS:
                    raise
                if _is_alive(Writer.read(file)):
                    raise ValueError(_refusal(path, Writer.read(file))) from error
            if _lies_at(path, file):  # else its writer has just removed it
                yield file
                return


def _check_other_machines(path: Path, file: IO[str]) -> None:
    """`ValueError` where a record that is still renewed is of another machine, which this file system's locks do not
    reach; a record of this machine is of a process that was killed."""
    writer = Writer.read(file)
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    if writer is None or writer.host == socket.gethostname() or restarted:
        return
    if time.time() - path.stat().st_mtime < SILENCE:
        raise ValueError(
            f"{_refusal(path, writer)} If it is gone from {writer.host}, remove {path}, or wait {SILENCE} s."
        )


def _is_alive(writer: Writer | None) -> bool:
    """Whether a record is of another process of this machine that has not ended."""
    if writer is None or writer.host != socket.gethostname() or writer.pid == os.getpid():
        return False
    return psutil.pid_exists(writer.pid)


def _refusal(path: Path, writer: Writer | None) -> str:
    return (
        f"{path.parent} is being written by {writer or 'another process'}; one folder takes one run at a time. Wait "
        "for it, stop it, or choose another `output_dir`."
    )


def _lies_at(path: Path, file: IO[str]) -> bool:
    return path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())


@contextmanager
def _renewed(path: Path) -> Iterator[None]:
    """A thread renews the record within the block."""
    over = threading.Event()

    def renew() -> None:
        while not over.wait(BEAT):
            with suppress(OSError):  # a file system that is away for a moment
                os.utime(path)

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


__all__ = ["LOCK_FILE", "Writer", "sole_writer"]
