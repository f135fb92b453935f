"""Journals: the single results of a stage, from which an interrupted stage goes on."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from accelerate import PartialState

from ..files import as_far_as_read, changed_keys, open_no_link, whole_lines
from ..spread import on_main, spread_groups


Item = TypeVar("Item")

# Subnets that a process evaluates together: the more, the more they share, and the more a kill loses.
TOGETHER = 8


class Journal:
    """Results of the single evaluations of a stage, a JSON line each, so that a stage killed half-way goes on.

    Of several processes the main one reads and writes; all know the same results.

    Args:
        path (`Path`): JSONL file; its first line is the context.
        context (`dict`): What the results depend on.
        state (`PartialState`, *optional*): This process among the others, which all come here; None: it is alone.

    Raises:
        ValueError: If the file holds results of another context (naming what differs).
    """

    def __init__(self, path: Path, context: dict[str, Any], state: PartialState | None = None) -> None:
        self.path, self.state = path, state
        self.results: dict[str, Any] = on_main(state, lambda: self._open(context))

    def get(self, key: str, compute: Callable[[], Any]) -> Any:
        """The stored result of `key`, or what `compute` returns, stored. For one process."""
        return self.get_all({key: None}, lambda _: compute())[key]

    def get_all(
        self, items: Mapping[str, Item], compute: Callable[[Item], Any], progress: Callable[[int], Any] | None = None
    ) -> dict[str, Any]:
        """The results of all keys: the stored ones, and what `compute` returns for the items of the others, spread
        over the processes. A kill loses what was under way: one result a process.

        Args:
            items (`Mapping`): What to compute, by key; the same on all processes.
            compute (`Callable`): Gives JSON data.
            progress (`Callable`, *optional*): Told how many results were added.
        """
        return self.get_groups(items, lambda group: [compute(item) for item in group], 1, progress)

    def get_groups(
        self,
        items: Mapping[str, Item],
        compute: Callable[[Sequence[Item]], Sequence[Any]],
        size: int,
        progress: Callable[[int], Any] | None = None,
    ) -> dict[str, Any]:
        """As [`get_all`], up to `size` items a process at a time, for a `compute` of several items that takes less
        time than one by one. A kill loses so many results a process."""
        missing = [key for key in items if key not in self.results]
        if progress is not None:
            progress(len(items) - len(missing))

        def keyed(keys: Sequence[str]) -> list[tuple[str, Any]]:
            return list(zip(keys, compute([items[key] for key in keys])))

        for found in spread_groups(self.state, missing, keyed, size):
            for key, value in found:
                self._store(key, value)
            if progress is not None:
                progress(len(found))
        return {key: self.results[key] for key in items}

    def _store(self, key: str, value: Any) -> None:
        if self.state is None or self.state.is_main_process:
            self._append({"key": key, "value": value})
        self.results[key] = value

    def _open(self, context: dict[str, Any]) -> dict[str, Any]:
        if self.path.exists():
            return self._read(context)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._append(context)
        return {}

    def _read(self, context: dict[str, Any]) -> dict[str, Any]:
        lines = [json.loads(line) for line in whole_lines(self.path)]
        if not lines:
            self._append(context)
            return {}
        changed = changed_keys(as_far_as_read(lines[0], context), context)
        if changed:
            raise ValueError(
                f"{self.path} holds results made with another {', '.join(changed)}. Remove the file to begin anew, "
                "or choose another `output_dir`."
            )
        return {line["key"]: line["value"] for line in lines[1:]}

    def _append(self, line: dict[str, Any]) -> None:
        with open(self.path, "a", encoding="utf-8", opener=open_no_link) as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
