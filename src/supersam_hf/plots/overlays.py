"""Images with prompts, and masks over them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from .common import (
    OBJECT_COLORS,
    STYLE,
    check_path,
    save,
)


@style.context(["default", STYLE])
def plot_overlays(
    samples: Sequence[Mapping[str, Any]], path: str | Path, columns: Sequence[str] | None = None
) -> Path:
    """Masks over images, one row a sample: the image with its prompts, the ground truth, one column a prediction.

    Args:
        samples (`Sequence[Mapping]`): One an image: `image` (uint8, (H, W, 3)), `boxes` (None or (K, 4), x0 y0 x1 y1
            in px), `points` (None or (K, 2), x y in px), `truth` (bool, (K, H, W)), `predictions` (by name, bool,
            (K, H, W)) and `ious` (by name, K numbers in [0, 1]; their mean stands over the masks).
        path (`str` or `Path`): The picture, `.png` (or `.pdf`, `.svg`). Its folder is made.
        columns (`Sequence[str]`, *optional*): Names of the predictions to show, in order; defaults to all of the
            first sample.

    Returns:
        `Path`: Where the picture is.

    Raises:
        ValueError: If there are no samples, or a sample lacks a prediction or has masks of another shape.
    """
    path = check_path(path)
    if not samples:
        raise ValueError("`samples` is empty; give at least one image with its masks.")
    names = list(samples[0]["predictions"] if columns is None else columns)
    for number, sample in enumerate(samples):
        _check_sample(number, sample, names)
    # Height over width of each row; a very tall image is shown in less than the whole column.
    heights = [min(sample["image"].shape[0] / sample["image"].shape[1], 1.5) for sample in samples]
    figure = Figure(figsize=(2.5 * (2 + len(names)), sum(2.5 * height + 0.3 for height in heights)))
    grid = figure.subplots(len(samples), 2 + len(names), squeeze=False, height_ratios=heights)
    for row, sample in zip(grid, samples):
        for axes in row:
            axes.imshow(sample["image"])
            axes.set_axis_off()
        draw_prompts(row[0], sample)
        row[1].imshow(overlay(sample["truth"]))
        for axes, name in zip(row[2:], names):
            axes.imshow(overlay(sample["predictions"][name]))
            axes.set_title(_overlay_title(name, sample["ious"][name]))
    grid[0, 0].set_title("image and prompts")
    grid[0, 1].set_title("ground truth")
    return save(figure, path)


def overlay(masks: np.ndarray) -> np.ndarray:
    """Colours for masks: each object translucent in its own colour inside a thin opaque contour, small ones on top.

    Args:
        masks (`np.ndarray`): bool, (K, H, W).

    Returns:
        `np.ndarray`: RGBA in [0, 1], float32, (H, W, 4); 0 where there is no object.
    """
    masks = np.asarray(masks, dtype=bool)
    colors = np.zeros((*masks.shape[1:], 4), dtype=np.float32)
    width = max(1, round(max(masks.shape[1:]) / 250))
    for k in sorted(range(len(masks)), key=lambda k: -int(masks[k].sum())):
        color = to_rgb(OBJECT_COLORS[k % len(OBJECT_COLORS)])
        colors[masks[k]] = (*color, 0.45)
        colors[masks[k] & ~_erode(masks[k], width)] = (*color, 1.0)
    return colors


def _check_sample(number: int, sample: Mapping[str, Any], names: list[str]) -> None:
    image, truth = sample["image"], sample["truth"]
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"`image` of sample {number} is {image.dtype} {image.shape}; give uint8 (H, W, 3).")
    shape = (len(truth), *image.shape[:2])
    masks = {"truth": truth}
    for name in names:
        if name not in sample["predictions"] or name not in sample["ious"]:
            raise ValueError(f"Sample {number} lacks `predictions` or `ious` of {name!r}; give both or leave it out.")
        masks[name] = sample["predictions"][name]
        if len(sample["ious"][name]) != len(truth):
            raise ValueError(f"`ious` of {name!r} of sample {number} must have one number an object ({len(truth)}).")
    for name, mask in masks.items():
        if tuple(mask.shape) != shape:
            raise ValueError(f"Masks {name!r} of sample {number} are {tuple(mask.shape)}; the image needs {shape}.")
    for name in ("boxes", "points"):
        if sample[name] is not None and len(sample[name]) != len(truth):
            raise ValueError(f"`{name}` of sample {number} must have one entry an object ({len(truth)}), or be None.")


def draw_prompts(axes: Axes, sample: Mapping[str, Any], star: float = 110) -> None:
    """Boxes and points of a sample over its image, each in the colour of its object.

    Args:
        axes (`Axes`): Where to draw.
        sample (`Mapping`): As of [`plot_overlays`]; with `objects`, the object of each prompt, there may be more
            prompts than objects.
        star (`float`, *optional*, defaults to 110): Area of a point, square points.
    """
    halo = [withStroke(linewidth=2.2, foreground="white")]
    for k, number in enumerate(sample.get("objects", range(len(sample["truth"])))):
        color = OBJECT_COLORS[number % len(OBJECT_COLORS)]
        if sample["boxes"] is not None:
            x0, y0, x1, y1 = (float(v) for v in sample["boxes"][k])
            axes.add_patch(
                Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=color, linewidth=1.2, path_effects=halo)
            )
        if sample["points"] is not None:
            x, y = (float(v) for v in sample["points"][k])
            edge = 0.085 * star**0.5
            axes.scatter(x, y, s=star, marker="*", color=color, edgecolors="white", linewidths=edge, zorder=3)
    height, width = sample["image"].shape[:2]
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))  # prompts may reach beyond the image


def _overlay_title(name: str, ious: Sequence[float]) -> str:
    return f"{name}, mIoU {float(np.mean(ious)):.2f}" if len(ious) else name


def _erode(mask: np.ndarray, times: int) -> np.ndarray:
    """The pixels (H, W) whose four neighbours are in the mask too, `times` times over."""
    for _ in range(times):
        padded = np.pad(mask, 1)  # (H + 2, W + 2): beyond the image there is no mask
        mask = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask
