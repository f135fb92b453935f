"""What a training tells on its way beside its losses: speed and memory."""

import time

import torch

from ..measure.memory import peak_rss


class Throughput:
    """Images a second since it was made, or since the last [`restart`]."""

    def __init__(self) -> None:
        self._since, self._images = time.perf_counter(), 0

    def add(self, images: int) -> None:
        self._images += images

    def restart(self) -> float:
        """The rate so far; counts anew from here."""
        now = time.perf_counter()
        rate = self._images / (now - self._since)
        self._since, self._images = now, 0
        return rate


def peak_memory_mb() -> float:
    """The most memory that this process has held so far, in MiB: of its GPU where it has one, else of the machine."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return peak_rss() / 2**20


def shown(name: str, logs: dict[str, float]) -> bool:
    """Whether the progress bar has room for a value: the losses (of several terms only their sum), and the size."""
    return name == "loss" or name.endswith("_live") or (name.startswith("loss_") and "loss" not in logs)


__all__ = ["Throughput", "peak_memory_mb", "shown"]
