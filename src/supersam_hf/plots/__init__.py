"""Every figure of the project: plain data in, a picture file out. No pyplot, so nothing is shown or kept open."""

from .benchmarks import plot_benchmarks
from .common import BLACK, OBJECT_COLORS, ORANGE, VERMILLION
from .ofb import plot_architecture, plot_bimask, plot_losses, plot_macs
from .samples import plot_samples
from .supersam import (
    overlay,
    plot_layer_ranking,
    plot_overlays,
    plot_pareto,
    plot_search,
    plot_subnet,
    plot_training,
    plot_windows,
)


__all__ = [
    "BLACK",
    "OBJECT_COLORS",
    "ORANGE",
    "VERMILLION",
    "overlay",
    "plot_architecture",
    "plot_benchmarks",
    "plot_bimask",
    "plot_layer_ranking",
    "plot_losses",
    "plot_macs",
    "plot_overlays",
    "plot_pareto",
    "plot_samples",
    "plot_search",
    "plot_subnet",
    "plot_training",
    "plot_windows",
]
