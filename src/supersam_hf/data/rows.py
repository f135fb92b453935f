"""Rows by index, images decoded: of a table, or of the shards of a source."""

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .source import Source
from .unreadable import decode_image, encoded_images, read_row


if TYPE_CHECKING:
    from datasets import Dataset


class Rows(Protocol):
    """What samples are made of."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What messages call a row."""

    def read(self, index: int) -> dict[str, Any]:
        """A row, its `image` decoded (8-bit grey or RGB, upright); `UnreadableError` naming it where it is broken."""


class TableRows:
    """The rows of a dataset.

    Args:
        dataset (`datasets.Dataset`): With a column `image`.
        training (`bool`): Whether messages call it training data or evaluation data.
    """

    def __init__(self, dataset: "Dataset", training: bool) -> None:
        self.dataset, self.training = encoded_images(dataset), training

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, index: int) -> str:
        return f"row {index} of the {'training' if self.training else 'evaluation'} data"

    def read(self, index: int) -> dict[str, Any]:
        return read_row(self.dataset, index, training=self.training)


class SourceRows:
    """The rows of a source, one shard after the other, read as they are asked for."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._ends = np.cumsum([shard.rows for shard in source.shards], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.source)

    def name(self, index: int) -> str:
        return self.source.name(*self._place(index))

    def read(self, index: int) -> dict[str, Any]:
        place = self._place(index)
        example = self.source.read(*place)
        return {**example, "image": decode_image(example["image"], self.source.name(*place))}

    def _place(self, index: int) -> tuple[int, int]:
        """Shard and row of an index."""
        shard = int(np.searchsorted(self._ends, index, side="right"))
        return shard, index - int(self._ends[shard]) + self.source.shards[shard].rows
