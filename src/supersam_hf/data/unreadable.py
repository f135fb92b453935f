"""Examples that cannot be read: an error that says which, and what is wrong with it."""

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from .images import read_picture
from .source import UnreadableError


if TYPE_CHECKING:
    from datasets import Dataset


# What Pillow says of broken files, and what annotations of another form than expected end in.
UNREADABLE = (
    *(OSError, EOFError, SyntaxError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError),
    *(RecursionError, struct.error, Image.DecompressionBombError),
)
ADVICE = "Replace it, leave it out, or set `data.on_error: skip`."


@contextmanager
def broken_example(name: str, shard: Path | None = None) -> Iterator[None]:
    """Errors of reading an example as `UnreadableError`, naming it, unless the whole shard (if given) is gone.

    Args:
        name (`str`): What to call the example.
        shard (`Path`, *optional*): File or folder that it lies in.
    """
    try:
        yield
    except UNREADABLE as error:
        if shard is not None and not shard.exists():
            raise FileNotFoundError(f"{shard} is gone, or cannot be reached any more.") from error
        if isinstance(error, UnreadableError):
            raise
        raise UnreadableError(f"{name} cannot be read: {reason(error)} {ADVICE}") from error


def reason(error: BaseException) -> str:
    """What an error says, as a sentence, without the addresses of objects in memory."""
    said = f"it has no {error}" if isinstance(error, KeyError) else str(error)
    said = re.sub(r" ?<[\w.]+ object at 0x[0-9a-f]+>", "", said) or type(error).__name__
    return said.rstrip(". ") + "."


def read_row(dataset: "Dataset", index: int, *, training: bool) -> dict[str, Any]:
    """A row of a dataset with a column `image`, which [`encoded_images`] left encoded; here it is decoded.

    Raises:
        UnreadableError: If the image cannot be read, or there is none, naming its row and file.
    """
    part = "training" if training else "evaluation"
    row = dataset[index]
    if row["image"] is None:
        raise UnreadableError(f"Row {index} of the {part} data has no image. {ADVICE}")
    name = f"The image of row {index}{_shown(row['image'])} of the {part} data"
    with broken_example(name):
        return {**row, "image": read_picture(row["image"], "it")}


def encoded_images(dataset: "Dataset") -> "Dataset":
    """A dataset whose column `image` is left as it is stored, for [`read_row`] to decode."""
    from datasets import Image as ImageFeature

    return dataset.cast_column("image", ImageFeature(decode=False))


def decode_image(cell: dict[str, Any], name: str) -> Image.Image:
    """The image of an encoded cell: 8-bit grey or RGB, turned upright (see `read_picture`).

    Args:
        cell (`dict`): `bytes` and `path`.
        name (`str`): What to call it.

    Raises:
        UnreadableError: If it cannot be read, naming it and its file.
    """
    with broken_example(name if cell["path"] == name else f"{name}{_shown(cell)}"):
        return read_picture(cell, "it")


def _shown(cell: dict[str, Any] | None) -> str:
    """The file of an encoded image in parentheses, where it is known."""
    return f" ({cell['path']})" if cell is not None and cell["path"] else ""
