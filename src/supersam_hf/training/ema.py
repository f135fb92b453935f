"""Exponential moving average of the weights in training."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


__all__ = ["Ema"]


class Ema:
    """A float32 average of a model's trained parameters: `shadow = d * shadow + (1 - d) * weight` after each step.

    Args:
        model (`nn.Module`): Parameters that require gradients now are averaged, starting from their values now.
        decay (`float`): d, in (0, 1). The released OFB retraining has 0.99996 for 375,000 steps.
        warmup (`bool`, *optional*, defaults to `True`): d is at most `(1 + t) / (10 + t)` after t updates, so that the
            first weights are forgotten in short runs too; the average then spans about the last tenth of the run.

    Attributes:
        updates (`int`): Updates done.
        shadow (`dict[str, torch.Tensor]`): The average by parameter name.

    Raises:
        ValueError: If the decay is out of its range.
    """

    def __init__(self, model: torch.nn.Module, decay: float, warmup: bool = True) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"`ema_decay` must lie in (0, 1), got {decay}.")
        self.decay, self.warmup = decay, warmup
        self.updates = 0
        self.shadow = {name: p.detach().float().clone() for name, p in _trained(model)}

    @torch.no_grad()
    def update(self, model: torch.nn.Module) -> None:
        """Moves the average towards `model`; call it after each optimiser step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay
        for name, parameter in _trained(model):
            # The model may have gone to its device after the average was made.
            self.shadow[name] = self.shadow[name].to(parameter.device).lerp_(parameter.float(), 1 - decay)
        self.updates += 1

    @torch.no_grad()
    def copy_to(self, model: torch.nn.Module) -> None:
        """Writes the average into `model`, in the model's precision."""
        for name, parameter in _trained(model):
            parameter.copy_(self.shadow[name])

    @contextmanager
    def average_parameters(self, model: torch.nn.Module) -> Iterator[None]:
        """`model` has the average inside the block and its own weights again after it."""
        own = {name: parameter.detach().clone() for name, parameter in _trained(model)}
        self.copy_to(model)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in _trained(model):
                    parameter.copy_(own[name])

    def state_dict(self) -> dict[str, Any]:
        """`updates` and `shadow`, for a checkpoint."""
        return {"updates": self.updates, "shadow": self.shadow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint. Raises `ValueError` if it averages other parameters."""
        stored = {name: value.shape for name, value in state["shadow"].items()}
        here = {name: value.shape for name, value in self.shadow.items()}
        differing = sorted(name for name in {*stored, *here} if stored.get(name) != here.get(name))
        if differing:
            raise ValueError(f"The stored average is of another model; these parameters differ: {differing}.")
        self.updates = state["updates"]
        for name, value in state["shadow"].items():
            self.shadow[name].copy_(value)


def _trained(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
