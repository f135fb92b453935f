"""The order in which the rows of many shards are trained on: worked out from (seed, epoch), never remembered."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from .batches import Batches, Key


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """Rows dealt to consumers, which are the loader workers of all processes.

    The shards of an epoch come in a random order. Their rows, one shard after the other, are cut into as many equal
    stretches as there are consumers, and each consumer shuffles its own within blocks of `buffer` rows: so it reads a
    few shards, and of those one block at a time. All consumers yield equally many full batches; one that runs out of
    rows begins again at its first.

    Args:
        counts (`Sequence[int]`): Rows of each shard, together at least 1. A row's index counts them in this order.
        consumers (`int`): Processes times the workers of each.
        batch_size (`int`): Rows a batch.
        buffer (`int`): Rows that are shuffled among themselves.
        seed (`int`): Non-negative seed of the order.
    """

    counts: Sequence[int]
    consumers: int
    batch_size: int
    buffer: int
    seed: int

    @property
    def num_rows(self) -> int:
        return int(np.sum(self.counts))

    @property
    def num_batches(self) -> int:
        """Batches of a consumer in an epoch."""
        longest = -(-self.num_rows // self.consumers)
        return -(-longest // self.batch_size)

    @property
    def repeats(self) -> int:
        """Rows of an epoch beyond each row once."""
        return self.consumers * self.num_batches * self.batch_size - self.num_rows

    def indices(self, epoch: int, consumer: int, first: int = 0) -> Iterator[int]:
        """A consumer's row indices without end, from the one on that it takes as number `first` of the epoch."""
        counts = np.asarray(self.counts, dtype=np.int64)
        order = np.random.default_rng([self.seed, epoch]).permutation(len(counts))
        ends = np.cumsum(counts[order])
        # From a place in the order of the epoch to an index.
        shift = (np.cumsum(counts) - counts)[order] - (ends - counts[order])
        start, length = self._stretch(consumer)
        taken = first % length
        while True:
            places = start + self._block(epoch, consumer, taken, length)
            yield from (places + shift[np.searchsorted(ends, places, side="right")]).tolist()
            taken = (taken + len(places)) % length

    def _stretch(self, consumer: int) -> tuple[int, int]:
        """Where a consumer's rows begin in the order of the epoch, and how many they are: 1 at least."""
        start, stop = (self.num_rows * number // self.consumers for number in (consumer, consumer + 1))
        return start, max(1, stop - start)

    def _block(self, epoch: int, consumer: int, taken: int, length: int) -> np.ndarray:
        """The shuffled block of a stretch that holds its row number `taken`, from there to the block's end."""
        block, offset = divmod(taken, self.buffer)
        size = min(self.buffer, length - block * self.buffer)
        seed = np.random.SeedSequence([self.seed, epoch], spawn_key=(consumer, block))
        return block * self.buffer + np.random.default_rng(seed).permutation(size)[offset:]


class StreamBatches(Batches):
    """For training from shards: batch i of a process comes from the consumer of its worker i modulo the workers, which
    is the worker that a `DataLoader` has load it.

    Args:
        plan ([`Plan`]): For all consumers of all processes.
        rank (`int`): This process.
        world (`int`): Processes.
        contents (`str`): Tells the shards from others (see `Source.fingerprint`).
    """

    def __init__(self, plan: Plan, rank: int, world: int, contents: str) -> None:
        super().__init__(plan.num_rows, plan.batch_size)
        self.plan, self.rank, self.world, self.contents = plan, rank, world, contents
        self.workers = plan.consumers // world
        if rank == 0:
            logger.info(
                f"An epoch of {plan.num_rows} rows is {plan.num_batches} batches of {plan.batch_size} for each of "
                f"{plan.consumers} readers; {plan.repeats} rows come a second time in it."
            )

    def __len__(self) -> int:
        return self.workers * self.plan.num_batches

    def _batches(self, epoch: int, skip: int) -> Iterator[list[Key]]:
        first = self.rank * self.workers
        # Of the batches before `skip`, worker w has taken those whose number is w modulo the workers.
        taken = [len(range(worker, skip, self.workers)) * self.batch_size for worker in range(self.workers)]
        rows = [self.plan.indices(epoch, first + worker, count) for worker, count in enumerate(taken)]
        for number in range(skip, len(self)):
            yield [(epoch, index) for index in islice(rows[number % self.workers], self.batch_size)]

    def identity(self) -> dict[str, Any]:
        workers = {"processes": self.world, "num_workers": self.workers}
        return super().identity() | workers | {"shards": self.contents}
