"""Every value of a bi-mask search, with the presets for those in which OFB's paper and its released code differ."""

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from ..fields import (
    BelowOne,
    ClosedUnitInterval,
    Count,
    FieldError,
    Finite,
    Fraction,
    NonNegative,
    Place,
    Positive,
)
from ..limits import LatencyLimit, check_limits, parse_latency, parse_limit
from .arguments import EngineArguments
from .classify import ClassificationLossArguments, MixArguments


# What a null stands for. Where the paper gives no value, both have the released one.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "lambda_start": 1.0,
        "lambda_end": 0.0,
        "ramp": 1.0,
        "score_mean": 3.0,
        "variance_per_cell": False,
        "squared_budget": False,
        "balance_reconstruction": False,
        "mask_position": "before",
    },
    "official": {
        "lambda_start": 0.99,
        "lambda_end": 0.10,
        "ramp": 0.4,
        "score_mean": 0.0,
        "variance_per_cell": True,
        "squared_budget": True,
        "balance_reconstruction": True,
        "mask_position": "after",
    },
}


@dataclass
class MaskSearchArguments(EngineArguments):
    """What every bi-mask search has: weights, importance scores and architecture parameters learned at once."""

    preset: Literal["paper", "official"] = "paper"
    """What the nulls below stand for where paper and released code differ; in a recipe also what an empty `space` is
    (released: heads [2, null, 2], embedding_max_step 12; Table 1 for both: give embedding_max_step 10000)."""
    max_macs: float | str | None = None
    """Budget in multiply-accumulates per image: a share of the original's (0.5, 50%) or a count (1.3e9, 1.3G)."""
    max_params: float | str | None = None
    """Budget in parameters, instead: a share of the original's (0.5, 50%) or a count (60e6, 60M)."""
    max_latency_ms: float | str | None = None
    """Budget in measured time of one image on this device, instead: milliseconds (12.5) or a share of the original's
    (60%)."""
    search_steps: Count | None = None
    """Steps until everything is decided and the budget holds; the rest trains what was found. null: half of
    max_steps, as released."""
    learning_rate: Positive = 2.5e-4
    """AdamW's peak rate of the weights, for 256 images a step (released: 1e-3 at 1,024)."""
    score_learning_rate: Positive = 2.5e-4
    """Peak rate of the importance scores."""
    alpha_learning_rate: Positive = 2.5e-4
    """Peak rate of the architecture parameters. In a search of hundreds of steps it must be far higher: p has to move
    from about 1/n to 0.2/n."""
    weight_decay: NonNegative = 1e-3
    """AdamW's weight decay of weights, architecture parameters and decoder; none on scores, biases, norms, tokens."""
    lr_schedule: Literal["exponential", "cosine", "linear"] = "cosine"
    """Shape of the decay, of all rates."""
    max_grad_norm: Positive | None = 1.0
    """Clip the gradient norm of each parameter group to this; null: no clipping."""
    prune_steps: Count | None = None
    """Steps between prunings (Delta T); null: a third of an epoch."""
    eta: Fraction = 0.2
    """A cell leaves when its probability is at most this times the mean of the live ones."""
    entropy_weight: NonNegative = 0.5
    """mu_1 of the entropy H."""
    variance_weight: NonNegative = 0.5
    """mu_1 of the variance term Psi."""
    budget_weight: NonNegative = 5.0
    """mu_2 of the distance from the budget."""
    l1_attention: NonNegative = 2e-4
    """mu_3 of the L1 norm of the importance scores of attention."""
    l1_other: NonNegative = 5e-5
    """mu_3 of the L1 norm of those of MLPs and embedding."""
    lambda_start: ClosedUnitInterval | None = None
    """Weight of the importance score in the bi-mask at the first step; null: the preset's (1, official 0.99)."""
    lambda_end: ClosedUnitInterval | None = None
    """The same at the end of its ramp; null: the preset's (0, official 0.1)."""
    ramp: Fraction | None = None
    """Share of the search over which lambda and the masking ratio change; null: the preset's (1, official 0.4)."""
    score_mean: Finite | None = None
    """Mean of the initial scores before the sigmoid; null: the preset's (3, official 0: everything halved)."""
    score_std: NonNegative = 0.2
    """Their standard deviation."""
    variance_per_cell: bool | None = None
    """Divide Psi by the number of cells; null: the preset's (official true)."""
    squared_budget: bool | None = None
    """Square the distance from the budget; null: the preset's (official true)."""
    ordinal: bool = False
    """Ordinal weight sharing, the paper's baseline: units are ranked by index, not by importance."""

    def __post_init__(self) -> None:
        for name in ("max_macs", "max_params"):
            setattr(self, name, parse_limit(name, getattr(self, name), "the original"))
        super().__post_init__()
        check_limits(self)
        for name, value in PRESETS[self.preset].items():
            if getattr(self, name, value) is None:
                setattr(self, name, value)
        if self.search_steps is None:
            self.search_steps = max(1, self.max_steps // 2)
        if self.search_steps > self.max_steps:
            raise FieldError("search_steps", f"must lie in 1 to max_steps {self.max_steps}, got {self.search_steps}.")

    @property
    def limits(self) -> tuple[float | None, float | None]:
        """`max_macs` and `max_params` as numbers."""
        return parse_limit("max_macs", self.max_macs), parse_limit("max_params", self.max_params)

    @property
    def latency(self) -> LatencyLimit | None:
        """`max_latency_ms`, read."""
        return parse_latency("max_latency_ms", self.max_latency_ms)


@dataclass
class BiMaskArguments(MaskSearchArguments):
    """Bi-mask search: weights, importance scores and architecture parameters learned at once."""

    decoder_learning_rate: Positive = 2.5e-4
    """Peak rate of PMIM's decoder and mask token."""
    pmim: bool = True
    """Progressive masked image modelling."""
    mask_ratio_start: ClosedUnitInterval = 0.05
    """Share of masked patches at the first step."""
    mask_ratio_end: ClosedUnitInterval = 0.25
    """The same at the end of the ramp; equal to the start for a constant ratio."""
    mask_position: Literal["before", "after"] | None = None
    """Mask patches before or after positions are added; null: the preset's (before, official after)."""
    reconstruction_weight: NonNegative = 1.0
    """Weight of the reconstruction loss."""
    balance_reconstruction: bool | None = None
    """Scale the reconstruction loss to the classification loss at every step; null: the preset's (official true)."""
    drop_path_rate: BelowOne = 0.1
    """Stochastic depth of the last layer, in [0, 1)."""
    mix: MixArguments = field(default_factory=lambda: MixArguments(mixup_alpha=0.0, cutmix_alpha=0.0))
    """Mixup and CutMix while searching (released: none)."""
    mix_after: MixArguments = field(default_factory=MixArguments)
    """Mixup and CutMix after the search, for the rest of the steps."""
    teacher: Place | None = None
    """Classifier to distil from (Hub id or folder), with the same labels; needs `loss.distillation`."""
    loss: ClassificationLossArguments = field(default_factory=ClassificationLossArguments)
    """Label smoothing and distillation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teacher is not None and self.loss.distillation == "none":
            raise FieldError("teacher", "is given, but `loss.distillation` is none: choose soft or hard.")


def open_fields(args: type[MaskSearchArguments]) -> list[str]:
    """Fields whose null is filled in, by the preset or by `max_steps`."""
    names = {one.name for one in fields(args)}
    return ["search_steps", *(name for name in PRESETS["paper"] if name in names)]


__all__ = ["PRESETS", "BiMaskArguments", "MaskSearchArguments", "open_fields"]
