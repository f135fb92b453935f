"""The log of a training."""

from pathlib import Path

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .common import (
    BLACK,
    BLUE,
    GREY,
    NAMED_COLORS,
    ORANGE,
    SKY,
    STYLE,
    YELLOW,
    check_path,
    draw_smoothed,
    name_axes,
    read_log,
    save,
    series,
)


@style.context(["default", STYLE])
def plot_training(log_path: str | Path, path: str | Path) -> Path:
    """The course of a training: losses, and learning rate and mIoU where they were logged.

    Losses are drawn faintly as logged and boldly as a centred running mean over a twentieth of the lines.

    Args:
        log_path (`str` or `Path`): The `log.jsonl` of a training. A last line without its newline is still being
            written and is left out.
        path (`str` or `Path`): The picture, `.png` (or `.pdf`, `.svg`). Its folder is made.

    Returns:
        `Path`: Where the picture is.

    Raises:
        ValueError: If the log has no loss, or a line is not a JSON object with a `step`.
    """
    path = check_path(path)
    lines = read_log(Path(log_path))
    # One panel a prefix, for the keys that begin with it, in the order in which they were first logged.
    panels = {"loss": 3, "learning_rate": 1, "miou": 2}
    keys = {p: list(dict.fromkeys(k for line in lines for k in line if k.startswith(p))) for p in panels}
    if not keys["loss"]:
        raise ValueError(f'{log_path} has no line with a loss (a key that begins with "loss"); was anything trained?')
    shown = [prefix for prefix in panels if keys[prefix]]
    heights = [panels[prefix] for prefix in shown]
    figure = Figure(figsize=(7.2, 1.2 + 0.85 * sum(heights)))
    grid = figure.subplots(len(shown), 1, sharex=True, squeeze=False, height_ratios=heights)
    for prefix, axes in zip(shown, grid[:, 0]):
        _draw_log_panel(axes, prefix, {key: series(lines, key) for key in keys[prefix]})
    grid[-1, 0].set_xlabel("Step")
    return save(figure, path)


def _draw_log_panel(axes: Axes, prefix: str, curves: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    for index, (key, (steps, values)) in enumerate(curves.items()):
        name = key.removeprefix(prefix).strip("_") or prefix
        color = NAMED_COLORS.get(name, (BLUE, ORANGE, SKY, YELLOW, GREY)[index % 5])
        if prefix == "loss":
            draw_smoothed(axes, steps, values, color, name)
        elif prefix == "miou":
            axes.plot(steps, values, color=color, marker="o", markersize=4, label=name)
        else:
            axes.plot(steps, values, color=BLACK)
    name_axes(axes, "", {"loss": "Loss", "miou": "mIoU", "learning_rate": "Learning\nrate"}[prefix])
    if len(curves) > 1:
        axes.legend(ncols=2)
    if prefix == "learning_rate":
        axes.set_ylim(bottom=0)
        axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
