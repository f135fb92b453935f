"""The search log: one JSON line for every ask, on disk before the next ask."""

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from accelerate import PartialState

from ..files import as_far_as_read, cut_to, flattened, open_no_link
from ..spread import on_main
from .objective import Evaluation


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ask:
    """One ask of the engine and its answer: one line of the log.

    Args:
        ask (`int`): Counts every ask, from 1.
        trial (`int`, *optional*): Counts the distinct subnets whose quality was run, from 1; None if this is not one.
        cached (`bool`): Whether the subnet had been asked for before and was answered from memory.
        evaluation (`Evaluation`): How it did.
    """

    ask: int
    trial: int | None
    cached: bool
    evaluation: Evaluation

    def to_dict(self) -> dict[str, Any]:
        return {"ask": self.ask, "trial": self.trial, "cached": self.cached, **self.evaluation.to_dict()}

    def __post_init__(self) -> None:
        if type(self.ask) is not int or self.ask < 1:
            raise ValueError(f"`ask` must be a whole number of 1 or more, got {self.ask!r}.")
        if self.trial is not None and (type(self.trial) is not int or self.trial < 1):
            raise ValueError(f"`trial` must be a whole number of 1 or more or None, got {self.trial!r}.")
        if not isinstance(self.cached, bool):
            raise ValueError(f"`cached` must be true or false, got {self.cached!r}.")

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Ask":
        """From the data of `to_dict`; `ValueError`, naming the field, for any other."""
        missing = sorted({"ask", "trial", "cached"} - set(data))
        if missing:
            raise ValueError(f"An ask lacks {missing}.")
        return cls(data["ask"], data["trial"], data["cached"], Evaluation.from_dict(data))


class SearchLog:
    """Opens a log for appending, or starts one. `asks` are the lines that were there.

    A last line without its newline was cut off when the process was killed: it is dropped, and a warning says so. Of
    several processes the main one reads and writes; the others are given `asks`.

    Args:
        path (`str` or `Path`): The JSONL file. Its folder is made.
        header (`dict`): What must be the same for a search to go on: JSON values, nested at will.
        state (`PartialState`, *optional*): This process among the others; None: there are no others.

    Raises:
        ValueError: If the log was begun with another header (the differing field is named), or a line is not readable.
    """

    def __init__(self, path: str | Path, header: dict[str, Any], state: PartialState | None = None) -> None:
        self.path = Path(path)
        self._file: TextIO | None = None
        self.asks = on_main(state, lambda: self._open(header))

    def _open(self, header: dict[str, Any]) -> list[Ask]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = self._whole_lines()
        if lines:
            self._check_header(lines[0], json.loads(json.dumps(header)))
        asks = [self._ask(line, number) for number, line in enumerate(lines[1:], start=2)]
        self._file = open(self.path, "a", encoding="utf-8", opener=open_no_link)
        if not lines:
            self._write(header)
        return asks

    def append(self, ask: Ask) -> None:
        self._write(ask.to_dict())

    def __enter__(self) -> "SearchLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def _write(self, data: dict[str, Any]) -> None:
        if self._file is None:  # not the main process
            return
        self._file.write(json.dumps(data) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _whole_lines(self) -> list[dict[str, Any]]:
        content = self.path.read_bytes() if self.path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        lines = []
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                lines.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"Line {number} of {self.path} is not JSON; repair the log or delete it.") from error
            if not isinstance(lines[-1], dict):
                raise ValueError(f"Line {number} of {self.path} is no record; repair the log or delete it.")
        if len(whole) < len(content):
            logger.warning("The last line of %s was cut off while it was written; it is dropped.", self.path)
            cut_to(self.path, len(whole))
        return lines

    def _ask(self, line: dict[str, Any], number: int) -> Ask:
        try:
            return Ask.from_dict(line)
        except ValueError as error:
            raise ValueError(f"Line {number} of {self.path}: {error} Repair the log or delete it.") from None

    def _check_header(self, found: dict[str, Any], wanted: dict[str, Any]) -> None:
        # what the qualities depend on; earlier versions listed more
        context = as_far_as_read(found.get("context", {}), wanted.get("context", {}))
        before, now = flattened({**found, "context": context}), flattened({"context": {}, **wanted})
        for field in sorted({*before, *now}):
            if before.get(field) != now.get(field):
                raise ValueError(
                    f"{self.path} was begun with `{field}` = {before.get(field)}, now it is {now.get(field)}. "
                    "Take the same settings to resume, or another log."
                )
