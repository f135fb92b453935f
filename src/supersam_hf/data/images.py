"""The one reader of images and masks: whatever file or bytes they come in, they are opened here and nowhere else.

What is opened is a regular file or bytes, of one of a few raster formats (never one that Pillow hands to another
program, as Ghostscript for EPS), and of no more pixels than Pillow takes for safe. All errors are `ValueError` or
`OSError`, say what is wrong, and name the file.
"""

import io
import os
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from ..models.supersam.rgb_supersam import safe_formats, to_8_bit, to_rgb


ImageSource = Path | str | bytes | Mapping[str, Any]

# Of a file that is read whole. Stacks, of which only one page is read at a time, may be larger.
MOST_BYTES = 2 * 1024**3
# The longer side of a picture over the shorter one: of a thinner one, resizing leaves nothing, or asks for memory
# without end.
MOST_ELONGATED = 500
EXIF_ORIENTATION = 0x0112
# Orientations 5 to 8 turn the picture by 90 degrees: width and height change places when it is decoded.
EXIF_QUARTER_TURNS = (5, 6, 7, 8)
# What Pillow's decoders raise for broken files.
BROKEN = (
    *(OSError, EOFError, SyntaxError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError),
    *(RuntimeError, struct.error),
)
# Where Pillow finds the orientation of a PNG.
PNG_EXIF = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}


@contextmanager
def open_image(source: ImageSource, name: str | None = None, most_bytes: int | None = MOST_BYTES) -> Iterator[Any]:
    """An opened image of which only the header is read yet (`PIL.Image.Image`); closed at the end.

    Args:
        source (`Path`, `str`, `bytes` or `dict`): A file, its contents, or a cell of `datasets`,
            `{"bytes": ..., "path": ...}`.
        name (`str`, *optional*): What errors call it; its path by default.
        most_bytes (`int`, *optional*): Largest file that is opened; None for any.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no regular file, too large, of another format or of too many pixels, naming it.
    """
    content, path = _content_and_path(source)
    name = named(source, name)
    if content is None:
        check_regular_file(path, name, most_bytes)
    try:
        with _decoding(name):
            image = Image.open(io.BytesIO(content) if content is not None else path, formats=safe_formats())
    except Image.UnidentifiedImageError as error:
        known = ", ".join(safe_formats())
        raise ValueError(f"{name} is no image of a format that is read ({known}), or its header is broken.") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name} is too large: {error}.") from error
    with image:
        check_pixels(image, name)
        yield image


def check_regular_file(path: str | Path, name: str, most_bytes: int | None = MOST_BYTES) -> None:
    """Raises `ValueError` for what is no regular file (a pipe would block, a device never end), or too large."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{name} is no regular file, but a folder, pipe, socket or device.")
    if most_bytes is not None and status.st_size > most_bytes:
        raise ValueError(f"{name} has {status.st_size:,} bytes; a file may have {most_bytes:,}.")


def check_pixels(image: Image.Image, name: str) -> None:
    """Raises `ValueError` for an image of more pixels than Pillow takes for safe: twice `PIL.Image.MAX_IMAGE_PIXELS`,
    which a user may raise. Of a page of a stack, for Pillow itself asks for the first one only."""
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and image.width * image.height > 2 * most:
        raise ValueError(f"{name} is too large: {image.width} x {image.height} px, of which at most {2 * most:,} fit.")


def read_picture(source: ImageSource, name: str | None = None) -> Image.Image:
    """A picture to look at: turned upright, 8-bit, of mode "L" or "RGB" (see [`to_8_bit`]).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read (see [`open_image`]), is a stack, or thinner than 1:500.
    """
    name = named(source, name)
    with open_image(source, name) as image:
        check_shape(image.size, name)
        single_page(image, name)
        image = upright(image, name)
    try:
        return to_8_bit(image)
    except ValueError as error:
        raise ValueError(f"{name} cannot be shown: {error}") from error


def read_rgb(source: ImageSource, name: str | None = None) -> Image.Image:
    """As [`read_picture`], of mode "RGB" always."""
    return read_picture(source, name).convert("RGB")


def check_shape(size: tuple[int, int], name: str) -> None:
    """Raises `ValueError` for a picture so thin that resizing it leaves nothing; `size` in px, in any order."""
    longer, shorter = max(size), min(size)
    if longer > MOST_ELONGATED * shorter:
        raise ValueError(
            f"{name} is {longer} px long and {shorter} px wide; pictures of more than {MOST_ELONGATED}:1 vanish when "
            "they are resized."
        )


def check_resizable(size: tuple[int, int], side: int) -> None:
    """Raises `ValueError` for a picture, or a part, of which nothing is left once its longer side is `side` px."""
    longer, shorter = max(size), min(size)
    if int(shorter * side / longer + 0.5) < 1:  # as SAM's image processor rounds
        raise ValueError(f"it is {size[0]} x {size[1]} px (width x height), of which {side} px leave nothing to see.")


def decoded_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) that an opened image has once it is decoded and turned upright; reads the header only.

    Of a PNG that is all that lies before its pixels: a whole one would be decoded to look for an orientation behind
    them, where it is allowed but rare.
    """
    width, height = image.size
    if image.format == "TIFF" or (image.format == "PNG" and not PNG_EXIF & image.info.keys()):
        return height, width  # Pillow gives a TIFF's size as it is once it is turned
    turned = image.getexif().get(EXIF_ORIENTATION, 1) in EXIF_QUARTER_TURNS
    return (width, height) if turned else (height, width)


def encoded_size(source: ImageSource, name: str | None = None) -> tuple[int, int]:
    """(height, width) of a picture once it is decoded and turned upright; from its header.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be opened (see [`open_image`]), or is thinner than 1:500.
    """
    with open_image(source, name) as image:
        check_shape(image.size, named(source, name))
        with _decoding(named(source, name)):
            return decoded_size(image)


def named(source: ImageSource, name: str | None = None) -> str:
    """What errors call an image: its name, or else its path."""
    return name or _content_and_path(source)[1] or "An image"


def _content_and_path(source: ImageSource) -> tuple[bytes | None, str]:
    """The bytes of an image, or else the path of its file; the path also where it is only a name."""
    if isinstance(source, Mapping):
        content, path = source.get("bytes"), source.get("path")
        if content is None and path is None:
            raise ValueError("An image has neither bytes nor a path.")
        return content, path or ""
    return (source, "") if isinstance(source, bytes) else (None, str(source))


def upright(image: Image.Image, name: str) -> Image.Image:
    """The decoded image, turned as its EXIF orientation says."""
    with _decoding(name):
        image.load()
        return ImageOps.exif_transpose(image)


def single_page(image: Image.Image, name: str) -> None:
    """Raises `ValueError` for a stack: a TIFF with a second page of the first one's size (smaller are previews)."""
    if not isinstance(image, TiffImageFile):
        return
    with _decoding(name):
        pages, first = image.n_frames, image.size
        if pages > 1:
            image.seek(1)
            second = image.size
            image.seek(0)
    if pages > 1 and second == first:
        raise ValueError(f"{name} is a stack of {pages} pages: save each as an image of its own.")


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Raise what decoders say of a broken file as `ValueError`; errors of the file system (numbered) stay."""
    try:
        yield
    except Image.UnidentifiedImageError:
        raise
    except BROKEN as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{name} cannot be decoded: {error}") from error


__all__ = [
    "decoded_size",
    "encoded_size",
    "open_image",
    "read_picture",
    "read_rgb",
    "to_8_bit",
    "to_rgb",
    "upright",
]
