"""Samples as a model sees them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.figure import Figure

from .common import STYLE, check_path, save
from .overlays import draw_prompts, overlay


COLUMNS = 4
PANEL_INCHES = 3.0
MOST_LETTERS = 28
# A star a prompt is as large as in other figures where an image has few, and smaller where it has many.
STAR, MANY = 110, 12


@style.context(["default", STYLE])
def plot_samples(samples: Sequence[Mapping[str, Any]], path: str | Path, title: str | None = None) -> Path:
    """Images with their objects and prompts, one panel each.

    Args:
        samples (`Sequence[Mapping]`): One an image: `name`, `image` (uint8, (H, W, 3)), `truth` (bool, (K, H, W)),
            `objects` (P numbers, which of them each prompt is for), `boxes` (None or (P, 4), x0 y0 x1 y1 in px) and
            `points` (None or (P, 2), x y in px).
        path (`str` or `Path`): The picture, `.png` (or `.pdf`, `.svg`). Its folder is made.
        title (`str`, *optional*): Over all panels.

    Raises:
        ValueError: If there are no samples.
    """
    path = check_path(path)
    if not samples:
        raise ValueError("`samples` is empty; give at least one image with its masks.")
    columns = min(COLUMNS, len(samples))
    rows = -(-len(samples) // columns)
    figure = Figure(figsize=(PANEL_INCHES * columns, (PANEL_INCHES + 0.3) * rows + 0.3))
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, sample in zip(panels, samples):
        count, prompts = len(sample["truth"]), len(sample["objects"])
        axes.imshow(sample["image"])
        axes.imshow(overlay(sample["truth"]))
        draw_prompts(axes, sample, STAR * min(1.0, MANY / max(prompts, 1)))
        told = f"{count} {'object' if count == 1 else 'objects'}"
        told += f", {prompts} prompts" if prompts != count else ""
        name = sample["name"]
        name = name if len(name) <= MOST_LETTERS else name[: MOST_LETTERS - 1] + "…"
        axes.set_title(f"{name}: {told}", fontsize=8)
    for axes in panels:
        axes.set_axis_off()
    if title is not None:
        figure.suptitle(title)
    return save(figure, path)
