"""Training of one network after a supernet's: what its section of a recipe leaves open is taken from `train`."""

from dataclasses import dataclass, fields, replace
from typing import Literal

from ..fields import Count, Fraction, NonNegative, Positive, Whole
from .finetune import FinetuneArguments
from .losses import LossArguments
from .sandwich import SandwichArguments


@dataclass
class SamFinetuneArguments(FinetuneArguments):
    """Plain training of one SAM. What is null is taken from `train`, so that a subnet goes on as it was trained."""

    max_steps: Count | None = None  # type: ignore[assignment]
    """Optimiser steps; null: as many as `train.max_steps`."""
    learning_rate: Positive | None = None  # type: ignore[assignment]
    """AdamW's peak learning rate; null: that of `train`."""
    lr_schedule: Literal["exponential", "cosine", "linear"] | None = None  # type: ignore[assignment]
    """Shape of the decay from the peak to its floor at the last step; null: that of `train`."""
    min_lr_ratio: Fraction | None = None  # type: ignore[assignment]
    """Floor of the learning rate, as a fraction of the peak; null: that of `train`."""
    warmup_steps: Whole | None = None  # type: ignore[assignment]
    """Steps of linear warm-up before the decay; null: the same share of the steps as in `train`."""
    weight_decay: NonNegative | None = None  # type: ignore[assignment]
    """AdamW's weight decay; null: that of `train`."""
    max_grad_norm: Positive | None = None
    """Clip the gradient norm of each parameter group to this; null: as in `train`."""
    gradient_accumulation_steps: Count | None = None  # type: ignore[assignment]
    """Batches a step; null: as in `train`."""
    mixed_precision: Literal["no", "fp16", "bf16"] | None = None  # type: ignore[assignment]
    """Autocast of forward and loss; null: as in `train`."""
    gradient_checkpointing: bool | None = None  # type: ignore[assignment]
    """Recompute the encoder layers in the backward pass to save memory; null: as in `train`."""
    save_steps: Whole | None = None  # type: ignore[assignment]
    """Write a checkpoint every this many steps, 0: none; null: as in `train`."""
    loss: LossArguments | None = None  # type: ignore[assignment]
    """Loss terms, without distillation, which needs a larger subnet in the same step; null: those of `train`."""

    def fill(self, train: SandwichArguments) -> None:
        """Take what is null from `train`.

        Raises:
            ValueError: If the warm-up is then as long as the training.
        """
        if self.warmup_steps is None and self.max_steps is not None:
            self.warmup_steps = train.warmup_steps * self.max_steps // train.max_steps
        if self.loss is None:
            self.loss = replace(train.loss, distillation_weight=0.0)
        for field in fields(self):
            if getattr(self, field.name) is None and field.name not in ("ema_decay", "resume_from_checkpoint"):
                setattr(self, field.name, getattr(train, field.name))
        self.check_warmup()


@dataclass
class RecoverArguments(SamFinetuneArguments):
    """Training of the found subnet alone, after it was extracted."""

    enabled: bool = True
    """Run this stage in the pipeline."""


__all__ = ["RecoverArguments", "SamFinetuneArguments"]
