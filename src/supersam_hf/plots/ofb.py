"""The figures of an OFB search: bi-masks over the search, the found architecture, the loss terms and the work."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib import colormaps, style
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from .common import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    LIGHT,
    ORANGE,
    PURPLE,
    SKY,
    STYLE,
    VERMILLION,
    check_path,
    draw_smoothed,
    name_axes,
    read_log,
    save,
    series,
    smooth,
)


Line = Mapping[str, Any]
Architecture = Mapping[str, Any]
# Dark is early, light is late, as in the paper; white would not be seen.
TIME = ListedColormap(colormaps["viridis"](np.linspace(0.0, 0.95, 256)))
ARCHITECTURE_COLORS = (BLUE, ORANGE, GREEN, PURPLE, SKY)
# Terms of Eq. 5 to 8 as the log names them, and how a reader of the paper knows them.
TERMS = {
    "loss": "total (Eq. 8)",
    "loss_class": "classification",
    "loss_mask": "masks",
    "loss_entropy": "entropy $H(p)$",
    "loss_variance": "variance $\\Psi(p)$",
    "loss_l1": "$\\|S\\|_1$",
    "loss_budget": "budget $\\|g(V)-\\tau\\|$",
    "loss_reconstruction": "reconstruction (PMIM)",
}


@style.context(["default", STYLE])
def plot_bimask(history_path: str | Path, path: str | Path, *, submodules: Sequence[str] | None = None) -> Path:
    """How importance and bi-mask develop over the search (OFB, Fig. 5): one row a submodule, lighter is later.

    Values stand in descending order; a line ends at the number of units that were left at its step.

    Args:
        history_path (`str` or `Path`): The `history.jsonl` of a search. A last line without its newline is still
            being written and is left out.
        path (`str` or `Path`): The picture, `.png` (or `.pdf`, `.svg`). Its folder is made.
        submodules (`Sequence[str]`, *optional*): Names as in the history (`"mlp.3"`, `"attention.0"`,
            `"embedding"`); defaults to the MLP and the attention of a middle layer, or the embedding if it alone was
            searched.

    Returns:
        `Path`: Where the picture is.

    Raises:
        ValueError: If the history is empty, or has no such submodule.
    """
    path = check_path(path)
    history = _read_history(Path(history_path))
    known = list(history[0]["submodules"])
    names = _middle(known) if submodules is None else list(submodules)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(f"`submodules` must name some of {known}, got {unknown or names}.")
    norm = Normalize(history[0]["step"], max(history[-1]["step"], history[0]["step"] + 1))
    figure = Figure(figsize=(8.4, 2.9 * len(names)))
    grid = figure.subplots(len(names), 2, sharey="row", squeeze=False)
    for row, name in zip(grid, names):
        for axes, key, word, symbol in zip(row, ("importance", "bimask"), ("importance", "bi-mask"), "Sm"):
            _draw_scores(axes, history, name, key, norm)
            name_axes(axes, f"Unit, highest ${symbol}$ first", "", f"{_title(name)}: {word} ${symbol}$")
        row[0].set_ylabel("Score")
    figure.colorbar(ScalarMappable(norm, TIME), ax=list(grid.flat), label="Step (lighter is later)", pad=0.02)
    return save(figure, path)


@style.context(["default", STYLE])
def plot_architecture(architectures: Mapping[str, Architecture], path: str | Path) -> Path:
    """Found architectures beside the original's (OFB, Fig. 6): heads, Q-K-V channels, MLP widths, embedding width.

    Args:
        architectures (`Mapping[str, Mapping]`): By name, the original first and at least one more: `hidden_size` (or
            `hidden_sizes` of the stages), and
            one number a layer in `num_attention_heads`, `head_dim` and `intermediate_size`. Each found one gets a
            grid of heads and layers, with the Q-K-V channels of a head in its cell.
        path (`str` or `Path`): The picture, `.png` (or `.pdf`, `.svg`). Its folder is made.

    Returns:
        `Path`: Where the picture is.

    Raises:
        ValueError: If there are fewer than two architectures, or they have not the same number of layers.
    """
    path = check_path(path)
    _check_architectures(architectures)
    (_, original), *found = architectures.items()
    depth, most_heads = len(original["head_dim"]), max(original["num_attention_heads"])
    bars = len(architectures) * len(stream_widths(original))
    heights = [*[0.85 + 0.34 * most_heads] * len(found), 2.4, 0.75 + 0.24 * bars]
    figure = Figure(figsize=(min(max(6.4, 1.4 + 0.52 * depth), 16), 0.5 + sum(heights)))
    panels = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axes, (name, architecture) in zip(panels, found):
        _draw_heads(axes, architecture, original)
        axes.set_title(f"{name}: Q-K-V channels of each head", loc="left")
    _draw_mlp(panels[-2], architectures)
    _draw_embedding(panels[-1], architectures)
    return save(figure, path)


@style.context(["default", STYLE])
def plot_losses(log_path: str | Path, path: str | Path) -> Path:
    """Each loss term of a search in a panel of its own, as it was weighted in the total.

    Terms are drawn faintly as logged and boldly as a centred running mean over a twentieth of the lines.

    Args:
        log_path (`str` or `Path`): The `log.jsonl` of a search; a last line without its newline is left out.
        path (`str` or `Path`): The picture, `.png` (or `.pdf`, `.svg`). Its folder is made.

    Returns:
        `Path`: Where the picture is.

    Raises:
        ValueError: If the log has no loss, or a line is not a JSON object with a `step`.
    """
    path = check_path(path)
    lines = read_log(Path(log_path))
    keys = list(dict.fromkeys(key for line in lines for key in line if key.startswith("loss")))
    if not keys:
        raise ValueError(f'{log_path} has no line with a loss (a key that begins with "loss"); was anything searched?')
    keys.sort(key=lambda key: list(TERMS).index(key) if key in TERMS else len(TERMS))
    columns = min(4, len(keys))
    rows = math.ceil(len(keys) / columns)
    figure = Figure(figsize=(2.9 * columns, 0.3 + 2.2 * rows))
    panels = figure.subplots(rows, columns, sharex=True, squeeze=False).flatten()
    for axes, key in zip(panels, keys):
        draw_smoothed(axes, *series(lines, key), BLUE)
        axes.set_title(TERMS.get(key, key))
    panels[0].xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for axes in panels[len(keys) :]:
        axes.set_axis_off()
    for axes in panels[max(0, len(keys) - columns) : len(keys)]:  # the lowest of each column
        axes.tick_params(labelbottom=True)
    figure.supxlabel("Step", fontsize=10)
    return save(figure, path)


@style.context(["default", STYLE])
def plot_macs(
    log_path: str | Path,
    path: str | Path,
    *,
    kind: Literal["macs", "params"] = "macs",
    budget: float | None = None,
    pruned_at: Sequence[int] = (),
) -> Path:
    """How the work falls during a search: g(V), the physical network and the budget; below, seconds a step.

    Args:
        log_path (`str` or `Path`): The `log.jsonl` of a search: `macs` (g(V)) and `macs_live` (the network as it
            stands), both as a fraction of the original, and `step_seconds`.
        kind (`str`): "params" for a search whose budget is in parameters, and `params` and `params_live` its log.
        path (`str` or `Path`): The picture, `.png` (or `.pdf`, `.svg`). Its folder is made.
        budget (`float`, *optional*): As a fraction of the original, in (0, 1].
        pruned_at (`Sequence[int]`, *optional*): Steps at which units were removed; ticks along the bottom.

    Returns:
        `Path`: Where the picture is.

    Raises:
        ValueError: If `kind` or `budget` is out of range, or the log lacks one of the three.
    """
    path = check_path(path)
    if kind not in ("macs", "params"):
        raise ValueError(f"`kind` must be 'macs' or 'params', got {kind!r}.")
    if budget is not None and not 0 < budget <= 1:
        raise ValueError(f"`budget` must be a fraction of the original in (0, 1], got {budget}.")
    lines = read_log(Path(log_path))
    needed = (kind, f"{kind}_live", "step_seconds")
    missing = [key for key in needed if not any(key in line for line in lines)]
    if missing:
        raise ValueError(f"{log_path} has no line with {missing}; is it the log of a search?")
    figure = Figure(figsize=(7.2, 5.2))
    work, seconds = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    work.plot(*series(lines, kind), color=BLUE, label="$g(V)$")
    work.plot(*series(lines, f"{kind}_live"), color=ORANGE, drawstyle="steps-post", label="network as it stands")
    if budget is not None:
        work.axhline(budget, color=BLACK, linestyle=(0, (4, 3)), linewidth=1, label=f"budget ({budget:.0%})")
    name_axes(work, "", f"{ {'macs': 'MACs', 'params': 'Parameters'}[kind] }, fraction of the original")
    work.set_ylim(bottom=0)
    steps, values = series(lines, "step_seconds")
    seconds.plot(steps, values, color=GREY, alpha=0.35, linewidth=0.8)
    seconds.plot(steps, smooth(values), color=VERMILLION)
    name_axes(seconds, "Step", "Seconds a step")
    seconds.set_ylim(bottom=0)
    if pruned_at:
        # x in data, y in shares of the panel: ticks along the bottom
        ticks = work.get_xaxis_transform()
        work.plot(pruned_at, [0.015] * len(pruned_at), "|", color=GREY, transform=ticks, label="units removed")
    seconds.xaxis.set_major_locator(MaxNLocator(integer=True))
    work.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4)
    return save(figure, path)


def _read_history(path: Path) -> list[dict[str, Any]]:
    history = read_log(path)
    if not history or "submodules" not in history[0]:
        raise ValueError(f"{path} has no line with `submodules`; is it the history of a search?")
    return history


def _middle(names: Sequence[str]) -> list[str]:
    """The MLP and the attention of a middle layer, where they were searched."""
    of_kind = [[name for name in names if name.startswith(kind)] for kind in ("mlp.", "attention.")]
    return [kind[len(kind) // 2] for kind in of_kind if kind] or list(names[:1])


def _title(name: str) -> str:
    kind, _, layer = name.partition(".")
    return f"{ {'mlp': 'MLP', 'attention': 'Attention', 'embedding': 'Embedding'}.get(kind, kind) } {layer}".strip()


def _width(architecture: Architecture, name: str) -> int:
    """Units of a submodule: hidden units of an MLP, channels over all heads, or channels of the embedding."""
    kind, _, layer = name.partition(".")
    if kind == "embedding":
        return stream_widths(architecture)[int(layer or 0)]
    if kind == "mlp":
        return architecture["intermediate_size"][int(layer)]
    return architecture["num_attention_heads"][int(layer)] * architecture["head_dim"][int(layer)]


def _draw_scores(axes: Axes, history: Sequence[Line], name: str, key: str, norm: Normalize) -> None:
    for line in history:
        # of heads and channels the bi-mask has another order than the importance
        values = sorted(line["submodules"][name][key], reverse=True)
        # The history keeps at most so many values a submodule: they stand evenly over its units.
        units = np.linspace(0, _width(line["architecture"], name) - 1, len(values))
        axes.plot(units, values, color=TIME(norm(line["step"])), linewidth=1.2)
    axes.set_xlim(left=0)
    axes.set_ylim(-0.03, 1.03)


def _check_architectures(architectures: Mapping[str, Architecture]) -> None:
    if len(architectures) < 2:
        raise ValueError("`architectures` needs the original and at least one more, by name.")
    for name, architecture in architectures.items():
        depths = {len(architecture[key]) for key in ("num_attention_heads", "head_dim", "intermediate_size")}
        first = len(next(iter(architectures.values()))["head_dim"])
        if depths != {first}:
            raise ValueError(f"Architecture {name!r} has {sorted(depths)} layers; all need {first}.")


def _draw_heads(axes: Axes, found: Architecture, original: Architecture) -> None:
    """Heads over layers: kept ones tinted by their share of the original channels, removed ones hatched."""
    fill = colormaps["Blues"]
    for layer, (heads, channels) in enumerate(zip(found["num_attention_heads"], found["head_dim"])):
        share = channels / original["head_dim"][layer]
        for head in range(original["num_attention_heads"][layer]):
            kept = head < heads
            look: dict[str, Any] = {"facecolor": fill(0.15 + 0.6 * share), "edgecolor": "white", "linewidth": 1.5}
            if not kept:
                look = {"facecolor": "white", "edgecolor": LIGHT, "hatch": "////", "linewidth": 0.6}
            axes.add_patch(Rectangle((layer - 0.5, head + 0.5), 1, 1, **look))
            if kept:
                color = "white" if share > 0.7 else BLACK
                axes.text(layer, head + 1, str(channels), ha="center", va="center", fontsize=8, color=color)
    depth, most = len(found["head_dim"]), max(original["num_attention_heads"])
    axes.set(xlim=(-0.5, depth - 0.5), ylim=(0.5, most + 0.5), xticks=range(depth), yticks=range(1, most + 1))
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    name_axes(axes, "Layer", "Head")


def _draw_mlp(axes: Axes, architectures: Mapping[str, Architecture]) -> None:
    (name, original), *found = architectures.items()
    layers, width = np.arange(len(original["head_dim"])), 0.76 / len(found)
    axes.bar(layers, original["intermediate_size"], 0.86, fill=False, edgecolor=GREY, linewidth=0.9, zorder=2)
    handles = [Patch(facecolor="white", edgecolor=GREY, label=name)]
    for index, (name, architecture) in enumerate(found):
        color = ARCHITECTURE_COLORS[index % len(ARCHITECTURE_COLORS)]
        places = layers + (index - (len(found) - 1) / 2) * width
        bars = axes.bar(places, architecture["intermediate_size"], width, color=color, zorder=3)
        if len(found) == 1:
            axes.bar_label(bars, fontsize=7, padding=1, zorder=4)
        handles.append(Patch(color=color, label=name))
    axes.set(xlim=(-0.5, len(layers) - 0.5), xticks=layers, ylim=(0, 1.1 * max(original["intermediate_size"])))
    axes.grid(False, axis="x")
    axes.set_title("MLP width (hidden units)", loc="left")
    axes.set_xlabel("Layer")
    axes.legend(handles=handles, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(handles))


def stream_widths(architecture: Architecture) -> list[int]:
    """Channels of the embedding, or of every stage."""
    return architecture["hidden_sizes"] if "hidden_sizes" in architecture else [architecture["hidden_size"]]


def _draw_embedding(axes: Axes, architectures: Mapping[str, Architecture]) -> None:
    """A bar for every architecture, stage by stage where there are stages."""
    widths = {name: stream_widths(architecture) for name, architecture in architectures.items()}
    stages = len(next(iter(widths.values())))
    colors = ["white", *(ARCHITECTURE_COLORS[i % len(ARCHITECTURE_COLORS)] for i in range(len(widths) - 1))]
    edges = [GREY, *colors[1:]]
    labels = [f"stage {i}: {name}" if stages > 1 else name for i in range(stages) for name in widths]
    lengths = [widths[name][i] for i in range(stages) for name in widths]
    bars = axes.barh(labels, lengths, 0.7, color=colors * stages, edgecolor=edges * stages, linewidth=0.9)
    axes.bar_label(bars, fontsize=8, padding=2)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.1 * max(lengths))
    axes.grid(False, axis="y")
    axes.set_title("Embedding width (channels)", loc="left")


__all__ = ["plot_architecture", "plot_bimask", "plot_losses", "plot_macs", "stream_widths"]
