"""Weights that are sharded over the processes (FSDP 2), seen as wholes where that is needed."""

from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor


def is_sharded(model: torch.nn.Module) -> bool:
    """Whether each process holds only a part of the model's weights."""
    return isinstance(model, FSDPModule)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of a tensor, on every process; all of them must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def spread_as(part: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """The inverse of [`local`]: this process's part of a tensor, sharded as `reference` is; as it is where that is
    not, or where it is no part of it (a number)."""
    if not isinstance(reference, DTensor) or part.shape != local(reference).shape:
        return part
    here = part.to(reference.device)
    mesh, placements = reference.device_mesh, reference.placements
    return DTensor.from_local(here, mesh, placements, shape=reference.shape, stride=reference.stride())


def gathered(model: Any, model_class: Any) -> Any:
    """A model of its own with the whole weights, on every process; all of them must ask for it.

    Args:
        model (`PreTrainedModel`): Sharded.
        model_class (`type[PreTrainedModel]`): What it was before.
    """
    state = {name: whole(value) for name, value in model.state_dict().items()}
    any_weight = next(iter(state.values()))
    copy = model_class._from_config(model.config).to(any_weight.device, any_weight.dtype)
    copy.load_state_dict(state)
    return copy.train(model.training)


__all__ = ["gathered", "is_sharded", "local", "spread_as", "whole"]
