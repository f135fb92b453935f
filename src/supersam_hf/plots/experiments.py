"""The figures of experiments: several runs side by side, over seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..search.pareto import pareto_front
from .common import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, STYLE, VERMILLION, check_path, name_axes, save


COLORS = (VERMILLION, BLUE, GREEN, ORANGE, PURPLE, SKY)
MARKERS = {"largest": ("s", 42), "smallest": ("v", 52)}


class SpreadLike(Protocol):
    """A number over seeds: its mean, and its standard deviation where there are several."""

    @property
    def mean(self) -> float: ...

    @property
    def sd(self) -> float | None: ...


@style.context(["default", STYLE])
def plot_milestones(bars: Mapping[str, Mapping[str, SpreadLike]], path: str | Path) -> Path:
    """Costs until a milestone (SuperSAM, Table I): a panel a cost, a bar a variant, its standard deviation on it.

    Args:
        bars (`Mapping`): By variant, then by cost with its unit; a variant without a cost never reached the milestone.
        path (`str` or `Path`): The picture, `.png` (or `.pdf`, `.svg`). Its folder is made.

    Returns:
        `Path`: Where the picture is.

    Raises:
        ValueError: If there are no variants.
    """
    path = check_path(path)
    if not bars:
        raise ValueError("`bars` is empty; give at least one variant.")
    costs = list(dict.fromkeys(cost for variant in bars.values() for cost in variant)) or ["iterations"]
    figure = Figure(figsize=(max(3.6, 2.5 * len(costs)), 3.4))
    for axes, cost in zip(figure.subplots(1, len(costs), squeeze=False)[0], costs):
        for place, variant in enumerate(bars.values()):
            if cost in variant:
                spread = variant[cost]
                axes.bar(place, spread.mean, yerr=spread.sd, color=COLORS[place % len(COLORS)], capsize=4, width=0.7)
            else:
                axes.text(place, 0, "not\nreached", ha="center", va="bottom", color=GREY, fontsize=8)
        axes.set_xticks(range(len(bars)), list(bars))
        axes.set_ylim(bottom=0)
        axes.grid(visible=False, axis="x")
        axes.set_title(cost[0].upper() + cost[1:])
    return save(figure, path)


@style.context(["default", STYLE])
def plot_removals(
    full: SpreadLike,
    single: Mapping[int, SpreadLike],
    greedy: Sequence[SpreadLike],
    params: Sequence[float],
    path: str | Path,
) -> Path:
    """What the removal of layers costs (SuperSAM, Fig. 3): each alone, and one after another with what is left.

    Args:
        full (`SpreadLike`): mIoU of the whole model.
        single (`Mapping`): By layer, mIoU without it.
        greedy (`Sequence`): mIoU with 1, 2, ... layers removed.
        params (`Sequence[float]`): Parameters with 1, 2, ... layers removed.
        path (`str` or `Path`): The picture, `.png` (or `.pdf`, `.svg`). Its folder is made.

    Returns:
        `Path`: Where the picture is.

    Raises:
        ValueError: If no layer was removed.
    """
    path = check_path(path)
    if not single or not greedy:
        raise ValueError("`single` or `greedy` is empty; rank at least one layer.")
    widths = [max(4.3, 0.3 * len(single)), max(4.3, 0.45 * len(greedy))]
    figure = Figure(figsize=(sum(widths), 3.8))
    left, right = figure.subplots(1, 2, width_ratios=widths, sharey=True)
    spreads = list(single.values())
    left.bar(list(single), [s.mean for s in spreads], yerr=_sds(spreads), color=BLUE, capsize=3, width=0.7)
    left.grid(visible=False, axis="x")
    left.set_xticks(list(single))
    name_axes(left, "Layer removed", "mIoU", "each layer alone")
    counts = list(range(1, len(greedy) + 1))
    right.errorbar(counts, [s.mean for s in greedy], yerr=_sds(greedy), color=VERMILLION, marker="o", capsize=3)
    for count, spread, size in zip(counts, greedy, params):
        top = (count, spread.mean + (spread.sd or 0))
        right.annotate(f"{size / 1e6:.3g} M", top, (0, 4), textcoords="offset points", ha="center", fontsize=8)
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.set_xlim(0.5, len(greedy) + 0.5)
    name_axes(right, "Layers removed, least loss first", "", "one after another")
    for axes in (left, right):
        axes.axhline(full.mean, color=BLACK, linestyle=(0, (4, 3)), linewidth=1, label="all layers")
        axes.set_ylim(0, 1.12 * max(s.mean + (s.sd or 0) for s in (full, *spreads, *greedy)))
    right.legend(loc="lower left")
    return save(figure, path)


@style.context(["default", STYLE])
def plot_supernets(
    rows: Sequence[Mapping[str, Any]], labels: Mapping[str, str], path: str | Path, *, fronts: bool = False
) -> Path:
    """Sampled subnets of several supernets (SuperSAM, Figs. 4 and 5): mIoU over parameters, a colour a supernet,
    mean over seeds with the standard deviation as a bar.

    Args:
        rows (`Sequence[Mapping]`): One a subnet, supernet and seed: `variant`, `seed`, `name`, `kind` (`"original"`,
            `"largest"`, `"smallest"`, `"sampled"`), `params`, `miou`.
        labels (`Mapping[str, str]`): What the legend calls a variant; their order is that of the colours.
        path (`str` or `Path`): The picture, `.png` (or `.pdf`, `.svg`). Its folder is made.
        fronts (`bool`, *optional*, defaults to `False`): Draw each supernet's Pareto frontier, of the means.

    Returns:
        `Path`: Where the picture is.

    Raises:
        ValueError: If there are no rows.
    """
    path = check_path(path)
    if not rows:
        raise ValueError("`rows` is empty; give at least one subnet.")
    figure = Figure(figsize=(7.2, 5.0))
    axes = figure.subplots()
    for color, (variant, label) in zip(COLORS, labels.items()):
        means = _means([row for row in rows if row["variant"] == variant and row["kind"] != "original"])
        _draw_supernet(axes, means, color, label, fronts)
    subnets = _means([row for row in rows if row["kind"] != "original"])
    for row in _means([row for row in rows if row["kind"] == "original"]):
        _draw_original(axes, row, [subnet["miou"] for subnet in subnets])
    for kind, (marker, size) in MARKERS.items():
        axes.scatter([], [], s=size, marker=marker, color=GREY, label=kind)
    name_axes(axes, "Parameters (M)", "mIoU")
    figure.legend(loc="outside lower center", ncols=3)
    return save(figure, path)


def _draw_supernet(axes: Axes, means: Sequence[Mapping[str, Any]], color: str, label: str, front: bool) -> None:
    for kind, (marker, size) in {**MARKERS, "sampled": ("o", 16)}.items():
        chosen = [row for row in means if row["kind"] == kind]
        x, y = [row["params"] / 1e6 for row in chosen], [row["miou"] for row in chosen]
        if any(row["sd"] for row in chosen):
            errors = [row["sd"] for row in chosen]
            axes.errorbar(x, y, yerr=errors, fmt="none", ecolor=color, alpha=0.3, elinewidth=0.8, zorder=1)
        name = label if kind == "sampled" else None
        axes.scatter(x, y, s=size, marker=marker, color=color, alpha=0.8, linewidths=0, label=name, zorder=2)
    if front:
        best = pareto_front(means, cost=lambda row: row["params"], quality=lambda row: row["miou"])
        # what is to be had at most for a size, up to the whole supernet's
        x = [*(row["params"] / 1e6 for row in best), max(row["params"] for row in means) / 1e6]
        axes.step(x, [*(row["miou"] for row in best), best[-1]["miou"]], where="post", color=color, zorder=3)


def _draw_original(axes: Axes, row: Mapping[str, Any], mious: Sequence[float]) -> None:
    """The original at its place; at the lower edge, with its mIoU, where that would squeeze all others together."""
    x, y = row["params"] / 1e6, row["miou"]
    span = max(mious, default=y) - min(mious, default=y)
    below = bool(mious) and y < min(mious) - span
    if below:
        axes.set_ylim(bottom=min(mious) - 0.25 * span)
        y = min(mious) - 0.18 * span
        text = f"{row['miou']:.3f} \u2193"
        axes.annotate(text, (x, y), (-8, 0), textcoords="offset points", ha="right", va="center", fontsize=8)
    axes.scatter(x, y, s=48, marker="D", color=BLACK, label="original", zorder=4)


def _means(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row a subnet: mean and standard deviation over seeds."""
    found: dict[tuple[str, str, int], list[float]] = {}
    for row in rows:
        found.setdefault((row["kind"], row["name"], row["params"]), []).append(row["miou"])
    return [
        {"kind": kind, "params": params, "miou": float(np.mean(mious)), "sd": _sd(mious)}
        for (kind, _, params), mious in found.items()
    ]


def _sd(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _sds(spreads: Sequence[SpreadLike]) -> list[float] | None:
    return None if any(s.sd is None for s in spreads) else [s.sd or 0.0 for s in spreads]


__all__ = ["plot_milestones", "plot_removals", "plot_supernets"]
