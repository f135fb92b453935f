"""The order of images in an epoch, and batches of them."""

from collections.abc import Iterator
from typing import Protocol, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from .streaming import ImageStream, PromptStream, StreamSampler


class SampleDataset(Protocol):
    """Samples by index, or by (epoch, index) where the sampler gives it: `PromptDataset`, `ImageDataset`."""

    training: bool

    def __len__(self) -> int: ...

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, torch.Tensor]: ...


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index) once an index. The order depends on (seed, epoch) and nothing else, so a resumed run sees
    what an uninterrupted one would have seen.

    Args:
        num_items (`int`): Length of the dataset.
        seed (`int`): Non-negative seed of the order.
        shuffle (`bool`, *optional*, defaults to `True`): A new permutation each epoch, or ascending order.
    """

    def __init__(self, num_items: int, seed: int, shuffle: bool = True) -> None:
        self.num_items = num_items
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_items

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.arange(self.num_items)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.num_items)
        return iter([(self.epoch, int(index)) for index in order])


def collate(samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Stacks samples into a batch with one more leading dimension."""
    return default_collate(samples)


def build_loader(
    dataset: SampleDataset | PromptStream | ImageStream, batch_size: int, num_workers: int = 0, seed: int = 0
) -> DataLoader:
    """Batches of samples: shuffled anew each epoch in training, in order in evaluation; of a stream as they come from
    its buffer (see `StreamSampler`), by the seed of its arguments.

    Call `loader.sampler.set_epoch(epoch)` before an epoch. A loader that Accelerate has prepared sets the sampler's
    epoch from its own `iteration` each time it is iterated: call its `set_epoch`. The last batch may be smaller.
    """
    sampler: Sampler
    if isinstance(dataset, (PromptStream, ImageStream)):
        sampler = StreamSampler(dataset)
    else:
        sampler = EpochSampler(len(dataset), seed, shuffle=dataset.training)
    return DataLoader(
        cast(Dataset, dataset),
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate,
        persistent_workers=num_workers > 0,
    )
