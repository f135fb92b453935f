"""mIoU, mean and overall accuracy of a segmenter on labelled images, by sliding windows."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from .data.label_maps import IGNORED
from .data.loader import shared


# Of a window: how far apart they stand (SETR: 512 of 768).
STRIDE = 2 / 3


@dataclass(frozen=True)
class SegmentationResult:
    """Over all pixels that have a label.

    Args:
        miou (`float`): Mean over classes of the intersection over union; classes that neither labels nor predictions
            show are left out.
        macc (`float`): Mean over the classes that labels show of the share of their pixels that are right.
        aacc (`float`): Share of all pixels that are right.
        class_ious (`list`): IoU of each class; None where neither shows it.
        num_images (`int`): Images evaluated.
    """

    miou: float
    macc: float
    aacc: float
    class_ious: list[float | None]
    num_images: int


def evaluate_segmenter(
    model: Any, loader: DataLoader, accelerator: Accelerator | None = None, *, stride: float = STRIDE
) -> SegmentationResult:
    """Each image once, in its own size.

    Args:
        model (`OfbViTForSemanticSegmentation` or alike): In any mode; evaluated in eval mode.
        loader (`DataLoader`): Single images, `pixel_values` (1, 3, height, width) and `labels` (1, height, width), as
            from `data.build_loader` of a `SemanticDataset` in evaluation mode; not prepared by Accelerate.
        accelerator (`Accelerator`, *optional*): Splits the images over its processes, and sums over them.
        stride (`float`): Distance of windows, as a share of their side.

    Raises:
        ValueError: If model and data have different numbers of classes, or no pixel has a label.
    """
    check_classes(model, loader)
    rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    training, classes = model.training, model.config.num_labels
    model.eval()
    counts, images = torch.zeros(classes, classes, dtype=torch.int64), 0
    with shared(loader, rank, world):
        for batch in tqdm(loader, desc="evaluate", unit="image", leave=False, disable=rank != 0):
            predicted = predict(model, batch["pixel_values"].to(model.device), stride).argmax(1).cpu()
            counts += confusion(batch["labels"], predicted, classes)
            images += len(predicted)
    model.train(training)
    total = torch.cat([counts.flatten(), torch.tensor([images])])
    if accelerator and world > 1:
        total = accelerator.reduce(total.to(accelerator.device)).cpu()
    return result_of(total[:-1].view(classes, classes), int(total[-1]))


@torch.inference_mode()
def predict(model: Any, pixel_values: torch.Tensor, stride: float = STRIDE) -> torch.Tensor:
    """Logits of images of any size, by windows of the model's own size, averaged where they overlap.

    Args:
        pixel_values (`torch.Tensor` of shape `(batch, channels, height, width)`): Normalised images. If a side is
            shorter than a window, they are enlarged first.
        stride (`float`): Distance of windows, as a share of their side, in (0, 1].

    Returns:
        `torch.Tensor` of shape `(batch, num_labels, height, width)`.
    """
    if not 0 < stride <= 1:
        raise ValueError(f"`stride` must be in (0, 1], got {stride}.")
    size, side = pixel_values.shape[-2:], model.config.image_size
    factor = max(1.0, side / min(size))
    if factor > 1:
        enlarged = [max(side, round(length * factor)) for length in size]
        pixel_values = F.interpolate(pixel_values, size=enlarged, mode="bilinear", align_corners=False)
    rows, columns = (_starts(length, side, round(stride * side)) for length in pixel_values.shape[-2:])
    total = torch.zeros((), device=pixel_values.device)
    for top in rows:
        for left in columns:
            window = pixel_values[..., top : top + side, left : left + side]
            logits = model(window).logits.float()
            if total.dim() == 0:
                shape = (len(logits), logits.shape[1] + 1, *pixel_values.shape[-2:])
                total = torch.zeros(shape, device=logits.device)
            total[:, :-1, top : top + side, left : left + side] += logits
            total[:, -1, top : top + side, left : left + side] += 1
    logits = total[:, :-1] / total[:, -1:]
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False) if factor > 1 else logits


def _starts(length: int, side: int, stride: int) -> list[int]:
    """Where windows begin, the last one at the end."""
    return sorted({*range(0, length - side, max(1, stride)), length - side})


def confusion(labels: torch.Tensor, predicted: torch.Tensor, classes: int) -> torch.Tensor:
    """Pixels by label (rows) and prediction (columns), (classes, classes); those without a label are left out."""
    held = labels != IGNORED
    return torch.bincount(labels[held] * classes + predicted[held], minlength=classes**2).view(classes, classes)


def result_of(counts: torch.Tensor, num_images: int) -> SegmentationResult:
    """What a confusion matrix (labels by predictions) says.

    Raises:
        ValueError: If it is empty.
    """
    counts = counts.double()
    right, labelled, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    if not labelled.sum():
        raise ValueError("`loader` has no labelled pixel to evaluate on.")
    union = labelled + predicted - right
    ious = (right / union)[union > 0]
    return SegmentationResult(
        miou=float(ious.mean()),
        macc=float((right / labelled)[labelled > 0].mean()),
        aacc=float(right.sum() / labelled.sum()),
        class_ious=[float(one / whole) if whole > 0 else None for one, whole in zip(right, union)],
        num_images=num_images,
    )


def check_classes(model: Any, loader: DataLoader) -> None:
    """Raises `ValueError` where model and dataset have different numbers of classes."""
    names = getattr(loader.dataset, "label_names", [])
    if len(names) != model.config.num_labels:
        raise ValueError(
            f"The model has {model.config.num_labels} classes and the data {len(names)}: load it with "
            f"`num_labels={len(names)}`."
        )


__all__ = ["SegmentationResult", "confusion", "evaluate_segmenter", "predict", "result_of"]
