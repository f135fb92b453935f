"""Accuracy of a classifier on labelled images."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from .data.image_dataset import ImageSamples
from .data.loader import shared


# With five classes or fewer the top 5 are all of them.
MIN_CLASSES_TOP5 = 6


@dataclass(frozen=True)
class ClassificationResult:
    """Means over images.

    Args:
        top1 (`float`): Share of the images whose label has the highest logit, in [0, 1].
        top5 (`float` or None): Share of those whose label is among the five highest; None with fewer than 6 labels.
        loss (`float`): Cross entropy.
        num_images (`int`): Images evaluated.
        right (`str`): A 1 for every image, in order, that was right by top 1, a 0 for every other; empty where several
            processes shared the images.
    """

    top1: float
    top5: float | None
    loss: float
    num_images: int
    right: str = ""


def evaluate_classifier(
    model: Any, loader: DataLoader, accelerator: Accelerator | None = None
) -> ClassificationResult:
    """Top-1 and top-5 accuracy and mean cross entropy, each image once (see `metrics/topk_accuracy`).

    Args:
        model (`OfbViTForImageClassification`, `ViTForImageClassification` or alike): In any mode; it is evaluated in
            eval mode.
        loader (`DataLoader`): Batches of `pixel_values` (batch, 3, S, S) and `labels` (batch,), as from
            `data.build_loader` of an `ImageDataset` in evaluation mode; not prepared by Accelerate.
        accelerator (`Accelerator`, *optional*): Splits the batches over its processes, each of which loads its own
            alone, and sums over them.

    Raises:
        ValueError: If the model has other labels than the dataset, or there is no image.
    """
    rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    if isinstance(loader.dataset, ImageSamples):
        check_labels(model, loader)
    training = model.training
    model.eval()
    sums, right = torch.zeros(4, dtype=torch.float64), ""
    with shared(loader, rank, world):
        for batch in tqdm(loader, desc="evaluate", unit="batch", leave=False, disable=rank != 0):
            found, hits = _batch_sums(model, batch, accelerator)
            sums += found
            right += hits
    model.train(training)
    if accelerator and world > 1:
        # in fp32 at least: MPS has no double
        sums = accelerator.reduce(sums.float().to(accelerator.device)).double().cpu()
    if sums[3] == 0:
        raise ValueError("`loader` has no images to evaluate on.")
    top1, top5, loss = (sums[:3] / sums[3]).tolist()
    known = top5 if model.config.num_labels >= MIN_CLASSES_TOP5 else None
    return ClassificationResult(top1, known, loss, int(sums[3]), right if world == 1 else "")


# Not around the loader: what a dataset keeps of its samples must stay of use for training.
@torch.inference_mode()
def _batch_sums(
    model: Any, batch: Mapping[str, torch.Tensor], accelerator: Accelerator | None
) -> tuple[torch.Tensor, str]:
    """float64 (4,): images right by top 1 and by top 5, cross entropy, images; those without a label (-1) are none.
    And a 1 or a 0 for each."""
    labelled = batch["labels"] >= 0
    if not labelled.any():
        return torch.zeros(4, dtype=torch.float64), ""
    images, labels = batch["pixel_values"][labelled].to(model.device), batch["labels"][labelled].to(model.device)
    autocasts = accelerator is not None and accelerator.mixed_precision == "bf16"
    with torch.autocast(model.device.type, torch.bfloat16, enabled=autocasts):
        logits = model(pixel_values=images).logits
    logits = logits.float()  # (batch, labels)
    highest = logits.topk(min(5, logits.shape[-1])).indices == labels[:, None]
    loss = F.cross_entropy(logits, labels, reduction="sum")
    sums = torch.stack([highest[:, 0].sum(), highest.sum(), loss, torch.tensor(len(labels), device=loss.device)])
    return sums.cpu().double(), "".join(map(str, highest[:, 0].int().tolist()))


def check_labels(model: Any, loader: DataLoader) -> None:
    """Raises `ValueError` where model and dataset have different numbers of labels."""
    dataset: Any = loader.dataset
    if len(dataset.label_names) != model.config.num_labels:
        raise ValueError(
            f"The model has {model.config.num_labels} labels and the data {len(dataset.label_names)}: take the data's "
            "labels with `model.select_labels(indices)` (see `data.match_labels`), or a new head with "
            "`model.reset_classifier(names)`."
        )
