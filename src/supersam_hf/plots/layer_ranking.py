"""What removing layers costs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .common import (
    BLACK,
    BLUE,
    LIGHT,
    STYLE,
    VERMILLION,
    check_path,
    name_axes,
    save,
)


@style.context(["default", STYLE])
def plot_layer_ranking(ranking: Mapping[str, Any], path: str | Path, quality: str = "mIoU") -> Path:
    """What the removal of layers costs (SuperSAM, Fig. 3): each alone, and one after another.

    Args:
        ranking (`Mapping`): A `LayerRanking.to_dict()`: `full`, `single`, `greedy` and `prunable_layers`.
        path (`str` or `Path`): The picture, `.png` (or `.pdf`, `.svg`). Its folder is made.
        quality (`str`, *optional*, defaults to `"mIoU"`): What the qualities of the ranking are called.

    Returns:
        `Path`: Where the picture is.

    Raises:
        ValueError: If `single` or `greedy` is empty.
    """
    path = check_path(path)
    for name in ("single", "greedy"):
        if not ranking[name]:
            raise ValueError(f"`{name}` of the ranking is empty; rank at least one layer.")
    widths = [max(4.3, 0.2 * len(ranking["single"])), max(4.3, 0.45 * len(ranking["greedy"]))]
    figure = Figure(figsize=(sum(widths), 3.8))
    left, right = figure.subplots(1, 2, width_ratios=widths)
    _draw_single_removals(left, ranking, quality)
    _draw_greedy_removals(right, ranking, quality)
    return save(figure, path)


def _draw_single_removals(axes: Axes, ranking: Mapping[str, Any], quality: str) -> None:
    layers = [removal["layers"][0] for removal in ranking["single"]]
    prunable = set(ranking["prunable_layers"])
    for chosen, color, label in ((False, LIGHT, None), (True, VERMILLION, "proposed prunable")):
        bars = [r for r in ranking["single"] if (r["layers"][0] in prunable) is chosen]
        if bars:
            axes.bar([r["layers"][0] for r in bars], [r["quality"] for r in bars], 0.72, color=color, label=label)
    full = ranking["full"]["quality"]
    axes.axhline(full, color=BLACK, linewidth=1.2, linestyle=(0, (4, 3)), label=f"full model ({full:.3f})")
    axes.set_xticks(layers)
    axes.tick_params(axis="x", labelsize=10 if len(layers) <= 16 else 7)
    axes.grid(False, axis="x")
    name_axes(axes, "Layer removed", quality)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)


def _draw_greedy_removals(axes: Axes, ranking: Mapping[str, Any], quality: str) -> None:
    removals = [ranking["full"], *ranking["greedy"]]
    counts = [len(removal["layers"]) for removal in removals]
    added = [set(b["layers"]) - set(a["layers"]) for a, b in zip(removals, removals[1:])]
    names = ["none", *("+" + ", ".join(str(layer) for layer in sorted(layers)) for layers in added)]
    sizes = axes.twinx()
    sizes.bar(counts, [r["params"] / 1e6 for r in removals], 0.62, color=LIGHT, label="parameters")
    sizes.set_ylabel("Parameters (M)")
    sizes.set_ylim(0, 1.08 * max(r["params"] for r in removals) / 1e6)
    sizes.spines.right.set_visible(True)
    sizes.grid(False)
    # The bars belong behind the line, though their axis was made later.
    axes.set_zorder(sizes.get_zorder() + 1)
    axes.patch.set_visible(False)
    axes.plot(counts, [r["quality"] for r in removals], color=BLUE, marker="o", label=quality)
    proposed = [r for r in ranking["greedy"] if set(r["layers"]) == set(ranking["prunable_layers"])]
    for r in proposed:
        ring: dict[str, Any] = {"facecolors": "none", "edgecolors": VERMILLION, "linewidths": 1.8}
        axes.scatter(len(r["layers"]), r["quality"], s=130, label="proposal", zorder=4, **ring)
    axes.set_xticks(counts, [f"{count}\n{name}" for count, name in zip(counts, names)])
    axes.grid(False)
    name_axes(axes, "Number of layers removed\n(+ the layer removed at this step)", quality)
    axes.set_ylim(0, 1.08 * max(r["quality"] for r in removals))
    (lines, names), (bars, bar_names) = axes.get_legend_handles_labels(), sizes.get_legend_handles_labels()
    handles, texts = [*lines, *bars], [*names, *bar_names]
    axes.legend(handles, texts, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, scatteryoffsets=[0.5])
