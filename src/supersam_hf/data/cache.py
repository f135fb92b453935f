"""Evaluation samples kept in memory: they are the same in every epoch."""

from collections.abc import Callable

import torch


class SampleCache:
    """Keeps the samples it is asked for until they fill their share of memory; later ones are made anew each time.

    Args:
        max_bytes (`int`): Bytes to keep, the worker processes of a loader together.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._samples: dict[int, dict[str, torch.Tensor]] = {}
        self._bytes = 0

    def get(self, index: int, make: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """The sample of an index; `make` gives it where it is not kept."""
        if index in self._samples:
            return self._samples[index]
        sample = make()
        size = sum(value.numel() * value.element_size() for value in sample.values())
        worker = torch.utils.data.get_worker_info()
        if self._bytes + size <= self.max_bytes // (1 if worker is None else worker.num_workers):
            self._samples[index] = sample
            self._bytes += size
        return sample
