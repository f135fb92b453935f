"""Every value of one-shot pruning."""

from dataclasses import dataclass
from typing import Any, Literal

from ..fields import Checked, Count, FieldError, Fraction, Seed, Whole
from ..limits import LatencyLimit, check_limits, parse_latency, parse_limit
from .allocation import Scope
from .importance import Method


@dataclass
class PruneArguments(Checked):
    """One-shot pruning: an importance for every unit, the least important leave until the budget holds."""

    method: Method = "taylor"
    """Importance: taylor (first-order change of the loss), wanda (weights times inputs), magnitude, random."""
    scope: Scope = "uniform"
    """uniform: every layer keeps the same share; isomorphic: units are ranked within their kind over all layers;
    global: all together, by importance per cost saved."""
    mlp: bool = True
    """Prune the hidden units of MLPs."""
    attention: Literal["channels", "heads", "none"] = "channels"
    """Prune the Q-K-V channels of all heads, or whole heads, or neither."""
    embedding: bool = False
    """Prune the channels of the residual stream too; it costs most accuracy per unit. Not for SAM."""
    drop_layers: Whole = 0
    """Whole layers that leave first, the least important; the rest is narrowed to the budget. Not for Swin."""
    reconstruct: bool = True
    """Fit the linears that read pruned units by least squares, so that what stays makes up for what leaves."""
    max_macs: float | str | None = None
    """Budget in multiply-accumulates per image: a share of the original's (0.5, 50%) or a count (1.3e9, 1.3G); null,
    and no max_params: the budget of `search`."""
    max_params: float | str | None = None
    """Budget in parameters, instead: a share of the original's (0.5, 50%) or a count (60e6, 60M)."""
    max_latency_ms: float | str | None = None
    """Budget in measured time of one image on this device, instead: milliseconds (12.5) or a share of the original's
    (60%)."""
    min_ratio: Fraction = 0.1
    """Least share of its units that a layer keeps."""
    round_to: Count = 1
    """Widths are rounded up to a multiple of this; GPUs and int8 kernels like 8."""
    num_images: Count = 320
    """Training images for Taylor, Wanda, `reconstruct` and `drop_layers`."""
    seed: Seed = 0
    """Draws the importance of `random`."""

    def __post_init__(self) -> None:
        for name in ("max_macs", "max_params"):
            setattr(self, name, parse_limit(name, getattr(self, name), "the original"))
        super().__post_init__()
        check_limits(self)
        if not self.mlp and self.attention == "none" and not self.embedding and not self.drop_layers:
            raise FieldError("mlp", "is off, and so is all else: there is nothing to prune.")

    def adopt_budget(self, search: Any) -> None:
        """Takes the budget of a search where it has none of its own, so that a recipe states it once."""
        if not self.has_budget:
            self.max_macs, self.max_params = search.max_macs, search.max_params
            self.max_latency_ms = search.max_latency_ms

    @property
    def has_budget(self) -> bool:
        """Whether any budget is stated."""
        return (self.max_macs, self.max_params, self.max_latency_ms) != (None, None, None)

    @property
    def needs_images(self) -> bool:
        """Whether images are looked at."""
        return self.method in ("taylor", "wanda") or self.reconstruct or self.drop_layers > 0

    @property
    def limits(self) -> tuple[float | None, float | None]:
        """`max_macs` and `max_params` as numbers."""
        return parse_limit("max_macs", self.max_macs), parse_limit("max_params", self.max_params)

    @property
    def latency(self) -> LatencyLimit | None:
        """`max_latency_ms`, read."""
        return parse_latency("max_latency_ms", self.max_latency_ms)


__all__ = ["PruneArguments"]
