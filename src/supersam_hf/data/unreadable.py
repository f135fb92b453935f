"""Images that cannot be read: an error that says which."""

from typing import TYPE_CHECKING, Any

from PIL import Image


if TYPE_CHECKING:
    from datasets import Dataset


# What Pillow says of broken files: OSError (UnidentifiedImageError is one), SyntaxError, or ValueError.
UNREADABLE = (OSError, SyntaxError, ValueError)


def read_row(dataset: "Dataset", index: int, *, training: bool) -> dict[str, Any]:
    """A row of a dataset with a column `image`.

    Raises:
        ValueError: If the image cannot be read, naming its row and file.
    """
    from datasets import Image as ImageFeature

    try:
        return dataset[index]
    except UNREADABLE as error:
        file = dataset.cast_column("image", ImageFeature(decode=False))[index]["image"]["path"]
        part = "training" if training else "evaluation"
        raise _named(f"The image of row {index}", f" of the {part} data", file, error) from error


def decode_image(cell: dict[str, Any], name: str) -> Image.Image:
    """The image of an encoded cell, as a map-style dataset gives it.

    Args:
        cell (`dict`): `bytes` and `path`.
        name (`str`): What to call it.

    Raises:
        ValueError: If it cannot be read, naming it and its file.
    """
    from datasets import Image as ImageFeature

    try:
        return ImageFeature().decode_example(cell)
    except UNREADABLE as error:
        raise _named(name, "", cell["path"], error) from error


def _named(name: str, of: str, file: str | None, error: BaseException) -> ValueError:
    shown = f" ({file})" if file else ""
    return ValueError(f"{name}{shown}{of} cannot be read: {error}. Replace it or leave its row out.")
