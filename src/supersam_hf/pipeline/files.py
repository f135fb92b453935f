"""Files of a run: written whole or not at all, and journals from which an interrupted stage goes on."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def write_json(path: Path, data: Any) -> None:
    """Writes aside, then renames."""
    aside = path.with_suffix(path.suffix + ".tmp")
    aside.write_text(json.dumps(data, indent=2) + "\n")
    aside.replace(path)


def fingerprint(model: torch.nn.Module) -> str:
    """A digest of all weights, to tell whether stored results are this model's."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


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
        context = json.loads(json.dumps(context))
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
        text = self.path.read_text()
        # A line without its end was being written when the run was killed.
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            self.path.write_text(whole)
        lines = [json.loads(line) for line in whole.splitlines()]
        if not lines:
            self._append(context)
            return
        changed = sorted(k for k in {*lines[0], *context} if lines[0].get(k) != context.get(k))
        if changed:
            raise ValueError(
                f"{self.path} holds results made with another {', '.join(f'`{k}`' for k in changed)}. Remove the file "
                "(or `--redo` the stage) to begin anew, or choose another `output_dir`."
            )
        self.results = {line["key"]: line["value"] for line in lines[1:]}

    def _append(self, line: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
