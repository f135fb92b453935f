"""Which examples were left out because they cannot be read, and what else of a source is none."""

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


logger = logging.getLogger(__name__)

SHOWN = 3


@dataclass(frozen=True)
class LeftOut:
    """Records or files of a source that are no part of its examples.

    Args:
        where (`str`): File or folder that they are of.
        what (`str`): What they are, in the plural.
        names (`list[str]`): Each of them.
        why (`str`): The reason, a clause that begins with "they".
    """

    where: str
    what: str
    names: list[str]
    why: str


def tell_left_out(left_out: Sequence[LeftOut], log: "SkipLog | None") -> None:
    """Says how much of a source is left out, and why; all names in the log, where there is one."""
    for found in left_out:
        if log is not None:
            log.add(f"{found.where}, {len(found.names)} {found.what}: {', '.join(found.names)}", f"{found.why}.")
        logger.warning(
            f"{found.where}: {len(found.names)} {found.what} are left out ({found.why}): {_few(found.names)}."
        )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


class SkipLog:
    """A file with a line for each example that was left out: `{"name": ..., "reason": ...}`.

    Several processes and loader workers may write to it at once: a line is one write to the end of the file.

    Args:
        path (`Path`): JSONL file, made when the first example is left out.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: set[str] = set()

    def add(self, name: str, reason: str) -> bool:
        """Notes an example, unless it was noted before. Returns whether it is new.

        Args:
            name (`str`): Its file, or its place in one.
            reason (`str`): What is wrong with it.
        """
        if name not in self._known:
            self._known.update(self.read())  # by other processes too
        if name in self._known:
            return False
        self._known.add(name)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"name": name, "reason": reason}) + "\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)
        return True

    def count(self) -> int:
        """How many examples were left out."""
        return len(self.read())

    def read(self) -> dict[str, str]:
        """The reason for each example that was left out, by name; each of them once."""
        if not self.path.is_file():
            return {}
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        entries = [json.loads(line) for line in lines if line.endswith("\n")]  # one may be just being written
        return {entry["name"]: entry["reason"] for entry in entries}


def report_skipped(skipped: dict[str, str], total: int, part: str, log: SkipLog | None) -> None:
    """Says how many examples of how many were left out, and which; all of them in the log, where there is one.

    Args:
        skipped (`dict`): Reasons by name.
        total (`int`): Examples that there were.
        part (`str`): "train" or "eval".
        log ([`SkipLog`], *optional*): Where to list them.
    """
    if not skipped:
        return
    if log is not None:
        for name, reason in skipped.items():
            log.add(name, reason)
    where = "" if log is None else f"; all of them, and why, are in {log.path}"
    logger.warning(
        f"{len(skipped)} of {total} {part} examples cannot be read and are left out: {_few(list(skipped))}{where}."
    )
