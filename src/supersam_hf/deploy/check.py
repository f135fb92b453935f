"""Whether a deployed model computes what the PyTorch model does, on real input."""

from collections.abc import Mapping
from typing import Any

import torch


# Largest difference that is allowed, as a share of the largest output: rounding of fp32 leaves some 1e-6, int8 weights
# a few hundredths; a graph that is wrong differs by its whole range.
TOLERANCE, TOLERANCE_INT8 = 1e-3, 0.25
OUTPUTS = ("pred_masks", "iou_scores", "logits")


class DeploymentError(ValueError):
    """The deployed model does not compute what the model does."""


def check_outputs(
    model: Any, deployed: Any, inputs: list[Mapping[str, Any]], tolerance: float = TOLERANCE
) -> dict[str, float]:
    """Runs both and compares.

    Args:
        model: The PyTorch model.
        deployed: What was made of it, called alike.
        inputs (`list[dict]`): Arguments of each call.
        tolerance (`float`): Largest difference allowed, as a share of the largest output.

    Returns:
        `dict[str, float]`: The largest difference of each output, as such a share.

    Raises:
        DeploymentError: If an output differs by more, or is not finite.
    """
    found: dict[str, float] = {}
    for arguments in inputs:
        with torch.inference_mode():
            wanted, got = model(**arguments), deployed(**arguments)
        for name in (name for name in OUTPUTS if name in wanted):
            found[name] = max(found.get(name, 0.0), difference(wanted[name], got[name]))
    worse = {name: share for name, share in found.items() if not share <= tolerance}
    if worse:
        told = ", ".join(f"{name} by {share:.2g}" for name, share in worse.items())
        raise DeploymentError(
            f"The exported model differs from the PyTorch model: {told} of its largest value, where {tolerance:g} is "
            "the tolerance. Nothing was written."
        )
    return found


def difference(wanted: torch.Tensor, got: torch.Tensor) -> float:
    """The largest difference of two tensors of one shape, as a share of the largest value of the first; infinite where
    either is not finite."""
    if wanted.shape != got.shape:
        raise DeploymentError(f"The exported model gives a shape {list(got.shape)} for {list(wanted.shape)}.")
    share = ((wanted - got).abs().max() / wanted.abs().max().clamp(min=torch.finfo(wanted.dtype).tiny)).item()
    return share if torch.isfinite(wanted).all() and torch.isfinite(got).all() else float("inf")
