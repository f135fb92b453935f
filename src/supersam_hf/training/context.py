"""What a resumed training must share with the one that it continues, beside its arguments and its batches."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch.utils.data import DataLoader

from ..data.arguments import HOW_FAST, data_read


def data_context(loader: DataLoader) -> dict[str, Any]:
    """The data of a loader whose dataset has `args`: for the context of an engine."""
    dataset: Any = loader.dataset
    return {key: value for key, value in asdict(dataset.args).items() if key not in HOW_FAST}


def trained_on(run: Mapping[str, Any]) -> dict[str, Any]:
    """What a training depends on, of what its checkpoint says of the run: not on what it is evaluated on."""
    return {**run, "data": data_read(run["data"], "train")} if isinstance(run.get("data"), Mapping) else {**run}


__all__ = ["data_context", "trained_on"]
