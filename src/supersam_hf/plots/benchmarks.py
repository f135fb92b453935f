"""The figure of the benchmarks: how long each thing takes against what it is compared with, and against its floor."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .common import BLACK, BLUE, STYLE, VERMILLION, check_path, name_axes, save


DTYPES = {"fp32": (BLUE, "o"), "bf16": (VERMILLION, "s")}
HALF = 0.17  # how far two dtypes of one row lie from its middle


@style.context(["default", STYLE])
def plot_benchmarks(results: Sequence[Mapping[str, Any]], path: str | Path) -> Path:
    """Time over the time of what each row is compared with, p10 to p90 as whiskers, and where the floor lies: a panel
    a benchmark, a line a row.

    Args:
        results (`Sequence[Mapping]`): As a benchmark writes them: `benchmark` (its name), `dtype` ("fp32" or "bf16")
            and `rows`; of those, each that has a `ratio`, with `name`, `ratio_p10`, `ratio_p90` and, for its floor,
            `ms` and `floor_ms`.
        path (`str` or `Path`): The picture, `.png` (or `.pdf`, `.svg`). Its folder is made.

    Returns:
        `Path`: Where the picture is.

    Raises:
        ValueError: If no row has a ratio, or a dtype is another.
    """
    path = check_path(path)
    panels = _panels(results)
    heights = [len(names) for names in panels.values()]
    figure = Figure(figsize=(7.2, 1.0 + 0.36 * sum(heights) + 0.45 * len(panels)))
    columns = figure.subplots(len(panels), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    for axes, (benchmark, names) in zip(columns, panels.items()):
        _draw_panel(axes, names, [result for result in results if result["benchmark"] == benchmark])
        name_axes(axes, "", "", benchmark)
    columns[-1].set_xlabel("time ÷ time of what it is compared with")
    columns[-1].set_xlim(left=0)
    entries = {label: handle for axes in columns for handle, label in zip(*axes.get_legend_handles_labels())}
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=len(entries))
    return save(figure, path)


def _panels(results: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """By benchmark, the names of its rows that have a ratio."""
    panels: dict[str, dict[str, None]] = {}
    for result in results:
        if result["dtype"] not in DTYPES:
            raise ValueError(f"`dtype` must be one of {list(DTYPES)}, got {result['dtype']!r}.")
        for row in _compared(result):
            panels.setdefault(result["benchmark"], {})[row["name"]] = None
    if not panels:
        raise ValueError("`results` has no row with a `ratio`; give at least one.")
    return {benchmark: list(names) for benchmark, names in panels.items()}


def _compared(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [row for row in result["rows"] if row.get("ratio") is not None]


def _draw_panel(axes: Axes, names: list[str], results: Sequence[Mapping[str, Any]]) -> None:
    dtypes = [dtype for dtype in DTYPES if any(result["dtype"] == dtype for result in results)]
    for result in results:
        place = dtypes.index(result["dtype"]) - (len(dtypes) - 1) / 2
        for row in _compared(result):
            _draw_row(axes, row, names.index(row["name"]) + 2 * HALF * place, result["dtype"])
    axes.axvline(1, color=BLACK, linestyle=(0, (4, 3)), linewidth=1, zorder=1)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)  # the first on top
    axes.grid(visible=False, axis="y")


def _draw_row(axes: Axes, row: Mapping[str, Any], y: float, dtype: str) -> None:
    color, marker = DTYPES[dtype]
    ratio, low, high = row["ratio"], row.get("ratio_p10", row["ratio"]), row.get("ratio_p90", row["ratio"])
    # percentiles of few rounds may be equal but for rounding
    whiskers = [[max(0, ratio - low)], [max(0, high - ratio)]]
    axes.errorbar(ratio, y, xerr=whiskers, fmt=marker, color=color, markersize=4.5, capsize=2.5, label=dtype)
    axes.annotate(f"{ratio:.2f}", (max(ratio, high), y), (5, 0), textcoords="offset points", va="center", fontsize=8)
    if row.get("floor_ms") is not None:
        # in the unit of the axis: of the time that is compared with
        floor = ratio * row["floor_ms"] / row["ms"]
        axes.scatter(floor, y, s=70, marker="|", color=BLACK, linewidths=1.6, label="floor of this machine", zorder=3)


__all__ = ["plot_benchmarks"]
