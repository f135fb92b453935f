"""Images and masks as tools leave them: what they hold is read as it was meant, or refused by name."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from supersam_hf.data.images import encoded_size, read_rgb


HEIGHT, WIDTH = 24, 32


def scene() -> np.ndarray:
    """Grey uint8 (height, width) of many values, of which no turn equals another."""
    return (np.arange(HEIGHT)[:, None] * 3 + np.arange(WIDTH) * 5).astype(np.uint8)


def square() -> np.ndarray:
    """Bool (height, width) of one object."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[4:16, 6:20] = True
    return mask


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=kind, **options)
    return stream.getvalue()


def grey(values: np.ndarray) -> bytes:
    return encoded(Image.fromarray(values))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM"])
def test_a_picture_is_read_in_each_format(kind: str, tmp_path: Path) -> None:
    exact = kind not in ("JPEG", "WEBP")
    content = encoded(Image.fromarray(scene()), kind)
    (tmp_path / "a").write_bytes(content)
    for source in (
        content,
        tmp_path / "a",
        {"bytes": content, "path": None},
        {"bytes": None, "path": str(tmp_path / "a")},
    ):
        picture = np.asarray(read_rgb(source)).astype(int)
        assert np.abs(picture - scene()[..., None]).max() <= (0 if exact else 12)
        assert encoded_size(source) == (HEIGHT, WIDTH)
