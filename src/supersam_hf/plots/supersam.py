"""The figures of a SuperSAM run."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from ..search.pareto import pareto_front
from .common import (
    BLACK,
    BLUE,
    GREY,
    LIGHT,
    NAMED_COLORS,
    OBJECT_COLORS,
    ORANGE,
    SKY,
    STYLE,
    VERMILLION,
    YELLOW,
    check_path,
    name_axes,
    read_log,
    save,
    series,
    smooth,
)


if TYPE_CHECKING:
    from ..models.supersam.elastic_supersam import ElasticSpace, Subnet
    from ..search.objective import Evaluation


COSTS = {"params": ("Parameters (M)", 1e6), "macs": ("GMACs", 1e9), "latency_ms": ("Latency (ms)", 1.0)}
QUALITIES = {"miou": "mIoU", "quality": "Quality"}
# Kinds of rows of a Pareto figure: clouds (colour, size, legend) and points with a mark of their own (marker, size).
CLOUDS = {
    "before": (GREY, 16, "subnets before training"),
    "sampled": (SKY, 20, "subnets after training"),
    "trial": (ORANGE, 16, "search trials"),
    "pareto": (BLUE, 26, "front of the search"),
}
MARKED = {"original": ("D", 60), "largest": ("s", 65), "smallest": ("v", 80), "found": ("*", 210)}
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
            `"smallest"`, `"sampled"`, `"trial"`, `"pareto"`, `"found"`), its costs and its quality. Rows of the kinds
            `"original"`, `"largest"`, `"smallest"` and `"found"` are labelled with their name.
        path (`str` or `Path`): The picture, `.png` (or `.pdf`, `.svg`). Its folder is made.
        x (`str`, *optional*, defaults to `"params"`): `"params"` (a count, shown in millions), `"macs"` (a count,
            shown in GMACs) or `"latency_ms"`.
        y (`str`, *optional*, defaults to `"miou"`): `"miou"` or `"quality"`, in [0, 1].
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


@style.context(["default", STYLE])
def plot_layer_ranking(ranking: Mapping[str, Any], path: str | Path) -> Path:
    """What the removal of layers costs (SuperSAM, Fig. 3): each alone, and one after another.

    Args:
        ranking (`Mapping`): A `LayerRanking.to_dict()`: `full`, `single`, `greedy` and `prunable_layers`.
        path (`str` or `Path`): The picture, `.png` (or `.pdf`, `.svg`). Its folder is made.

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
    _draw_single_removals(left, ranking)
    _draw_greedy_removals(right, ranking)
    return save(figure, path)


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


@style.context(["default", STYLE])
def plot_windows(table: Mapping[str, Mapping[int, float]], path: str | Path) -> Path:
    """mIoU over the MLP window for each way of ordering the hidden units.

    Args:
        table (`Mapping[str, Mapping[int, float]]`): By ordering (`"none"`, `"magnitude"`, `"wanda"`), the mIoU in
            [0, 1] by window, in hidden units.
        path (`str` or `Path`): The picture, `.png` (or `.pdf`, `.svg`). Its folder is made.

    Returns:
        `Path`: Where the picture is.

    Raises:
        ValueError: If the table or one of its lines is empty.
    """
    path = check_path(path)
    empty = [name for name, line in table.items() if not line]
    if not table or empty:
        raise ValueError(f"`table` has no windows{f' for {empty}' if empty else ''}; give at least one mIoU a line.")
    figure = Figure(figsize=(6.4, 4.2))
    axes = figure.subplots()
    colors = {"none": GREY, "magnitude": ORANGE, "wanda": BLUE}
    for index, (name, line) in enumerate(table.items()):
        windows = sorted(line)
        color = colors.get(name, OBJECT_COLORS[index % len(OBJECT_COLORS)])
        axes.plot(windows, [line[w] for w in windows], color=color, marker="os^Dv"[index % 5], label=name)
    name_axes(axes, "MLP window (hidden units)", "mIoU")
    ticks = sorted({window for line in table.values() for window in line})
    axes.set_xticks(ticks, [str(window) for window in ticks], rotation=45 if len(ticks) > 6 else 0)
    axes.legend(title="order of the units")
    return save(figure, path)


@style.context(["default", STYLE])
def plot_subnet(space: "ElasticSpace", subnets: "Mapping[str, Subnet]", path: str | Path) -> Path:
    """The architecture of subnets, one panel each: width of every layer, removed layers hatched.

    Args:
        space (`ElasticSpace`): The space they are points of. Attention widths (over all heads) are drawn where the
            space has attention windows.
        subnets (`Mapping[str, Subnet]`): By name.
        path (`str` or `Path`): The picture, `.png` (or `.pdf`, `.svg`). Its folder is made.

    Returns:
        `Path`: Where the picture is.

    Raises:
        ValueError: If there are no subnets, or one is not a point of the space.
    """
    path = check_path(path)
    if not subnets:
        raise ValueError("`subnets` is empty; give at least one subnet by its name.")
    for subnet in subnets.values():
        space.validate(subnet)
    depth = space.num_hidden_layers
    per_layer = 0.75 if space.attention_windows else 0.55
    figure = Figure(figsize=(min(max(6.0, 1 + per_layer * depth), 16), 0.9 + 1.7 * len(subnets)))
    grid = figure.subplots(len(subnets), 1, sharex=True, sharey=True, squeeze=False)
    for axes, (name, subnet) in zip(grid[:, 0], subnets.items()):
        _draw_subnet(axes, space, subnet)
        axes.set_title(f"{name}: {len(subnet.layers)} of {depth} layers", loc="left")
    grid[-1, 0].set_xticks(range(depth))
    grid[-1, 0].set_xlabel("Layer")
    figure.supylabel("Width (channels)" if space.attention_windows else "Width (hidden units)", fontsize=10)
    handles = [Patch(color=BLUE, label="MLP"), Patch(color=BLACK, label="MLP, protected layer")]
    if space.attention_windows:
        handles.append(Patch(color=ORANGE, label="attention, all heads"))
    handles.append(Patch(facecolor="white", edgecolor=GREY, hatch="////", label="removed layer"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
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


def _draw_single_removals(axes: Axes, ranking: Mapping[str, Any]) -> None:
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
    name_axes(axes, "Layer removed", "mIoU")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)


def _draw_greedy_removals(axes: Axes, ranking: Mapping[str, Any]) -> None:
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
    axes.plot(counts, [r["quality"] for r in removals], color=BLUE, marker="o", label="mIoU")
    proposed = [r for r in ranking["greedy"] if set(r["layers"]) == set(ranking["prunable_layers"])]
    for r in proposed:
        ring: dict[str, Any] = {"facecolors": "none", "edgecolors": VERMILLION, "linewidths": 1.8}
        axes.scatter(len(r["layers"]), r["quality"], s=130, label="proposal", zorder=4, **ring)
    axes.set_xticks(counts, [f"{count}\n{name}" for count, name in zip(counts, names)])
    axes.grid(False)
    name_axes(axes, "Number of layers removed\n(+ the layer removed at this step)", "mIoU")
    axes.set_ylim(0, 1.08 * max(r["quality"] for r in removals))
    (lines, names), (bars, bar_names) = axes.get_legend_handles_labels(), sizes.get_legend_handles_labels()
    handles, texts = [*lines, *bars], [*names, *bar_names]
    axes.legend(handles, texts, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, scatteryoffsets=[0.5])


def _draw_log_panel(axes: Axes, prefix: str, curves: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    for index, (key, (steps, values)) in enumerate(curves.items()):
        name = key.removeprefix(prefix).strip("_") or prefix
        color = NAMED_COLORS.get(name, (BLUE, ORANGE, SKY, YELLOW, GREY)[index % 5])
        if prefix == "loss":
            axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
            axes.plot(steps, smooth(values), color=color, label=name)
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


def _draw_subnet(axes: Axes, space: "ElasticSpace", subnet: "Subnet") -> None:
    elastic_attention = bool(space.attention_windows)
    shift, width = (0.2, 0.4) if elastic_attention else (0.0, 0.7)
    removed = [layer for layer in range(space.num_hidden_layers) if layer not in subnet.layers]
    axes.bar(
        removed, space.mlp_dim, 2 * shift + width, fill=False, edgecolor=LIGHT, hatch="////", linewidth=0.8, zorder=2
    )
    colors = [BLACK if layer in space.protected_layers else BLUE for layer in subnet.layers]
    bars = axes.bar([layer - shift for layer in subnet.layers], subnet.mlp_dim, width, color=colors, zorder=3)
    axes.bar_label(bars, fontsize=7, padding=1)
    if elastic_attention:
        widths = [space.num_attention_heads * head for head in subnet.head_dim]
        bars = axes.bar([layer + shift for layer in subnet.layers], widths, width, color=ORANGE, zorder=3)
        axes.bar_label(bars, fontsize=7, padding=1)
    axes.set(xlim=(-0.6, space.num_hidden_layers - 0.4), ylim=(0, 1.18 * space.mlp_dim))
    axes.grid(False, axis="x")
