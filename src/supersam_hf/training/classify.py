"""A step of classifier training: mixed images, soft targets, the loss, distillation."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from ..fields import BelowOne, Checked, ClosedUnitInterval, NonNegative, Positive
from .engine import Engine


__all__ = [
    "ClassificationLossArguments",
    "MixArguments",
    "classification_loss",
    "classifier_step",
    "mix_batch",
    "seed_step",
]


@dataclass
class MixArguments(Checked):
    """Mixing of two images a sample. The defaults are DeiT's; OFB's search has none (both alphas 0)."""

    mixup_alpha: NonNegative = 0.8
    """Mixup: the share of an image is drawn from Beta(alpha, alpha); 0: no mixup."""
    cutmix_alpha: NonNegative = 1.0
    """CutMix: the share of a pasted box is drawn from Beta(alpha, alpha); 0: no CutMix."""
    prob: ClosedUnitInterval = 1.0
    """Probability that a batch is mixed."""
    switch_prob: ClosedUnitInterval = 0.5
    """Probability of CutMix where both are on."""


@dataclass
class ClassificationLossArguments(Checked):
    """Label smoothing, and distillation from a teacher."""

    label_smoothing: BelowOne = 0.1
    """Share of the target spread over all labels."""
    distillation: Literal["none", "soft", "hard"] = "none"
    """soft: the teacher's probabilities; hard: its most probable label (both as in DeiT)."""
    distillation_weight: ClosedUnitInterval = 0.5
    """Share of the loss that has the teacher as its target, 0 to 1."""
    temperature: Positive = 1.0
    """Temperature of the softmaxes in soft distillation (3 in DeiT)."""


def seed_step(seed: int, step: int, process: int = 0) -> torch.Generator:
    """Seeds torch's global generators (dropout, drop path) from these three, and returns a generator for
    [`mix_batch`], so that a resumed run is the same run and processes differ."""
    derived = int(np.random.SeedSequence([seed, step, process]).generate_state(1, np.uint64)[0])
    torch.manual_seed(derived)
    return torch.Generator().manual_seed(derived)


def mix_batch(
    batch: Mapping[str, torch.Tensor], args: MixArguments, num_labels: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mixup (Zhang et al. 2018) or CutMix (Yun et al. 2019) with the reversed batch, one share for the whole batch, as
    in timm's batch mode.

    Args:
        batch (`Mapping`): `pixel_values` of shape `(batch, channels, height, width)` and `labels` of shape `(batch,)`
            in 0 to `num_labels - 1`; both stay as they are.
        generator (`torch.Generator`): On the CPU; one number is drawn from it.

    Returns:
        `tuple`: Images, and float32 targets of shape `(batch, num_labels)` whose rows add up to 1: one-hot where
        nothing was mixed, without label smoothing.
    """
    images = batch["pixel_values"]
    targets = F.one_hot(batch["labels"], num_labels).float()
    # torch has no Beta distribution that takes a generator
    rng = np.random.default_rng(int(torch.randint(2**63 - 1, (), generator=generator)))
    if not (args.mixup_alpha or args.cutmix_alpha) or rng.random() >= args.prob:
        return images, targets
    if args.cutmix_alpha and (not args.mixup_alpha or rng.random() < args.switch_prob):
        images, share = _cutmix(images, rng.beta(args.cutmix_alpha, args.cutmix_alpha), rng)
    else:
        share = rng.beta(args.mixup_alpha, args.mixup_alpha)
        images = share * images + (1 - share) * images.flip(0)
    return images, share * targets + (1 - share) * targets.flip(0)


def _cutmix(images: torch.Tensor, share: float, rng: np.random.Generator) -> tuple[torch.Tensor, float]:
    """Images with a box of the reversed batch, and the share of each image outside the box as it was clipped."""
    height, width = images.shape[-2:]
    # half sides of a box with area 1 - share and the image's aspect ratio
    half_height, half_width = (int(side * (1 - share) ** 0.5) // 2 for side in (height, width))
    y, x = int(rng.integers(height)), int(rng.integers(width))
    top, bottom = max(0, y - half_height), min(height, y + half_height)
    left, right = max(0, x - half_width), min(width, x + half_width)
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = images.flip(0)[..., top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def classification_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    args: ClassificationLossArguments,
    teacher_logits: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross-entropy with soft targets, averaged over the batch, in float32; with distillation, the share
    `distillation_weight` of the loss is one of

    - soft: `T² KL(softmax(teacher / T) ‖ softmax(logits / T))`, DeiT Eq. 2 (its code also divides by the number of
      labels, which is not done here);
    - hard: cross-entropy with the teacher's most probable label, DeiT Eq. 3.

    Args:
        logits (`torch.Tensor` of shape `(batch, num_labels)`): Of a model with a distillation head, the mean of both
            heads: both learn the same targets.
        targets (`torch.Tensor` of shape `(batch, num_labels)`): From [`mix_batch`]; smoothed here.
        teacher_logits (`torch.Tensor`, as `logits`, *optional*): The teacher's for the same (mixed) images.

    Raises:
        ValueError: If distillation is on without a teacher's logits, or they have another shape.
    """
    logits = logits.float()
    loss = F.cross_entropy(logits, targets.float(), label_smoothing=args.label_smoothing)
    if args.distillation == "none":
        return loss
    if teacher_logits is None or teacher_logits.shape != logits.shape:
        got = None if teacher_logits is None else tuple(teacher_logits.shape)
        raise ValueError(f"`teacher_logits` must have the shape of the logits, {tuple(logits.shape)}, got {got}.")
    teacher_logits = teacher_logits.detach().float()
    if args.distillation == "hard":
        imitation = F.cross_entropy(logits, teacher_logits.argmax(-1))
    else:
        student, teacher = ((x / args.temperature).log_softmax(-1) for x in (logits, teacher_logits))
        imitation = args.temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return (1 - args.distillation_weight) * loss + args.distillation_weight * imitation


def classifier_step(
    engine: Engine,
    batches: list[dict[str, torch.Tensor]],
    mix: MixArguments,
    loss_args: ClassificationLossArguments,
    teacher: torch.nn.Module | None = None,
) -> dict[str, float]:
    """One optimiser step: forward and backward of every micro-batch. Returns the mean loss."""
    accelerator, total = engine.accelerator, 0.0
    generator = seed_step(engine.args.seed, engine.global_step, accelerator.process_index)
    for i, batch in enumerate(batches):
        images, targets = mix_batch(batch, mix, engine.unwrapped.config.num_labels, generator)
        # DDP averages the gradients over processes in the last backward before a step, and only there
        with nullcontext() if i + 1 == len(batches) else engine.no_sync():
            logits = engine.model(pixel_values=images).logits
            loss = classification_loss(logits, targets, loss_args, _imitated(engine, teacher, images))
            accelerator.backward(loss / len(batches))
        total += loss.item() / len(batches)
    norm = engine.optimizer_step()
    return {"loss": total} if norm is None else {"loss": total, "grad_norm": norm}


@torch.no_grad()
def _imitated(engine: Engine, teacher: torch.nn.Module | None, images: torch.Tensor) -> torch.Tensor | None:
    """The teacher's logits, at the precision of the training."""
    if teacher is None:
        return None
    with engine.accelerator.autocast():
        return teacher(pixel_values=images).logits
