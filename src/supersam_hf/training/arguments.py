"""What every training shares: its arguments, and the learning rate that they make."""

import math
from dataclasses import dataclass, field
from typing import Literal

from ..fields import Checked, Count, FieldError, Fraction, NonNegative, Place, Positive, Seed, Text, Whole


# What may differ between a run and its continuation.
FREE = {"logging_steps", "eval_steps", "save_steps", "save_total_limit", "resume_from_checkpoint", "report_to"}


@dataclass
class EngineArguments(Checked):
    """What every training shares."""

    max_steps: Count = 1000
    """Optimiser steps (in sequential mode: batches)."""
    learning_rate: Positive = 1e-5
    """AdamW's peak learning rate."""
    lr_schedule: Literal["exponential", "cosine", "linear"] = "exponential"
    """Shape of the decay from the peak to its floor at the last step."""
    min_lr_ratio: Fraction = 0.01
    """Floor of the learning rate, as a fraction of the peak (1 % in the paper)."""
    warmup_steps: Whole = 0
    """Steps of linear warm-up before the decay."""
    weight_decay: NonNegative = 0.0
    """AdamW's weight decay."""
    max_grad_norm: Positive | None = None
    """Clip the gradient norm of each parameter group to this; null: no clipping."""
    gradient_accumulation_steps: Count = 1
    """Batches a step."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """Autocast of forward and loss. bf16 pays on GPUs and on CPUs with AMX."""
    gradient_checkpointing: bool = False
    """Recompute the encoder layers in the backward pass to save memory."""
    logging_steps: Count = 10
    """Log every this many steps."""
    eval_steps: Whole = 0
    """Evaluate every this many steps; 0: only what the caller evaluates."""
    save_steps: Whole = 200
    """Write a checkpoint every this many steps; 0: none."""
    save_total_limit: Count = 2
    """Checkpoints kept; the oldest go first."""
    resume_from_checkpoint: Place | None = "latest"
    """latest: go on from the newest sound checkpoint in the output folder, if there is any; a checkpoint's folder: go
    on from that one; null: begin anew."""
    report_to: list[Text] = field(default_factory=list)
    """Accelerate trackers: tensorboard, wandb, trackio, ... (each must be installed)."""
    seed: Seed = 0
    """Seed of everything random in training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_warmup()

    def check_warmup(self) -> None:
        """Raise `ValueError` for a warm-up as long as the training; of either that is not given yet, nothing."""
        if self.warmup_steps is None or self.max_steps is None:
            return
        if self.warmup_steps >= self.max_steps:
            text = f"must lie in 0 to max_steps - 1 = {self.max_steps - 1}, got {self.warmup_steps}."
            raise FieldError("warmup_steps", text)


def lr_factor(step: int, args: EngineArguments) -> float:
    """Learning rate at `step` as a fraction of the peak; the floor is reached at the last step and kept."""
    if step < args.warmup_steps:
        return (step + 1) / (args.warmup_steps + 1)
    progress = min(1.0, (step - args.warmup_steps) / max(1, args.max_steps - 1 - args.warmup_steps))
    floor = args.min_lr_ratio
    if args.lr_schedule == "exponential":
        return floor**progress
    fall = progress if args.lr_schedule == "linear" else (1 - math.cos(math.pi * progress)) / 2
    return 1 - (1 - floor) * fall


__all__ = ["FREE", "EngineArguments", "lr_factor"]
