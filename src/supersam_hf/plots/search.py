"""The trials of a search."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .common import (
    BLUE,
    GREY,
    SKY,
    STYLE,
    VERMILLION,
    check_path,
    name_axes,
    save,
)


if TYPE_CHECKING:
    from ..search.objective import Evaluation


@style.context(["default", STYLE])
def plot_search(trials: "Sequence[Evaluation | Mapping[str, Any]]", path: str | Path) -> Path:
    """The course of a search: quality over trials with the best so far, and quality over parameters.

    The best is the feasible trial of highest score, so the line may fall where the goal is a cost.

    Args:
        trials (`Sequence[Evaluation | Mapping]`): In the order of the search; a mapping has the keys of
            `Evaluation.to_dict()`. Trials whose quality was not run (a limit was passed) are ticks on the axis.
        path (`str` or `Path`): The picture, `.png` (or `.pdf`, `.svg`). Its folder is made.

    Returns:
        `Path`: Where the picture is.

    Raises:
        ValueError: If there are no trials, or a feasible one has no score or no quality.
    """
    path = check_path(path)
    tried = [dict(t) if isinstance(t, Mapping) else t.to_dict() for t in trials]
    if not tried:
        raise ValueError("`trials` is empty; give the evaluations of a search, at least one.")
    for number, trial in enumerate(tried, start=1):
        if trial["exceeded"] is None and (trial["quality"] is None or trial["score"] is None):
            raise ValueError(f"Trial {number} is feasible but has no `quality` or no `score`; give both.")
        trial["number"], trial["size"] = number, trial["params"] / 1e6
    feasible = [trial for trial in tried if trial["exceeded"] is None]
    figure = Figure(figsize=(9.6, 4.2))
    left, right = figure.subplots(1, 2, sharey=True)
    _draw_trials(left, tried, "number")
    _draw_trials(right, tried, "size")
    if feasible:
        best = [max(feasible[:n], key=lambda trial: trial["score"]) for n in range(1, len(feasible) + 1)]
        numbers = [trial["number"] for trial in feasible]
        steps = [*numbers, len(tried)], [*(trial["quality"] for trial in best), best[-1]["quality"]]
        left.step(*steps, where="post", color=BLUE, label="best so far", zorder=3)
        for axes, key in ((left, "number"), (right, "size")):
            x, y = best[-1][key], best[-1]["quality"]
            axes.scatter(x, y, s=190, color=VERMILLION, marker="*", edgecolors="white", label="best", zorder=4)
    if all(trial["quality"] is None for trial in tried):
        left.set_ylim(0, 1)
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    name_axes(left, "Ask", "Quality")
    name_axes(right, "Parameters (M)", "")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5, scatteryoffsets=[0.5])
    return save(figure, path)


def _draw_trials(axes: Axes, trials: list[dict[str, Any]], key: str) -> None:
    run = [trial for trial in trials if trial["quality"] is not None]
    not_run = [trial[key] for trial in trials if trial["quality"] is None]
    for feasible, color, marker, label in ((True, SKY, "o", "feasible"), (False, GREY, "x", "infeasible")):
        chosen = [trial for trial in run if (trial["exceeded"] is None) is feasible]
        if chosen:
            x, y = [trial[key] for trial in chosen], [trial["quality"] for trial in chosen]
            axes.scatter(x, y, s=20, color=color, marker=marker, linewidths=1, label=label, zorder=2)
    if not_run:
        # x in data, y in shares of the panel: ticks along the bottom
        ticks = axes.get_xaxis_transform()
        label = "infeasible, not run"
        axes.plot(not_run, [0.015] * len(not_run), "|", color=GREY, transform=ticks, markersize=7, label=label)
