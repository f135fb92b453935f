"""Datasets that are read as they are needed: what is trained on is neither downloaded nor converted beforehand.

A stream has no rows by index, so the sampler brings the rows along: it reads them in the order of the epoch, as stored
(images still encoded), and each becomes a sample where a map-style dataset would make it, in the loader's workers. So
batches, their split over processes, and skipping to where a checkpoint stood are those of any other loader.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from .arguments import DataArguments
from .classification_arguments import ImageClassificationArguments
from .dataset import PromptSamples
from .image_dataset import ImageSamples
from .splits import hub_splits, is_saved, resolve_split
from .unreadable import decode_image


if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset
    from transformers import BaseImageProcessor
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil


# Rows that are turned into one table: Arrow's tables of bytes hold 2 GiB.
TABLE_ROWS = 100


class StreamItem(NamedTuple):
    """A row on its way to a sample: `position` counts the rows of an epoch in the order in which they are taken."""

    epoch: int
    position: int
    row: dict[str, Any]

    def image(self) -> Image.Image:
        """The image of the row; `ValueError` naming it where it cannot be read."""
        return decode_image(self.row["image"], f"Image {self.position} of epoch {self.epoch} of the stream")


class PromptStream(PromptSamples, torch.utils.data.Dataset):
    """Training samples of a stream of canonical examples, made of what a [`StreamSampler`] yields.

    Args:
        rows (`datasets.IterableDataset`): From [`stream_source`]. Rows without an object of `args.min_area` are passed
            over.
        image_processor (`SamImageProcessorPil`): Image processor of the model.
        args (`DataArguments`): Prompts, crops, limits, buffer and seed.
        held_out (`int`, *optional*, defaults to 0): Rows at the beginning that are not trained on.
    """

    args: DataArguments

    def __init__(
        self,
        rows: "IterableDataset",
        image_processor: "SamImageProcessorPil",
        args: DataArguments,
        *,
        held_out: int = 0,
    ) -> None:
        super().__init__(image_processor, args, training=True)
        self.rows, self.held_out = rows, held_out

    def keeps(self, row: dict[str, Any]) -> bool:
        """Whether a row becomes a sample."""
        return self.shows(row["objects"])

    def __getitem__(self, item: StreamItem) -> dict[str, torch.Tensor]:
        return self.sample({**item.row, "image": item.image()}, item.epoch, item.position)


class ImageStream(ImageSamples, torch.utils.data.Dataset):
    """Training samples of a stream of labelled images, made of what a [`StreamSampler`] yields.

    Args:
        rows (`datasets.IterableDataset`): From [`stream_classification`].
        image_processor (`BaseImageProcessor`): Image processor of the model.
        args (`ImageClassificationArguments`): Augmentation, buffer and seed.
        held_out (`int`, *optional*, defaults to 0): Rows at the beginning that are not trained on.
    """

    args: ImageClassificationArguments

    def __init__(
        self,
        rows: "IterableDataset",
        image_processor: "BaseImageProcessor",
        args: ImageClassificationArguments,
        *,
        held_out: int = 0,
    ) -> None:
        super().__init__(image_processor, args, rows.features["label"].names, training=True)
        self.rows, self.held_out = rows, held_out

    def keeps(self, row: dict[str, Any]) -> bool:
        """Whether a row becomes a sample; `ValueError` where it has no label."""
        label = row["label"]
        if label is None or not 0 <= label < len(self.label_names):
            raise ValueError(
                f"A label of the stream is {label}; labels are 0 to {len(self.label_names) - 1} (-1 or none marks "
                "hidden labels, as in a test set); take a labelled split as `data.train_split`."
            )
        return True

    def __getitem__(self, item: StreamItem) -> dict[str, torch.Tensor]:
        return self.sample(item.image(), item.row["label"], item.epoch, item.position)


class StreamSampler(torch.utils.data.Sampler[StreamItem]):
    """The rows of a stream in the order of an epoch: drawn from a buffer of `args.shuffle_buffer` rows that is filled
    as they come. The order depends on (seed, epoch) and nothing else.

    The files of the dataset stay in their order, so that those at its beginning can be held out, and the buffer alone
    shuffles: rows that lie further apart than it is long keep their order, so store them in a random one
    (`supersam-hf prepare` does, where they have labels). It has no length: the end of an epoch is known when it is
    reached.

    Args:
        stream ([`PromptStream`] or [`ImageStream`]): Whose rows.
    """

    def __init__(self, stream: PromptStream | ImageStream) -> None:
        self.stream = stream
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[StreamItem]:
        position = -1
        for position, row in enumerate(self._shuffled()):
            yield StreamItem(self.epoch, position, row)
        if position < 0:
            raise ValueError(
                "The stream has no image to train on: `holdout_images` are all that there are, or none shows an "
                "object of `data.min_area`."
            )

    def _shuffled(self) -> Iterator[dict[str, Any]]:
        """Rows in the order of the epoch. Not by `shuffle` of datasets, whose buffer holds no more than 2 GiB."""
        rng, stream = np.random.default_rng([self.stream.args.seed, self.epoch]), self.stream
        rows = stream.rows.skip(stream.held_out) if stream.held_out else stream.rows
        buffer: list[dict[str, Any]] = []
        for row in filter(stream.keeps, rows):
            if len(buffer) < stream.args.shuffle_buffer:
                buffer.append(row)
                continue
            drawn = int(rng.integers(len(buffer)))
            yield buffer[drawn]
            buffer[drawn] = row
        for index in rng.permutation(len(buffer)):
            yield buffer[index]


def open_stream(source: str, split: str, config_name: str | None = None) -> "IterableDataset":
    """A split of parquet files or of a dataset on the Hub, columns as they are, nothing read yet.

    Raises:
        ValueError: If nothing is there, it has no such split (listing those there are), or it cannot be streamed.
    """
    import datasets

    path = Path(source)
    if path.is_file() and path.suffix == ".parquet":
        return datasets.load_dataset("parquet", data_files={split: str(path)}, split=split, streaming=True)
    if path.exists() and (is_saved(path) or path.is_file() or not any(path.rglob("*.parquet"))):
        raise ValueError(
            f"`data.source` {source!r} cannot be streamed: streaming reads parquet files or a dataset on the Hub. "
            "Turn it into one by `supersam-hf prepare`, or set `data.streaming: false`."
        )
    names = datasets.get_dataset_split_names(str(path)) if path.is_dir() else hub_splits(source, config_name)
    stream = datasets.load_dataset(source, config_name, split=resolve_split(split, names, source), streaming=True)
    if stream.features is None:
        raise ValueError(f"`data.source` {source!r} does not say what its columns are; turn it into parquet files.")
    return stream


def in_memory(rows: "IterableDataset") -> "Dataset":
    """The rows of a stream as a map-style dataset, images encoded as they were stored.

    Raises:
        ValueError: If there are none.
    """
    import datasets

    encoded = rows.cast_column("image", datasets.Image(decode=False))
    iterator, tables = iter(encoded), []
    while read := list(islice(iterator, TABLE_ROWS)):
        tables.append(datasets.Dataset.from_list(read, features=encoded.features))
    if not tables:
        raise ValueError("The stream has no rows to take.")
    return datasets.concatenate_datasets(tables).cast_column("image", datasets.Image())
