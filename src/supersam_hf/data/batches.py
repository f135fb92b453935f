"""Which samples make up the batches of a pass. Nothing here has a memory: a pass follows from (epoch, first batch)."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Sampler


# Epoch and index of a sample.
Key = tuple[int, int]


class Batches(Sampler[list[Key]], ABC):
    """The batches that one process takes in an epoch; its length is their number, on all processes the same.

    Args:
        num_items (`int`): Length of the dataset.
        batch_size (`int`): Samples a batch and process.
    """

    def __init__(self, num_items: int, batch_size: int) -> None:
        self.num_items, self.batch_size = num_items, batch_size
        self._epoch = self._skip = 0

    def begin(self, epoch: int, skip: int = 0) -> None:
        """Makes the next passes those of an epoch, from its batch number `skip` on; nothing is read to get there.

        Raises:
            ValueError: If the epoch has fewer batches.
        """
        if epoch < 0 or not 0 <= skip <= len(self):
            raise ValueError(f"Epoch {epoch} has {len(self)} batches, so a pass cannot begin at batch {skip} of it.")
        self._epoch, self._skip = epoch, skip

    def __iter__(self) -> Iterator[list[Key]]:
        # Now, not when the first batch is asked for, which may be after the next `begin`.
        return self._batches(self._epoch, self._skip)

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _batches(self, epoch: int, skip: int) -> Iterator[list[Key]]: ...

    def identity(self) -> dict[str, Any]:
        """What decides the batches besides seed and epoch: a resumed run must share it with the run it continues."""
        return {"images": self.num_items, "batch_size": self.batch_size}


class OrderedBatches(Batches):
    """For evaluation: every sample once, in ascending order; the last batch may be smaller."""

    def __init__(self, num_items: int, batch_size: int) -> None:
        super().__init__(num_items, batch_size)
        self.share(0, 1)

    def share(self, rank: int, world: int) -> None:
        """Makes the next passes yield the batches `rank`, `rank` + `world`, ... alone: over all processes each sample
        comes exactly once, and one process may have a batch fewer than another."""
        self._rank, self._world = rank, world

    def __len__(self) -> int:
        return len(range(self._rank, -(-self.num_items // self.batch_size), self._world))

    def _batches(self, epoch: int, skip: int) -> Iterator[list[Key]]:
        step = self._world * self.batch_size
        for start in range(self._rank * self.batch_size + skip * step, self.num_items, step):
            yield [(epoch, index) for index in range(start, min(start + self.batch_size, self.num_items))]


class NeighbouringBatches(OrderedBatches):
    """For evaluation from shards: every sample once, each loader worker of each process taking batches that lie
    together, so that none reads what another one reads. The order depends on the workers.

    Args:
        num_items (`int`): Length of the dataset.
        batch_size (`int`): Samples a batch.
        num_workers (`int`): Loader workers of a process.
    """

    def __init__(self, num_items: int, batch_size: int, num_workers: int) -> None:
        self.workers = max(1, num_workers)
        super().__init__(num_items, batch_size)

    def share(self, rank: int, world: int) -> None:
        total = -(-self.num_items // self.batch_size)
        self._numbers = range(total * rank // world, total * (rank + 1) // world)

    def __len__(self) -> int:
        return len(self._numbers)

    def _batches(self, epoch: int, skip: int) -> Iterator[list[Key]]:
        # A `DataLoader` has worker i modulo the workers load batch i.
        counts = [len(range(worker, len(self), self.workers)) for worker in range(self.workers)]
        for place in range(skip, len(self)):
            turn, worker = divmod(place, self.workers)
            start = self._numbers[sum(counts[:worker]) + turn] * self.batch_size
            yield [(epoch, index) for index in range(start, min(start + self.batch_size, self.num_items))]


class ShuffledBatches(Batches):
    """For training by index: process r of P takes the batches r, r + P, ... of a permutation of (seed, epoch).

    Alone, a process takes every sample once and its last batch may be smaller. Several begin again at the start of the
    permutation to fill the last batches, so that none waits for another.

    Args:
        num_items (`int`): Length of the dataset.
        batch_size (`int`): Samples a batch and process.
        seed (`int`): Non-negative seed of the order.
        rank (`int`, *optional*, defaults to 0): This process.
        world (`int`, *optional*, defaults to 1): Processes.
    """

    def __init__(self, num_items: int, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        super().__init__(num_items, batch_size)
        self.seed, self.rank, self.world = seed, rank, world

    def __len__(self) -> int:
        return -(-self.num_items // (self.batch_size * self.world))

    def _batches(self, epoch: int, skip: int) -> Iterator[list[Key]]:
        order = np.random.default_rng([self.seed, epoch]).permutation(self.num_items)
        if self.world > 1:
            order = np.resize(order, len(self) * self.batch_size * self.world)  # repeats it from its start
        for number in range(skip, len(self)):
            start = (number * self.world + self.rank) * self.batch_size
            yield [(epoch, int(index)) for index in order[start : start + self.batch_size]]

    def identity(self) -> dict[str, Any]:
        return super().identity() | {"processes": self.world}
