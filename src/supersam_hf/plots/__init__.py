"""Every figure of the project: plain data in, a picture file out. No pyplot, so nothing is shown or kept open."""

from .benchmarks import plot_benchmarks
from .common import BLACK, OBJECT_COLORS, ORANGE, VERMILLION
from .layer_ranking import plot_layer_ranking
from .ofb import plot_architecture, plot_bimask, plot_losses, plot_macs
from .overlays import overlay, plot_overlays
from .pareto import plot_pareto
from .samples import plot_samples
from .search import plot_search
from .training import plot_training
from .widths import plot_subnet, plot_windows


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
