"""Instance mIoU of a model and its subnets on a prompted dataset."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from .data.loader import shared
from .metrics.iou import mask_iou
from .models.supersam import Subnet


PROMPTS = ("input_boxes", "input_points", "input_labels")
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


def upscaled(logits: torch.Tensor, size: int) -> torch.Tensor:
    """Low-resolution logits (batch, prompts, masks, h, w) at the model's input size, as SAM upscales them."""
    batch, prompts = logits.shape[:2]
    logits = F.interpolate(logits.float().flatten(0, 1), (size, size), mode="bilinear", align_corners=False)
    return logits.unflatten(0, (batch, prompts))


def object_ious(logits: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """IoU of each mask with its object, without the padding: (batch, prompts, masks)."""
    target = batch["masks"].bool()
    predicted = upscaled(logits, target.shape[-1]) > 0
    height, width = batch["valid_size"].unbind(-1)
    rows = torch.arange(target.shape[-2], device=target.device) < height[:, None]
    columns = torch.arange(target.shape[-1], device=target.device) < width[:, None]
    valid = (rows[:, :, None] & columns[:, None, :])[:, None, None]  # (batch, 1, 1, height, width)
    return mask_iou(predicted & valid, (target[:, :, None] & valid).expand_as(predicted))


@torch.inference_mode()
def batch_ious(model: Any, batch: Mapping[str, torch.Tensor], subnet: Subnet | None, multimask: bool) -> torch.Tensor:
    """IoUs of a batch's objects: (objects, 1), or (objects, 3) with the oracle's and the predicted pick."""
    prompts = {name: batch[name] for name in PROMPTS if name in batch}
    # A stock SamModel knows no `subnet`.
    chosen = {} if subnet is None else {"subnet": subnet}
    embeddings = model.get_image_embeddings(batch["pixel_values"], **chosen)
    single = model(image_embeddings=embeddings, multimask_output=False, **prompts)
    columns = [object_ious(single.pred_masks, batch)[..., 0]]
    if multimask:
        three = model(image_embeddings=embeddings, multimask_output=True, **prompts)
        ious = object_ious(three.pred_masks, batch)
        picked = three.iou_scores.argmax(-1, keepdim=True)
        columns += [ious.amax(-1), ious.gather(-1, picked)[..., 0]]
    return torch.stack(columns, -1)[batch["object_mask"]]


def evaluate(
    model: Any,
    loader: DataLoader,
    subnet: Subnet | None = None,
    *,
    multimask: bool = True,
    accelerator: Accelerator | None = None,
) -> EvaluationResult:
    """Instance mIoU of one subnet: each object once, mean over objects (see `metrics/instance_miou`).

    Args:
        model (`SuperSamModel` or `SamModel`): In any mode; it is evaluated in eval mode.
        loader (`DataLoader`): From `data.build_loader`, evaluation mode.
        subnet ([`Subnet`], *optional*): The model as it is if left out.
        multimask (`bool`): Also run the three-mask output; costs a second pass of the mask decoder.
        accelerator (`Accelerator`, *optional*): Splits the batches over its processes, each of which loads its own
            alone, and sums over them.

    Raises:
        ValueError: If no image shows an object.
    """
    training = model.training
    model.eval()
    rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    sums = torch.zeros(4 if multimask else 2, dtype=torch.float64)
    with shared(loader, rank, world):
        for batch in loader:
            batch = {k: v.to(model.device) for k, v in batch.items()}
            with torch.autocast(model.device.type, torch.bfloat16, enabled=_autocasts(accelerator)):
                ious = batch_ious(model, batch, subnet, multimask).double().cpu()
            sums += torch.cat([ious.sum(0), torch.tensor([len(ious)])])
    if accelerator:
        # in fp32 at least: MPS has no double
        sums = accelerator.reduce(sums.float().to(accelerator.device)).double().cpu() if world > 1 else sums
    model.train(training)
    if not sums[-1]:
        raise ValueError(NO_OBJECT)
    means = (sums[:-1] / sums[-1]).tolist()
    oracle, predicted = means[1:] if multimask else (None, None)
    return EvaluationResult(means[0], oracle, predicted, int(sums[-1]))


def _autocasts(accelerator: Accelerator | None) -> bool:
    return accelerator is not None and accelerator.mixed_precision == "bf16"


def evaluate_subnets(
    model: Any,
    loader: DataLoader,
    subnets: Mapping[str, Subnet | None],
    *,
    multimask: bool = True,
    accelerator: Accelerator | None = None,
) -> dict[str, EvaluationResult]:
    """`evaluate` for each named subnet (None: the model as it is), with a progress bar."""
    quiet = accelerator is not None and not accelerator.is_main_process
    bar = tqdm(subnets.items(), desc="evaluate", unit="subnet", disable=quiet)
    return {n: evaluate(model, loader, s, multimask=multimask, accelerator=accelerator) for n, s in bar}


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
    model: Any, loader: DataLoader, accelerator: Accelerator | None = None
) -> Callable[[Subnet | None], float]:
    """mIoU of a subnet as a function: what ranking and search ask for."""
    return lambda subnet: evaluate(model, loader, subnet, multimask=False, accelerator=accelerator).miou


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
