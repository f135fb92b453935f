"""Journals: the single results of a stage, from which an interrupted stage goes on."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..files import changed_keys, whole_lines


class Journal:
    """Results of the single evaluations of a stage, a JSON line each, so that a stage killed half-way goes on.

    Args:
        path (`Path`): JSONL file; its first line is the context.
        context (`dict`): What the results depend on.

    Raises:
        ValueError: If the file holds results of another context (naming what differs).
    """

    def __init__(self, path: Path, context: dict[str, Any]) -> None:
        self.path = path
        self.results: dict[str, Any] = {}
        if path.exists():
            self._read(context)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._append(context)

    def get(self, key: str, compute: Callable[[], Any]) -> Any:
        """The stored result of `key`, or what `compute` returns, stored."""
        if key not in self.results:
            value = compute()
            self._append({"key": key, "value": value})
            self.results[key] = value
        return self.results[key]

    def _read(self, context: dict[str, Any]) -> None:
        lines = [json.loads(line) for line in whole_lines(self.path)]
        if not lines:
            self._append(context)
            return
        changed = changed_keys(lines[0], context)
        if changed:
            raise ValueError(
                f"{self.path} holds results made with another {', '.join(changed)}. Remove the file to begin anew, "
                "or choose another `output_dir`."
            )
        self.results = {line["key"]: line["value"] for line in lines[1:]}

    def _append(self, line: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
