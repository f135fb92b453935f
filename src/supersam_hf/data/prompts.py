"""Prompts of objects, as SuperSAM trains and evaluates with (section IV): a noisy box or a random point."""

import numpy as np


def box_prompts(masks: np.ndarray, padding: int, rng: np.random.Generator) -> np.ndarray:
    """Tight boxes grown by U{0, ..., padding} px on each side by itself, clamped to the image.

    Args:
        masks (`numpy.ndarray`): Boolean masks (n, height, width), none of them empty.
        padding (`int`): Largest growth of a side, px.
        rng (`numpy.random.Generator`): Source of the growth.

    Returns:
        `numpy.ndarray`: float32 (n, 4), x0, y0, x1, y1 as indices of the outermost pixels, both included.
    """
    count, height, width = masks.shape
    columns, rows = np.any(masks, axis=1), np.any(masks, axis=2)  # (n, width), (n, height)
    first_x, last_x = columns.argmax(axis=1), width - 1 - columns[:, ::-1].argmax(axis=1)
    first_y, last_y = rows.argmax(axis=1), height - 1 - rows[:, ::-1].argmax(axis=1)
    growth = rng.integers(0, padding, size=(count, 4), endpoint=True)
    boxes = np.stack([first_x, first_y, last_x, last_y], axis=1) + growth * np.array([-1, -1, 1, 1])
    limits = np.array([width - 1, height - 1, width - 1, height - 1])
    return np.clip(boxes, 0, limits).astype(np.float32)


def point_prompts(masks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A uniformly random pixel of each mask (n, height, width), none of them empty: float32 (n, 2), x and y."""
    points = np.zeros((len(masks), 2), dtype=np.float32)
    for index, mask in enumerate(masks):
        pixels = np.flatnonzero(mask)
        y, x = divmod(int(pixels[rng.integers(len(pixels))]), mask.shape[1])
        points[index] = x, y
    return points
