"""From image embeddings to the means over objects that are reported."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
    """

    miou: float
    miou_oracle: float | None
    miou_predicted: float | None
    num_objects: int


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


def summed_ious(
    model: Any, embeddings: torch.Tensor, prompts: EmbeddedPrompts, targets: Targets, multimask: bool
) -> torch.Tensor:
    """Sums over a batch's objects: of the single mask's IoU, with `multimask` of the oracle's and of the predicted
    pick among the three others, and the count of objects: float64 (2,) or (4,)."""
    if not len(prompts.owner):
        return no_sums(multimask)
    masks, predicted = decode(model.mask_decoder, embeddings, prompts, multimask=multimask)
    ious = targets.ious(masks)
    columns = [ious[:, 0]]
    if multimask:
        picked = predicted[:, 1:].argmax(-1, keepdim=True)
        columns += [ious[:, 1:].amax(-1), ious[:, 1:].gather(-1, picked)[:, 0]]
    sums = torch.stack(columns).cpu().double().sum(-1)
    return torch.cat([sums, sums.new_tensor([len(ious)])])


def result_of(sums: torch.Tensor, accelerator: Accelerator | None) -> EvaluationResult:
    """The means, over all processes.

    Raises:
        ValueError: If no image shows an object.
    """
    if accelerator is not None and accelerator.num_processes > 1:
        # in fp32 at least: MPS has no double
        sums = accelerator.reduce(sums.float().to(accelerator.device)).double().cpu()
    if not sums[-1]:
        raise ValueError(NO_OBJECT)
    means = (sums[:-1] / sums[-1]).tolist()
    oracle, predicted = means[1:] if len(means) > 1 else (None, None)
    return EvaluationResult(means[0], oracle, predicted, int(sums[-1]))


__all__ = ["NO_OBJECT", "EvaluationResult", "evaluating", "no_sums", "result_of", "summed_ious"]
