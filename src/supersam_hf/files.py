"""Small things about files and JSON data that several rooms need."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch


def write_json(path: Path, data: Any) -> None:
    """Writes aside, then renames: whole or not at all."""
    aside = path.with_suffix(path.suffix + ".tmp")
    aside.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    aside.replace(path)


def fingerprint(model: torch.nn.Module) -> str:
    """A digest of all weights, to tell whether stored results are this model's."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy())
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


def whole_lines(path: Path) -> list[str]:
    """The lines of a JSONL file. A last line without its end was cut off when a run was killed: it is dropped."""
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return whole.splitlines()
