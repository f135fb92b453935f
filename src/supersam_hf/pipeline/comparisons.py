"""Whether the models of a report differ by more than chance: paired standard errors over the evaluation images."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch


# Differences of so many standard errors are taken for more than chance.
BEYOND = 2.0
SAMPLES = "mean of the sampled"


@dataclass(frozen=True)
class Difference:
    """mIoU, or top-1 accuracy, of one model less that of another on the same images.

    Args:
        model (`str`): The one.
        other (`str`): The other.
        value (`float`): The difference, -1 to 1.
        standard_error (`float`): Paired, over images; 0 or more.
    """

    model: str
    other: str
    value: float
    standard_error: float

    @property
    def beyond(self) -> bool:
        """Whether it is more than two standard errors."""
        return abs(self.value) > BEYOND * self.standard_error

    def text(self) -> str:
        """The difference in words."""
        said = "beyond" if self.beyond else "within"
        return (
            f"{self.model} − {self.other}: {self.value:+.4f} ± {self.standard_error:.4f}, "
            f"{said} two standard errors (paired, over images)"
        )


def difference(model: str, other: str, sums: torch.Tensor, others: torch.Tensor, counts: torch.Tensor) -> Difference:
    """The difference of two means over objects, and its standard error where objects of an image go together.

    Args:
        sums, others (`torch.Tensor` of shape `(images,)`): The sum of the IoUs of each image's objects.
        counts (`torch.Tensor` of shape `(images,)`): Its objects.

    Raises:
        ValueError: If there are fewer than two images.
    """
    images, objects = len(counts), counts.sum()
    if images < 2:
        raise ValueError(f"A standard error over images needs two of them, got {images}.")
    each = sums - others
    mean = each.sum() / objects
    # of a ratio of sums over images, linearised
    spread = (each - mean * counts).square().sum() * images / (images - 1)
    return Difference(model, other, float(mean), math.sqrt(float(spread)) / float(objects))


# What a report compares, of what it has.
SAM_PAIRS = (
    ("found", SAMPLES),
    ("found + recovery", "found"),
    ("found", "original"),
    ("found + recovery", "original"),
)
CLASSIFIER_PAIRS = (
    ("finetuned", "searched"),
    ("finetuned", "pruned"),
    ("finetuned", "whole"),
    ("finetuned", "original"),
    ("searched", "original"),
    ("pruned", "original"),
)


def differences(table: Sequence[Mapping[str, Any]]) -> list[Difference]:
    """What the report of a SAM compares: found with the mean of the sampled, recovered with found, both with the
    original. Rows that are not there, or were evaluated before images were told apart, are left out.

    Args:
        table: Rows of a report, with `name`, `kind` and `images`: pairs of a sum of IoUs and a number of objects.
    """
    told = {row["name"]: torch.tensor(row["images"], dtype=torch.float64) for row in table if row.get("images")}
    names = [row["name"] for row in table if row["kind"] == "sampled" and row["name"] in told]
    if names:
        told[SAMPLES] = torch.stack([told[name] for name in names]).mean(0)
    return _compared(told, SAM_PAIRS)


def classifier_differences(table: Sequence[Mapping[str, Any]]) -> list[Difference]:
    """The same of a classifier's report: what was found, and what retraining made of it, with the network before.

    Args:
        table: Rows of a report, with `name` and `right`: a 1 or a 0 for every image.
    """
    told = {}
    for row in table:
        if hits := row.get("right"):
            right = torch.tensor([float(hit) for hit in hits], dtype=torch.float64)
            told[row["name"]] = torch.stack([right, torch.ones_like(right)], 1)
    return _compared(told, CLASSIFIER_PAIRS)


def _compared(told: Mapping[str, torch.Tensor], pairs: Sequence[tuple[str, str]]) -> list[Difference]:
    """Of the pairs of which both are there: (images, 2) each, a sum and a count."""
    return [
        difference(one, other, told[one][:, 0], told[other][:, 0], told[one][:, 1])
        for one, other in pairs
        if one in told and other in told and len(told[one]) > 1
    ]


__all__ = ["BEYOND", "SAMPLES", "Difference", "classifier_differences", "difference", "differences"]
