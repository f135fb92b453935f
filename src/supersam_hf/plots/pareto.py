"""Quality over cost, with the Pareto front."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from ..search.pareto import pareto_front
from .common import (
    BLACK,
    BLUE,
    GREY,
    NAMED_COLORS,
    ORANGE,
    SKY,
    STYLE,
    check_path,
    name_axes,
    save,
)


COSTS = {"params": ("Parameters (M)", 1e6), "macs": ("GMACs", 1e9), "latency_ms": ("Latency (ms)", 1.0)}
QUALITIES = {"miou": "mIoU", "quality": "Quality", "agreement": "Agreement with the original"}
# Kinds of rows of a Pareto figure: clouds (colour, size, legend) and points with a mark of their own (marker, size).
CLOUDS = {
    "before": (GREY, 16, "subnets before training"),
    "sampled": (SKY, 20, "subnets after training"),
    "trial": (ORANGE, 16, "search trials"),
    "pareto": (BLUE, 26, "front of the search"),
}
MARKED = {
    **{"original": ("D", 60), "largest": ("s", 65), "smallest": ("v", 80)},
    **{"found": ("*", 210), "found + recovery": ("P", 120)},
}
KINDS = (*CLOUDS, *MARKED)
# Where a label may stand: offset in points from its marker, and its alignment; near places first.
PLACES = [
    (d * i, d * j, ("center", "left", "right")[i], ("center", "bottom", "top")[j])
    for d in (9, 18, 30)
    for i, j in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
]


@style.context(["default", STYLE])
def plot_pareto(
    rows: Sequence[Mapping[str, Any]],
    path: str | Path,
    *,
    x: str = "params",
    y: str = "miou",
    title: str | None = None,
    budget: float | None = None,
) -> Path:
    """Quality over cost of many subnets, with the Pareto front of the trained supernet's subnets.

    The front is a step line: what is to be had at most for a cost. `"original"` and `"before"` rows take no part in
    it: neither is a subnet of the trained supernet.

    Args:
        rows (`Sequence[Mapping]`): One a subnet: `name`, `kind` (one of `"original"`, `"before"`, `"largest"`,
            `"smallest"`, `"sampled"`, `"trial"`, `"pareto"`, `"found"`, `"found + recovery"`), its costs and its
            quality. Rows of the kinds `"original"`, `"largest"`, `"smallest"`, `"found"` and `"found + recovery"`
            are labelled with their name.
        path (`str` or `Path`): The picture, `.png` (or `.pdf`, `.svg`). Its folder is made.
        x (`str`, *optional*, defaults to `"params"`): `"params"` (a count, shown in millions), `"macs"` (a count,
            shown in GMACs) or `"latency_ms"`.
        y (`str`, *optional*, defaults to `"miou"`): `"miou"`, `"quality"` or `"agreement"`, in [0, 1].
        budget (`float`, *optional*): Limit on `x`, in its units (a count of parameters, not millions).

    Returns:
        `Path`: Where the picture is.

    Raises:
        ValueError: If there are no rows, or a row has an unknown kind or lacks a finite number.
    """
    path = check_path(path)
    _check_pareto(rows, x, y, budget)
    unit = COSTS[x][1]
    figure = Figure(figsize=(7.2, 5.0))
    axes = figure.subplots()
    for kind, (color, size, label) in CLOUDS.items():
        chosen = [row for row in rows if row["kind"] == kind]
        if chosen:
            costs, qualities = [row[x] / unit for row in chosen], [row[y] for row in chosen]
            axes.scatter(costs, qualities, s=size, color=color, alpha=0.75, linewidths=0, label=label, zorder=2)
    trained = [row for row in rows if row["kind"] not in ("original", "before")]
    front = pareto_front(trained, cost=lambda row: row[x], quality=lambda row: row[y])
    steps = np.array([(row[x] / unit, row[y]) for row in front]).reshape(-1, 2)
    if len(front) > 1:
        axes.step(steps[:, 0], steps[:, 1], where="post", color=BLUE, label="Pareto front", zorder=3)
    if budget is not None:
        axes.axvline(budget / unit, color=BLACK, linestyle=(0, (4, 3)), linewidth=1, label="budget", zorder=1)
    # The stock model last: an untrained supernet's largest subnet lies on it.
    marked = sorted((row for row in rows if row["kind"] in MARKED), key=lambda row: row["kind"] == "original")
    for row in marked:
        marker, size = MARKED[row["kind"]]
        color = NAMED_COLORS[row["kind"]]
        axes.scatter(row[x] / unit, row[y], s=size, marker=marker, color=color, edgecolors="white", zorder=4)
    name_axes(axes, COSTS[x][0], QUALITIES[y], title)
    axes.margins(0.08)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", ncols=3, scatteryoffsets=[0.5])
    drawn = np.concatenate([[(row[x] / unit, row[y]) for row in rows], _along_steps(steps)])
    marked.sort(key=lambda row: -row[y])
    labels = [(row[x] / unit, row[y], row["name"], NAMED_COLORS[row["kind"]]) for row in marked]
    _label_points(figure, axes, labels, drawn)
    return save(figure, path)


def _check_pareto(rows: Sequence[Mapping[str, Any]], x: str, y: str, budget: float | None) -> None:
    if x not in COSTS or y not in QUALITIES:
        raise ValueError(f"`x` is {x!r} and `y` is {y!r}; they may be of {list(COSTS)} and of {list(QUALITIES)}.")
    if not rows:
        raise ValueError("`rows` is empty; give at least one subnet.")
    if budget is not None and not (math.isfinite(budget) and budget > 0):
        raise ValueError(f"`budget` is {budget}; give a positive number in the units of `{x}`.")
    for row in rows:
        if row["kind"] not in KINDS:
            raise ValueError(f"`kind` of row {row['name']!r} is {row['kind']!r}; it may be one of {list(KINDS)}.")
        for key in (x, y):
            if row[key] is None or not math.isfinite(row[key]):
                raise ValueError(f"`{key}` of row {row['name']!r} is {row[key]}; leave out rows without a number.")


def _along_steps(steps: np.ndarray) -> np.ndarray:
    """Points (n, 2) along the step line through the corners `steps` (m, 2), twenty a straight piece."""
    if len(steps) < 2:
        return steps
    corners = np.stack([np.repeat(steps[:, 0], 2)[1:], np.repeat(steps[:, 1], 2)[:-1]], axis=1)  # (2 m - 1, 2)
    along, numbers = np.linspace(0, len(corners) - 1, 20 * len(corners)), np.arange(len(corners))
    return np.stack([np.interp(along, numbers, corners[:, 0]), np.interp(along, numbers, corners[:, 1])], axis=1)


def _label_points(figure: Figure, axes: Axes, labels: list[tuple[float, float, str, str]], drawn: np.ndarray) -> None:
    """Writes each (x, y, text, colour) where it hides least of the other labels, the marks and what is `drawn`."""
    figure.draw_without_rendering()  # the layout is needed to know how much room a text takes
    dots = axes.transData.transform(drawn)  # (n, 2) in px
    marks = [axes.transData.transform((x, y)) for x, y, _, _ in labels]
    taken = [Bbox([mark - 7, mark + 7]) for mark in marks]
    halo = [withStroke(linewidth=2.5, foreground="white")]
    for x, y, text, color in labels:
        note = axes.annotate(
            text, (x, y), xytext=(0, 0), textcoords="offset points", color=color, path_effects=halo, zorder=5
        )
        note.set_in_layout(False)
        harms = []
        for place in PLACES:
            box = _move(note, place)
            outside = Bbox.union([box, axes.bbox]).bounds != axes.bbox.bounds
            hidden = sum(box.overlaps(other) for other in taken)
            harms.append((10 * outside + hidden) * len(dots) + int(box.count_contains(dots)))
        taken.append(_move(note, PLACES[harms.index(min(harms))]))


def _move(note: Annotation, place: tuple[int, int, str, str]) -> Bbox:
    """Puts a label there; returns the room it takes, in px."""
    right, up, horizontal, vertical = place
    note.set(position=(right, up), horizontalalignment=horizontal, verticalalignment=vertical)
    return note.get_window_extent()
