"""Pictures of any kind as 8-bit RGB, in training as in use."""

from functools import cache

import numpy as np
from PIL import Image


# Raster formats that Pillow decodes itself: no EPS, PDF or WMF, which other programs would render.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "DIB", "GIF", "WEBP", "PPM", "JPEG2000", "AVIF")


@cache
def safe_formats() -> list[str]:
    """The formats of [`FORMATS`] that this Pillow has."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to 8-bit RGB (see [`to_8_bit`])."""
    return to_8_bit(image).convert("RGB")


def to_8_bit(image: Image.Image) -> Image.Image:
    """Convert an image to 8-bit grey ("L") or RGB.

    Grey of more than 8 bits (modes I;16, I, F) is stretched from its own darkest to its brightest value; NaN and
    -infinity take the darkest, +infinity the brightest. An alpha channel is dropped, as
    image processors do. (Of colours of 16 bits, Pillow itself opens the upper 8 only.)

    Raises:
        ValueError: If no value is finite.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_stretched(np.asarray(image, dtype=np.float32)))
    return image.convert("L" if image.mode in ("1", "L", "LA", "La") else "RGB")


def _stretched(values: np.ndarray) -> np.ndarray:
    """Stretch float32 (height, width) to uint8: the smallest finite value to 0, the largest to 255."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise ValueError("none of its pixels is a finite number.")
    low, high = float(finite.min()), float(finite.max())
    if finite.size < values.size:
        values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    return np.round((values - low) * (255 / max(high - low, 1e-6))).astype(np.uint8)


__all__ = ["safe_formats", "to_8_bit", "to_rgb"]
