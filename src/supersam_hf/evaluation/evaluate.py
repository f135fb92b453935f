"""Instance mIoU of a model and its subnets on a prompted dataset."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from ..data.loader import shared
from ..metrics.iou import mask_iou
from ..models.supersam import Subnet
from .decoding import EmbeddedPrompts
from .evaluator import CACHE_GB, SubnetEvaluator
from .result import NO_OBJECT, EvaluationResult, evaluating, no_sums, object_ious, result_of, summed
from .targets import Targets


def evaluate(
    model: Any,
    loader: DataLoader,
    subnet: Subnet | None = None,
    *,
    multimask: bool = True,
    accelerator: Accelerator | None = None,
) -> EvaluationResult:
    """Instance mIoU of one subnet: each object once, mean over objects (see `metrics/instance_miou`). Of many subnets
    with the same weights, [`SubnetEvaluator`] gives the same sooner.

    Args:
        model (`SuperSamModel` or `SamModel`): In any mode; it is evaluated in eval mode.
        loader (`DataLoader`): From `data.build_loader`, evaluation mode.
        subnet ([`Subnet`], *optional*): The model as it is if left out.
        multimask (`bool`): Also look at the three-mask output.
        accelerator (`Accelerator`, *optional*): Splits the batches over its processes, each of which loads its own
            alone, and sums over them.

    Raises:
        ValueError: If no image shows an object.
    """
    rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    # A stock SamModel knows no `subnet`.
    chosen = {} if subnet is None else {"subnet": subnet}
    sums = no_sums(multimask)
    with evaluating(model, accelerator), shared(loader, rank, world):
        for batch in loader:
            batch = {k: v.to(model.device) for k, v in batch.items()}
            embeddings = model.get_image_embeddings(batch["pixel_values"], **chosen)
            prompts = EmbeddedPrompts.of(model, batch)
            sums += summed(object_ious(model, embeddings, prompts, Targets.of(batch), multimask))
    return result_of(sums, accelerator)


def evaluate_subnets(
    model: Any,
    loader: DataLoader,
    subnets: Mapping[str, Subnet | None],
    *,
    multimask: bool = True,
    accelerator: Accelerator | None = None,
    cache_gb: float = CACHE_GB,
) -> dict[str, EvaluationResult]:
    """`evaluate` for each named subnet of a SuperSAM (None: the largest), what they share computed once (see
    [`SubnetEvaluator`])."""
    evaluator = SubnetEvaluator(model, loader, accelerator=accelerator, cache_gb=cache_gb)
    return dict(zip(subnets, evaluator.results(list(subnets.values()), multimask=multimask)))


def box_baseline(loader: DataLoader) -> float:
    """mIoU of filling every box prompt: what a model gets that does not look at the image.

    Raises:
        ValueError: If no image shows an object.
    """
    ious = []
    for batch in loader:
        side = batch["masks"].shape[-1]
        center = torch.arange(side) + 0.5
        left, top, right, bottom = batch["input_boxes"].unbind(-1)  # (batch, prompts) each
        columns = (center >= left[..., None]) & (center <= right[..., None] + 1)
        rows = (center >= top[..., None]) & (center <= bottom[..., None] + 1)
        filled = rows[..., :, None] & columns[..., None, :]
        ious.append(mask_iou(filled, batch["masks"].bool())[batch["object_mask"]])
    found = torch.cat(ious)
    if not len(found):
        raise ValueError(NO_OBJECT)
    return float(found.mean())


def quality_of(
    model: Any, loader: DataLoader, accelerator: Accelerator | None = None, cache_gb: float = CACHE_GB
) -> Callable[[Subnet | None], float]:
    """mIoU of a subnet as a function, as long as the model's weights do not change (see [`SubnetEvaluator`])."""
    return SubnetEvaluator(model, loader, accelerator=accelerator, cache_gb=cache_gb).miou


def calibration_images(loader: DataLoader, num_images: int) -> list[torch.Tensor]:
    """The first `num_images` images of a loader as batches of `pixel_values`, for Wanda."""

    def batches() -> Iterator[torch.Tensor]:
        left = num_images
        for batch in loader:
            yield batch["pixel_values"][:left]
            left -= len(batch["pixel_values"])
            if left <= 0:
                return

    return list(batches())
