"""Batches of samples."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, cast

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from .batches import Batches, NeighbouringBatches, OrderedBatches, ShuffledBatches
from .plan import Plan, StreamBatches
from .streaming import ImageStream, PromptStream


class SampleDataset(Protocol):
    """Samples by index, or by (epoch, index) where the batches give it: `PromptDataset`, `ImageDataset`."""

    training: bool

    def __len__(self) -> int: ...

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, torch.Tensor]: ...


def collate(samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Stacks samples into a batch with one more leading dimension."""
    return default_collate(samples)


def build_loader(
    dataset: SampleDataset, batch_size: int, num_workers: int = 0, seed: int = 0, rank: int = 0, world: int = 1
) -> DataLoader:
    """Batches of samples: in training those of one process among several, shuffled anew each epoch; in evaluation all
    of them in order (see [`shared`]).

    Call `loader.batch_sampler.begin(epoch, skip)` before a pass of training; `len(loader)` is the batches of an epoch.
    Accelerate has nothing to add to it: do not prepare it.

    Args:
        dataset (`SampleDataset`): What the samples come from.
        batch_size (`int`): Samples a batch and process.
        num_workers (`int`, *optional*, defaults to 0): Worker processes.
        seed (`int`, *optional*, defaults to 0): Non-negative seed of the order in training.
        rank (`int`, *optional*, defaults to 0): This process.
        world (`int`, *optional*, defaults to 1): Processes that train together.
    """
    return DataLoader(
        cast(Dataset, dataset),
        batch_sampler=_batches(dataset, batch_size, num_workers, seed, rank, world),
        num_workers=num_workers,
        collate_fn=collate,
        persistent_workers=num_workers > 0,
        worker_init_fn=outlive_signals,
    )


def outlive_signals(worker: int) -> None:
    """Lets a loader worker live through SIGTERM and SIGINT, which the end of a job or Ctrl-C send to all processes.

    The one that it works for needs its batches to finish a step; SIGTERM from that one ends it still. Who sent a
    signal can be told on Linux alone: elsewhere any SIGTERM ends it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if sys.platform == "linux":
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)


def _batches(dataset: SampleDataset, batch_size: int, num_workers: int, seed: int, rank: int, world: int) -> Batches:
    if isinstance(dataset, (PromptStream, ImageStream)):
        if not dataset.training:
            return NeighbouringBatches(len(dataset), batch_size, num_workers)
        source, buffer = dataset.source, dataset.args.shuffle_buffer
        plan = Plan([shard.rows for shard in source.shards], world * max(1, num_workers), batch_size, buffer, seed)
        return StreamBatches(plan, rank, world, source.fingerprint())
    if not dataset.training:
        return OrderedBatches(len(dataset), batch_size)
    return ShuffledBatches(len(dataset), batch_size, seed, rank, world)


@contextmanager
def shared(loader: DataLoader, rank: int, world: int) -> Iterator[DataLoader]:
    """A loader of evaluation samples that, within the block, gives the share of one process among `world`: each sample
    comes exactly once over all of them. One process alone may bring any loader.
    """
    if world == 1:
        yield loader
        return
    batches: Any = loader.batch_sampler
    batches.share(rank, world)
    try:
        yield loader
    finally:
        batches.share(0, 1)
