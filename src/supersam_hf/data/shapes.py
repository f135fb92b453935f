"""Generated scenes with exact masks: coloured, textured shapes that hide one another, on grey noise."""

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from .canonical import canonical_features, instances_to_objects


if TYPE_CHECKING:
    from datasets import Dataset


KINDS = ("ellipse", "rectangle", "polygon", "star", "crescent", "cross")
TEXTURES = ("stripes", "checks", "gradient", "noise")
# A shape is annotated if this much of it is to be seen, as a share of itself and of the scene (28 of 96 x 96 px).
MIN_VISIBLE_SHARE = 0.35
MIN_SCENE_SHARE = 0.003
MIN_IMAGE_SIZE = 32


def shapes(num_images: int, image_size: int = 96, seed: int = 0, max_objects: int = 5) -> "Dataset":
    """A canonical dataset of generated scenes. The same arguments give the same dataset, more images its continuation.

    Args:
        num_images (`int`): Number of scenes, at least 1.
        image_size (`int`, *optional*, defaults to 96): Side of the square scenes, px, at least 32.
        seed (`int`, *optional*, defaults to 0): Non-negative seed; take another one for the validation scenes.
        max_objects (`int`, *optional*, defaults to 5): Shapes drawn a scene, from 1 to this many. Only the visible
            part of a shape is its mask; shapes that others hide almost wholly are drawn but not annotated.

    Raises:
        ValueError: If a number is out of its range.
    """
    from datasets import Dataset

    lowest = {"num_images": (num_images, 1), "image_size": (image_size, MIN_IMAGE_SIZE)}
    lowest |= {"seed": (seed, 0), "max_objects": (max_objects, 1)}
    for name, (value, minimum) in lowest.items():
        if value < minimum:
            raise ValueError(f"`{name}` of the shapes must be at least {minimum}, got {value}.")
    columns: dict[str, list] = {"image": [], "image_id": [], "objects": []}
    for index in range(num_images):
        pixels, ids = draw_scene(np.random.default_rng([seed, index]), image_size, max_objects)
        columns["image"].append({"bytes": _png(pixels), "path": None})
        columns["image_id"].append(f"shapes-{seed}-{index}")
        columns["objects"].append(instances_to_objects(ids))
    return Dataset.from_dict(columns, features=canonical_features())


def draw_scene(rng: np.random.Generator, size: int, max_objects: int) -> tuple[np.ndarray, np.ndarray]:
    """One scene: RGB pixels uint8 (size, size, 3) and ids of the visible parts (size, size), 0 = background."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    grey = rng.uniform(60, 190) + 25 * rng.standard_normal((size, size, 1), dtype=np.float32)
    pixels = np.repeat(grey, 3, axis=2)
    ids = np.zeros((size, size), dtype=np.int64)
    full_area = {}
    for number in range(1, int(rng.integers(1, max_objects, endpoint=True)) + 1):
        # Size along the long axis 10 to 28 % of the side: a scene of five shapes is neither empty nor full.
        radius = size * rng.uniform(0.10, 0.28)
        center_x, center_y = rng.uniform(0.15 * size, 0.85 * size, size=2)
        kind = KINDS[rng.integers(len(KINDS))]
        u, v = _own_axes(rng, kind, (x - center_x) / radius, (y - center_y) / radius)
        inside = _inside(rng, kind, u, v)
        pixels[inside] = _texture(rng, u[inside], v[inside], strength=110.0)
        ids[inside] = number
        full_area[number] = int(inside.sum())
    for number, area in full_area.items():
        visible = ids == number
        if visible.sum() < max(MIN_SCENE_SHARE * size * size, MIN_VISIBLE_SHARE * area):
            ids[visible] = 0
    pixels += 6 * rng.standard_normal(pixels.shape, dtype=np.float32)
    return np.clip(pixels, 0, 255).astype(np.uint8), ids


def _own_axes(rng: np.random.Generator, kind: str, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates along a shape's own turned and squeezed axes, in units of its half length."""
    angle = rng.uniform(0, 2 * np.pi)
    # The convex ones are long and thin, so that a box around them is mostly not they.
    aspect = rng.uniform(0.3, 0.6) if kind in ("ellipse", "rectangle") else rng.uniform(0.7, 1.0)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * cos + y * sin, (y * cos - x * sin) / np.float32(aspect)


def _inside(rng: np.random.Generator, kind: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Boolean mask of a shape of half length 1 around the origin of its own axes."""
    if kind == "ellipse":
        return u * u + v * v <= 1
    if kind == "rectangle":
        return np.maximum(np.abs(u), np.abs(v)) <= 0.95
    if kind == "crescent":
        return (u * u + v * v <= 1) & ((u - rng.uniform(0.4, 0.7)) ** 2 + v * v > 0.7)
    if kind == "cross":
        arm = rng.uniform(0.2, 0.35)
        return (np.minimum(np.abs(u), np.abs(v)) <= arm) & (np.maximum(np.abs(u), np.abs(v)) <= 1)
    corners = int(rng.integers(3, 7)) if kind == "polygon" else int(rng.integers(4, 8))
    sector = 2 * np.pi / corners
    from_corner = np.abs((np.arctan2(v, u) % sector) / sector - 0.5) * 2  # 1 at a corner, 0 between two of them
    if kind == "polygon":
        edge = np.cos(sector / 2) / np.cos(from_corner * sector / 2)
    else:
        inner = rng.uniform(0.3, 0.5)
        edge = inner + (1 - inner) * from_corner**2
    return np.hypot(u, v) <= edge


def _texture(rng: np.random.Generator, u: np.ndarray, v: np.ndarray, strength: float) -> np.ndarray:
    """A random pattern between two colours, float (..., 3) in about 0 to 255, at the coordinates u, v (...)."""
    kind = TEXTURES[rng.integers(len(TEXTURES))]
    color = rng.uniform(30, 225, size=3).astype(np.float32)
    contrast = (strength * rng.uniform(-1, 1, size=3)).astype(np.float32)
    waves, phase = rng.uniform(1.5, 4.0), rng.uniform(0, 2 * np.pi)
    weight: np.ndarray
    if kind == "stripes":
        weight = np.sin(2 * np.pi * waves * u + phase) > 0
    elif kind == "checks":
        weight = (np.sin(2 * np.pi * waves * u + phase) > 0) ^ (np.sin(2 * np.pi * waves * v + phase) > 0)
    elif kind == "gradient":
        weight = np.clip((u + 1) / 2, 0, 1)
    else:
        weight = rng.random(u.shape, dtype=np.float32)
    # (..., 1) between two colours (3,)
    return color + weight[..., None] * contrast


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=0)
    return buffer.getvalue()
