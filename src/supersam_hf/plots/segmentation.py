"""Images with the classes of their pixels, labelled and predicted."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..escape import figure as figure_text
from .common import GREY, OBJECT_COLORS, STYLE, check_path, save


PANEL_INCHES = 2.6
MOST_NAMED = 12
OPACITY = 0.5


@style.context(["default", STYLE])
def plot_segmentation(
    samples: Sequence[Mapping[str, Any]], label_names: Sequence[str], path: str | Path, ignored: int = 255
) -> Path:
    """One row an image: as it is, its labels, what a model predicts.

    Args:
        samples (`Sequence[Mapping]`): One an image: `image` (uint8, (H, W, 3)), `labels` and `predicted` (int, (H, W),
            class ids).
        label_names (`Sequence[str]`): Names of the classes; "background" has no colour.
        path (`str` or `Path`): The picture, `.png` (or `.pdf`, `.svg`). Its folder is made.
        ignored (`int`): The id of pixels without a label, which are grey.

    Raises:
        ValueError: If there are no samples.
    """
    path = check_path(path)
    if not samples:
        raise ValueError("`samples` is empty; give at least one image with its labels.")
    figure = Figure(figsize=(3 * PANEL_INCHES, PANEL_INCHES * len(samples) + 0.5))
    panels = figure.subplots(len(samples), 3, squeeze=False)
    for row, sample in zip(panels, samples):
        for axes, name in zip(row, (None, "labels", "predicted")):
            axes.imshow(sample["image"])
            if name is not None:
                axes.imshow(coloured(np.asarray(sample[name]), label_names, ignored))
            axes.set_axis_off()
    for axes, title in zip(panels[0], ("image", "labels", "predicted")):
        axes.set_title(title)
    seen = {int(label) for sample in samples for name in ("labels", "predicted") for label in np.unique(sample[name])}
    shown = [i for i, name in enumerate(label_names) if i in seen and name != "background"][:MOST_NAMED]
    handles = [Patch(color=_colour(i, label_names), label=figure_text(label_names[i])) for i in shown]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)))
    return save(figure, path)


def coloured(labels: np.ndarray, label_names: Sequence[str], ignored: int = 255) -> np.ndarray:
    """Class ids (H, W) as translucent colours: RGBA in [0, 1], float32, (H, W, 4)."""
    colors = np.zeros((*labels.shape, 4), dtype=np.float32)
    for label in np.unique(labels).tolist():
        if label == ignored:
            colors[labels == label] = (*to_rgb(GREY), 0.8)
        elif label_names[label] != "background":
            colors[labels == label] = (*_colour(label, label_names), OPACITY)
    return colors


def _colour(label: int, label_names: Sequence[str]) -> tuple[float, float, float]:
    """The first colours are for classes that are not the background."""
    first = 1 if label_names[0] == "background" else 0
    return to_rgb(OBJECT_COLORS[(label - first) % len(OBJECT_COLORS)])


__all__ = ["coloured", "plot_segmentation"]
