"""Sources turned into canonical datasets, and what of them cannot be read."""

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from .canonical import CONVERSION, canonical_features, check_mask_size
from .rows import TableRows
from .skipped import SkipLog, report_skipped
from .source import Source, UnreadableError
from .unreadable import decode_image


if TYPE_CHECKING:
    from datasets import Dataset, Features


# Says what is wrong with an example that is to be left out; empty for all others.
UNREADABLE_COLUMN = "unreadable"
# Of more rows than this a progress bar tells how far decoding is.
SHOWN_ROWS = 1000
NO_OBJECTS: dict[str, list] = {"segmentation": [], "bbox": [], "area": []}


def convert(source: Source, *, skip: bool, decode: bool = False) -> "Dataset":
    """The examples of a source as a dataset. It is written to the datasets cache once, and read from there until the
    files change.

    Args:
        source ([`Source`]): Canonical examples.
        skip (`bool`): Keep what cannot be read, with the reason in a column of its own (see [`without_unreadable`]).
            Images are decoded for that, so that none fails later; otherwise only their headers are read.
        decode (`bool`, *optional*, defaults to `False`): Decode images in any case.

    Raises:
        UnreadableError: If an example cannot be read and `skip` is not set.
        FileNotFoundError: If a file is gone.
        ValueError: If the dataset cannot be made of them for another reason, naming it.
    """
    from datasets import Dataset
    from datasets.exceptions import DatasetGenerationError

    digest = hashlib.sha256(str(CONVERSION).encode())
    for shard in range(len(source.shards)):
        digest.update(source.stamp(shard).encode("utf-8", "backslashreplace"))
    arguments = {"source": source, "stamp": digest.hexdigest(), "skip": skip, "decode": decode}
    try:
        return Dataset.from_generator(examples, features=checked_features(skip), gen_kwargs=arguments)
    except DatasetGenerationError as error:
        # What is wrong with the files is said by the cause; the wrapper only says that something is.
        cause = error.__cause__
        if isinstance(cause, (ValueError, OSError)):
            raise cause from None
        first = source.shards[0].name if source.shards else "the source"
        raise ValueError(f"{first} cannot be converted: {type(cause).__name__}: {cause}") from cause


def examples(source: Source, stamp: str, skip: bool, decode: bool = False) -> Iterator[dict[str, Any]]:
    """The examples of a source in order; `stamp` is part of the key in the cache."""
    for shard, rows in enumerate(source.shards):
        for row in range(rows.rows):
            if skip:
                yield checked_example(source, shard, row)
                continue
            example = source.read(shard, row)
            if decode:
                check_decoded(example, source.name(shard, row))
            yield example


def checked_example(source: Source, shard: int, row: int) -> dict[str, Any]:
    """An example whose image was decoded, with what is wrong with it as one more column."""
    name = source.name(shard, row)
    try:
        example = source.read(shard, row)
        check_decoded(example, name)
        return {**example, UNREADABLE_COLUMN: ""}
    except UnreadableError as error:
        return {"image": None, "image_id": name, "objects": NO_OBJECTS, UNREADABLE_COLUMN: str(error)}


def check_decoded(example: dict[str, Any], name: str) -> None:
    """Decodes the image of an example; `UnreadableError` if that fails, or its masks are of another size."""
    image = decode_image(example["image"], name)
    for rle in example["objects"]["segmentation"]:
        try:
            check_mask_size(rle["size"], (image.height, image.width), name)
        except ValueError as error:
            raise UnreadableError(str(error)) from error


def decoded(dataset: "Dataset", part: str, *, skip: bool, skip_log: SkipLog | None = None) -> "Dataset":
    """The rows of a dataset with a column `image`, each of which was decoded.

    Args:
        dataset (`datasets.Dataset`): Rows.
        part (`str`): What messages call them.
        skip (`bool`): Leave out those that cannot be, counted and named.
        skip_log ([`SkipLog`], *optional*): Where to list them.

    Raises:
        UnreadableError: If one cannot be decoded and `skip` is not set.
        ValueError: If none can.
    """
    rows, broken = TableRows(dataset, training=True), {}
    for index in tqdm(range(len(rows)), f"Decoding {part}", unit="image", disable=len(rows) < SHOWN_ROWS):
        try:
            rows.read(index)
        except UnreadableError as error:
            if not skip:
                raise
            broken[index] = str(error)
    report_skipped({f"{part}, row {index}": why for index, why in broken.items()}, len(dataset), part, skip_log)
    if len(broken) == len(dataset):
        raise ValueError(f"None of the {len(dataset)} images can be read; the first: {broken[0]}")
    return dataset.select([index for index in range(len(dataset)) if index not in broken]) if broken else dataset


def checked_features(skip: bool) -> "Features":
    """Columns of a canonical dataset, with what is wrong with an example where that is asked for."""
    from datasets import Value

    features = canonical_features()
    if skip:
        features[UNREADABLE_COLUMN] = Value("string")
    return features


def without_unreadable(dataset: "Dataset") -> tuple["Dataset", dict[str, str]]:
    """The examples that can be read, and why the others cannot, by name."""
    reasons = dataset[UNREADABLE_COLUMN][:]
    kept = [index for index, reason in enumerate(reasons) if not reason]
    names = dataset.select([index for index, reason in enumerate(reasons) if reason])["image_id"][:]
    rest = dataset if len(kept) == len(dataset) else dataset.select(kept)
    return rest.remove_columns(UNREADABLE_COLUMN), dict(zip(names, filter(None, reasons)))
