"""State in files that cannot run code: nested data as JSON, its tensors as safetensors beside it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from .sharding import local


# What an encoded container is called in the JSON: a plain object there is always one of these.
DICT, TUPLE, TENSOR = "dict", "tuple", "tensor"


def write_state(folder: Path, name: str, state: Any) -> None:
    """Write `<name>.json` and `<name>.safetensors`.

    Args:
        state: Dicts (keys: text or whole numbers), lists, tuples, tensors, text, numbers, booleans, None. Of a tensor
            that is sharded over the processes, this one's part is written.

    Raises:
        TypeError: If anything else is in it, naming where.
    """
    tensors: dict[str, torch.Tensor] = {}
    encoded = _encoded(state, "", tensors, {})
    save_file(tensors, folder / f"{name}.safetensors")
    (folder / f"{name}.json").write_text(json.dumps(encoded), encoding="utf-8")


def read_state(folder: Path, name: str) -> Any:
    """Return what [`write_state`] was given, with its tensors on the CPU.

    Raises:
        Exception: Whatever JSON and safetensors raise for files that are not theirs.
    """
    encoded = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return _decoded(encoded, load_file(folder / f"{name}.safetensors"))


def _encoded(data: Any, path: str, tensors: dict[str, torch.Tensor], known: dict[Any, str]) -> Any:
    """`data` as JSON; its tensors go to `tensors`, named by their place. One that stands in two places (tied weights)
    is kept once, as `known` tells by its place in memory."""
    if data is None or isinstance(data, (bool, int, float, str)):
        return data
    if isinstance(data, torch.Tensor):
        tensor = local(data).detach()
        memory = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() and memory in known:
            return {TENSOR: known[memory]}
        name = known[memory] = path if path not in tensors else f"{path}#{len(tensors)}"
        tensors[name] = _own(tensor)
        return {TENSOR: name}
    if isinstance(data, Mapping):
        if not all(isinstance(key, (str, int)) for key in data):
            raise TypeError(f"`{path}` of a checkpoint's state has keys that are neither text nor whole numbers.")
        return {DICT: [[k, _encoded(v, _below(path, k), tensors, known)] for k, v in data.items()]}
    if isinstance(data, (list, tuple)):
        items = [_encoded(item, _below(path, i), tensors, known) for i, item in enumerate(data)]
        return items if isinstance(data, list) else {TUPLE: items}
    raise TypeError(f"`{path}` of a checkpoint's state is a {type(data).__name__}, which JSON cannot hold.")


def _own(tensor: torch.Tensor) -> torch.Tensor:
    """On the CPU, in memory that no other tensor has a part of, as safetensors wants it."""
    whole = tensor.untyped_storage().nbytes() == tensor.nbytes
    return (tensor if whole else tensor.clone()).cpu().contiguous()


def _decoded(data: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(data, list):
        return [_decoded(item, tensors) for item in data]
    if not isinstance(data, dict):
        return data
    ((kind, content),) = data.items()
    if kind == TENSOR:
        return tensors[content]
    if kind == DICT:
        return {key: _decoded(value, tensors) for key, value in content}
    if kind == TUPLE:
        return tuple(_decoded(item, tensors) for item in content)
    raise ValueError(f"{kind!r} is no kind of state")


def _below(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


__all__ = ["read_state", "write_state"]
