"""Samples by index, and what takes the place of a row that gives none."""

import logging
from abc import ABC, abstractmethod
from typing import Any

import torch

from .arguments import OnError
from .cache import SampleCache
from .rows import Rows
from .skipped import SkipLog
from .source import UnreadableError


logger = logging.getLogger(__name__)

# Rows in a sequence that give no sample before it is taken for a mistake.
MOST_PASSED_OVER = 1000


class Samples(torch.utils.data.Dataset, ABC):
    """Samples of rows. A key is an index (epoch 0), or (epoch, index); evaluation samples are those of epoch 0 always,
    and kept in memory as far as it goes.

    In training, a row that shows nothing gives way to the next one that shows something; so does a broken one with
    `on_error="skip"`. In evaluation each row has its sample, if need be one without a target.

    Args:
        rows ([`Rows`]): What the samples are made of.
        training (`bool`): Whether the samples are for training.
        on_error (`str`): "raise" or "skip": what is done about rows that cannot be read.
        cache_bytes (`int`): Bytes of evaluation samples to keep.
        skip_log ([`SkipLog`], *optional*): Where to list the rows that are skipped.
    """

    def __init__(
        self, rows: Rows, *, training: bool, on_error: OnError, cache_bytes: int, skip_log: SkipLog | None = None
    ) -> None:
        self.rows, self.training, self.on_error, self.skip_log = rows, training, on_error, skip_log
        self._cache = SampleCache(cache_bytes)

    @abstractmethod
    def sample(self, row: dict[str, Any], epoch: int, index: int) -> dict[str, torch.Tensor]:
        """The sample of a row, number `index` of an epoch."""

    @abstractmethod
    def blank(self, index: int) -> dict[str, torch.Tensor]:
        """An evaluation sample without a target, for a broken row."""

    def keeps(self, row: dict[str, Any]) -> bool:
        """Whether there is something to learn from a row."""
        return True

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, torch.Tensor]:
        """The sample of a key.

        Raises:
            UnreadableError: If its row cannot be read, naming it and its file.
            ValueError: If none of the rows after it gives a sample either.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if self.training:
            return self._next_sample(epoch, index)
        return self._cache.get(index, lambda: self._evaluation_sample(index))

    def _next_sample(self, epoch: int, index: int) -> dict[str, torch.Tensor]:
        """The sample of the first row from `index` on that gives one; after the last row comes the first."""
        tried = min(len(self), MOST_PASSED_OVER)
        for number in range(index, index + tried):
            sample = self._sample_at(epoch, number % len(self))
            if sample is not None:
                return sample
            logger.debug(f"Row {number % len(self)} gives no training sample; the next one takes its place.")
        raise ValueError(
            f"None of {tried} training images from number {index} on gives a sample: they show no object of "
            "`data.min_area`, or cannot be read. Check the data, or make `min_area` smaller."
        )

    def _evaluation_sample(self, index: int) -> dict[str, torch.Tensor]:
        sample = self._sample_at(0, index)
        return self.blank(index) if sample is None else sample

    def _sample_at(self, epoch: int, index: int) -> dict[str, torch.Tensor] | None:
        """The sample of a row; None for a broken one that is skipped, and one that shows nothing to learn from."""
        try:
            row = self.rows.read(index)
            return None if self.training and not self.keeps(row) else self.sample(row, epoch, index)
        except UnreadableError as error:
            if self.on_error == "raise":
                raise
            # A row comes once an epoch, and to several workers: it is told of once.
            if self.skip_log is None or self.skip_log.add(self.rows.name(index), str(error)):
                logger.warning(f"Left out: {error}")
            return None
