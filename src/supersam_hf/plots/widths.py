"""Widths: mIoU by MLP window, and what a subnet keeps of each layer."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from .common import (
    BLACK,
    BLUE,
    GREY,
    LIGHT,
    OBJECT_COLORS,
    ORANGE,
    STYLE,
    check_path,
    name_axes,
    save,
)


if TYPE_CHECKING:
    from ..models.supersam.elastic_supersam import ElasticSpace, Subnet


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
