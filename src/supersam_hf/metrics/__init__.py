"""Quality of predicted masks and labels."""

from pathlib import Path
from typing import TYPE_CHECKING

from .iou import mask_iou


if TYPE_CHECKING:
    from evaluate import EvaluationModule


__all__ = ["load_instance_miou", "load_topk_accuracy", "mask_iou"]


def load_instance_miou() -> "EvaluationModule":
    """The `evaluate` module `instance_miou` that comes with this package; needs no network."""
    import evaluate

    return evaluate.load(str(Path(__file__).parent / "instance_miou"))


def load_topk_accuracy() -> "EvaluationModule":
    """The `evaluate` module `topk_accuracy` that comes with this package; needs no network."""
    import evaluate

    return evaluate.load(str(Path(__file__).parent / "topk_accuracy"))
