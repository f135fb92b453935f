"""From image embeddings to the means over objects that are reported."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator

from .decoding import EmbeddedPrompts, decode
from .targets import Targets


NO_OBJECT = (
    "No evaluation image shows an object: make `data.min_area` smaller or `data.crop_eval` larger, take more images, "
    "or see what `data.on_error: skip` left out."
)


@dataclass(frozen=True)
class EvaluationResult:
    """Means over objects, each in [0, 1].

    Args:
        miou (`float`): IoU of the single mask (mask token 0), the one that training trains.
        miou_oracle (`float` or None): IoU of the best of the three multimask outputs, picked by the ground truth.
        miou_predicted (`float` or None): IoU of the one of the three whose predicted IoU is highest.
        num_objects (`int`): Objects evaluated.
        images (`list[tuple[float, int]]`, *optional*): Of each image that shows an object, in order, the sum of its
            objects' IoUs and their number; None where processes share the images.
    """

    miou: float
    miou_oracle: float | None
    miou_predicted: float | None
    num_objects: int
    images: list[tuple[float, int]] | None = field(default=None, compare=False, repr=False)


@contextmanager
def evaluating(model: Any, accelerator: Accelerator | None) -> Iterator[None]:
    """The model in eval mode, without gradients, and in bf16 where the accelerator says so."""
    training = model.training
    model.eval()
    bf16 = accelerator is not None and accelerator.mixed_precision == "bf16"
    try:
        with torch.inference_mode(), torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            yield
    finally:
        model.train(training)


def no_sums(multimask: bool) -> torch.Tensor:
    """What `summed_ious` is added to."""
    return torch.zeros(4 if multimask else 2, dtype=torch.float64)


def object_ious(
    model: Any, embeddings: torch.Tensor, prompts: EmbeddedPrompts, targets: Targets, multimask: bool
) -> torch.Tensor:
    """IoU of each of a batch's objects: of the single mask, with `multimask` of the oracle and of the predicted pick
    among the three others: float64 (1 or 3, objects), on the CPU."""
    if not len(prompts.owner):
        return torch.zeros(3 if multimask else 1, 0, dtype=torch.float64)
    masks, predicted = decode(model.mask_decoder, embeddings, prompts, multimask=multimask)
    ious = targets.ious(masks)
    columns = [ious[:, 0]]
    if multimask:
        picked = predicted[:, 1:].argmax(-1, keepdim=True)
        columns += [ious[:, 1:].amax(-1), ious[:, 1:].gather(-1, picked)[:, 0]]
    return torch.stack(columns).cpu().double()


def summed(ious: torch.Tensor) -> torch.Tensor:
    """Sums of [`object_ious`], and the count of objects behind them: float64 (2,) or (4,)."""
    return torch.cat([ious.sum(-1), ious.new_tensor([ious.shape[1]])])


def by_image(ious: torch.Tensor, owner: torch.Tensor) -> list[tuple[float, int]]:
    """Of each image of a batch that shows an object: the sum of its objects' single-mask IoUs, and their number.

    Args:
        ious (`torch.Tensor` of shape `(1 or 3, objects)`): From [`object_ious`].
        owner (`torch.Tensor` of shape `(objects,)`): Which image each object is in.
    """
    images, owner = owner.cpu().unique(return_inverse=True)
    sums = ious.new_zeros(len(images)).index_add(0, owner, ious[0])
    return list(zip(sums.tolist(), owner.bincount(minlength=len(images)).tolist()))


def result_of(
    sums: torch.Tensor, accelerator: Accelerator | None, images: list[tuple[float, int]] | None = None
) -> EvaluationResult:
    """The means, over all processes.

    Args:
        sums (`torch.Tensor` of shape `(2,)` or `(4,)`): Of this process, from [`summed`].
        images (`list`, *optional*): From [`by_image`], of all batches.

    Raises:
        ValueError: If no image shows an object.
    """
    if accelerator is not None and accelerator.num_processes > 1:
        # in fp32 at least: MPS has no double
        sums, images = accelerator.reduce(sums.float().to(accelerator.device)).double().cpu(), None
    if not sums[-1]:
        raise ValueError(NO_OBJECT)
    means = (sums[:-1] / sums[-1]).tolist()
    oracle, predicted = means[1:] if len(means) > 1 else (None, None)
    return EvaluationResult(means[0], oracle, predicted, int(sums[-1]), images)


__all__ = ["NO_OBJECT", "EvaluationResult", "by_image", "evaluating", "no_sums", "object_ious", "result_of", "summed"]
