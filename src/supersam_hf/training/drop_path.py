"""Stochastic depth, put on a ViT for the time of a training."""

from functools import partial
from typing import Any

import torch


__all__ = ["DropPath"]


class DropPath:
    """Stochastic depth (Huang et al. 2016, as in DeiT) by forward hooks: in training mode, each image leaves out each
    attention and each MLP with a probability that grows from 0 at the first layer to `rate` at the last; what is kept
    is divided by the probability of keeping it.

    The model stays what it is: nothing is saved with it, and `remove` takes the hooks off. Randomness is the global
    generator's.

    Args:
        model (`PreTrainedModel`): [`OfbViTForImageClassification`] or alike, or a ViT, DeiT or Swin of transformers,
            whose own rate counts for nothing until `remove`.
        rate (`float`): In [0, 1). 0: no hooks.

    Raises:
        ValueError: If the rate is out of its range.
    """

    def __init__(self, model: Any, rate: float) -> None:
        if not 0 <= rate < 1:
            raise ValueError(f"`drop_path_rate` must lie in [0, 1), got {rate}.")
        self.handles: list[Any] = []
        self._own: list[tuple[Any, float]] = []
        layers = _layers(model)
        for i, layer in enumerate(layers):
            rate_of_layer = rate * i / max(1, len(layers) - 1)
            own: Any = getattr(layer, "drop_path", None)
            if hasattr(own, "drop_prob"):
                self._own.append((own, own.drop_prob))
                own.drop_prob = 0.0
            if rate_of_layer > 0:
                # The last linear layer of each residual branch: without its output, bias included, the branch is zero.
                # Swin's output projection sees windows; its attention's branch ends in a module of its own.
                for branch in (getattr(layer, "drop_path", layer.attention.o_proj), layer.mlp.fc2):
                    self.handles.append(branch.register_forward_hook(partial(drop_path, rate=rate_of_layer)))

    def remove(self) -> None:
        """Takes the hooks off the model."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        for module, rate in self._own:
            module.drop_prob = rate
        self._own.clear()


def _layers(model: Any) -> list[Any]:
    """Every block with an attention and an MLP, in their order."""
    base = model.base_model
    return list(base.layers) if hasattr(base, "layers") else [b for stage in base.encoder.layers for b in stage.blocks]


def drop_path(module: torch.nn.Module, inputs: Any, output: torch.Tensor, rate: float) -> torch.Tensor:
    """Forward hook: zeroes the output of shape `(batch, ...)` for a random share `rate` of the batch, in training."""
    if not module.training:
        return output
    keep = output.new_empty(output.shape[:1] + (1,) * (output.ndim - 1)).bernoulli_(1 - rate)
    return output * keep / (1 - rate)
