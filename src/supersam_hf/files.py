"""Small things about files and JSON data that several rooms need."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch


def write_json(path: Path, data: Any) -> None:
    """Writes aside, then renames: whole or not at all."""
    write_whole(path, json.dumps(data, indent=2) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Writes aside, then renames: whole or not at all, also where the machine goes down."""
    aside = scratch_of(path)
    with open(aside, "w", encoding="utf-8", opener=open_no_link) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def scratch_of(path: Path) -> Path:
    """Where what is to lie at `path` is written before: hidden beside it, by a name that nobody else gives, so that
    what a killed process left there can be removed."""
    return path.with_name(f".{path.name}.writing")


def open_no_link(path: str, flags: int) -> int:
    """An opener that follows no link: one in a folder from elsewhere may lead to any file."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def check_empty(folder: Path) -> None:
    """Raises `ValueError` where something lies at a path that is to be written."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{str(folder)!r} is not an empty folder; name a new one, or empty it.")


def fingerprint(model: torch.nn.Module) -> str:
    """A digest of all weights, to tell whether stored results are this model's."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
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


def as_far_as_read(then: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """A record without the values, here and in its sections, that are not read any more: records of earlier versions
    list more."""
    return {
        key: {name: v for name, v in value.items() if name in now[key]}
        if isinstance(value, dict) and isinstance(now[key], dict)
        else value
        for key, value in then.items()
        if key in now
    }


def whole_lines(path: Path) -> list[str]:
    """The lines of a JSONL file. A last line without its end was cut off when a run was killed: it is dropped."""
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        os.truncate(path, len(whole))  # not written anew: killed at that, it would lose the other lines
    return whole.decode("utf-8").splitlines()
