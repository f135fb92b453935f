"""What a resumed training must share with the one that it continues, beside its arguments and its batches."""

from dataclasses import asdict
from typing import Any

from torch.utils.data import DataLoader


def data_context(loader: DataLoader) -> dict[str, Any]:
    """What decides the samples of a loader whose dataset has `args`: for the context of an engine."""
    dataset: Any = loader.dataset
    how_fast = ("num_workers", "eval_batch_size")
    return {key: value for key, value in asdict(dataset.args).items() if key not in how_fast}


__all__ = ["data_context"]
