"""Generated images of ten classes for a classifier: a striped shape of one of two colours, on noise."""

from typing import TYPE_CHECKING

import numpy as np

from .shapes import _inside, _png


if TYPE_CHECKING:
    from datasets import Dataset


KINDS = ("ellipse", "rectangle", "star", "crescent", "cross")
# RGB, varied by up to 30 a channel.
COLORS = {"red": (220, 120, 110), "blue": (110, 130, 220)}
CLASS_NAMES = [f"{color} {kind}" for kind in KINDS for color in COLORS]
MIN_IMAGE_SIZE = 16


def shape_classes(num_images: int, image_size: int = 32, seed: int = 0) -> "Dataset":
    """Columns `image` and `label`, every class as often. The same arguments give the same dataset, more images its
    continuation.

    Args:
        num_images (`int`): Number of images, at least 1.
        image_size (`int`, *optional*, defaults to 32): Side of the square images, px, at least 16.
        seed (`int`, *optional*, defaults to 0): Non-negative seed; take another one for the evaluation images.

    Raises:
        ValueError: If a number is out of its range.
    """
    from datasets import ClassLabel, Dataset, Features, Image

    lowest = {"num_images": (num_images, 1), "image_size": (image_size, MIN_IMAGE_SIZE), "seed": (seed, 0)}
    for name, (value, minimum) in lowest.items():
        if value < minimum:
            raise ValueError(f"`{name}` of the shapes must be at least {minimum}, got {value}.")
    labels = [index % len(CLASS_NAMES) for index in range(num_images)]
    drawn = (draw_shape(np.random.default_rng([seed, i]), image_size, label) for i, label in enumerate(labels))
    columns = {"image": [{"bytes": _png(pixels), "path": None} for pixels in drawn], "label": labels}
    return Dataset.from_dict(columns, features=Features({"image": Image(), "label": ClassLabel(names=CLASS_NAMES)}))


def draw_shape(rng: np.random.Generator, size: int, label: int) -> np.ndarray:
    """One image of a class: RGB pixels uint8 (size, size, 3)."""
    kind, color = KINDS[label // len(COLORS)], list(COLORS.values())[label % len(COLORS)]
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    grey = rng.uniform(30, 120) + 15 * rng.standard_normal((size, size, 1), dtype=np.float32)
    pixels = np.repeat(grey, 3, axis=2)
    radius = size * rng.uniform(0.32, 0.45)
    center_x, center_y = rng.uniform(0.42 * size, 0.58 * size, size=2)
    u, v = _tilted(rng, (x - center_x) / radius, (y - center_y) / radius)
    inside = _inside(rng, kind, u, v)
    pixels[inside] = _stripes(rng, color, x[inside] / radius, y[inside] / radius)
    pixels += 10 * rng.standard_normal(pixels.shape, dtype=np.float32)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _tilted(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates along a shape's own axes, turned by up to 22.5 degrees and squeezed, in half lengths."""
    angle = rng.uniform(-np.pi / 8, np.pi / 8)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * cos + y * sin, (y * cos - x * sin) / np.float32(rng.uniform(0.6, 1.0))


def _stripes(rng: np.random.Generator, color: tuple[int, int, int], u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Stripes of a light and a dark tone of a colour, float (n, 3), at the coordinates u, v (n,)."""
    angle, waves, phase = rng.uniform(0, np.pi), rng.uniform(1.2, 1.8), rng.uniform(0, 2 * np.pi)
    light = np.sin(2 * np.pi * waves * (u * np.cos(angle) + v * np.sin(angle)) + phase) > 0
    tone = color + rng.uniform(-30, 30, size=3)
    return tone * np.where(light, 1.0, rng.uniform(0.5, 0.8))[:, None]
