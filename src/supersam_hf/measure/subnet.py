"""Latency of subnets, as a search with a limit on it asks for."""

from collections.abc import Callable
from typing import Any

from ..models.supersam.elastic_supersam import Subnet
from .model import measure_model


def latency_of(model: Any, *, batch_size: int = 1, warmup: int = 3, repeats: int = 10) -> Callable[[Subnet], float]:
    """Median latency of a subnet, in milliseconds, as a function: each is extracted and timed on the device that the
    supernet is on, as `supersam-hf measure` times it (see [`measure_model`]).

    Args:
        model (`SuperSamModel`): The supernet.
        batch_size (`int`): Images in a batch, each with one box prompt.
        warmup (`int`): Batches that are not timed.
        repeats (`int`): Batches that are timed.
    """

    def latency(subnet: Subnet) -> float:
        extracted = model.extract(subnet)
        measured = measure_model(extracted, batch_size=batch_size, warmup=warmup, repeats=repeats, memory=False)
        return measured.latency.median_ms

    return latency


__all__ = ["latency_of"]
