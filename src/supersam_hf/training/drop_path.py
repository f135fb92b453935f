"""Stochastic depth, put on a vision transformer for the time of a training."""

from functools import partial
from typing import Any

import torch
from torch import nn

from .encoder_blocks import attention_of, encoder_blocks


__all__ = ["DropPath"]


class DropPath:
    """Stochastic depth (Huang et al. 2016, as in DeiT) by forward hooks: in training mode, each image leaves out each
    attention and each MLP with a probability that grows from 0 at the first layer to `rate` at the last; what is kept
    is divided by the probability of keeping it.

    The model stays what it is: nothing is saved with it, and `remove` takes the hooks off. Randomness is the global
    generator's.

    Args:
        model (`PreTrainedModel`): Any whose blocks have an attention and an MLP that each end in a linear layer; a
            rate of its own (as Swin has) counts for nothing until `remove`.
        rate (`float`): In [0, 1). 0: no hooks.

    Raises:
        ValueError: If the rate is out of its range.
    """

    def __init__(self, model: Any, rate: float) -> None:
        if not 0 <= rate < 1:
            raise ValueError(f"`drop_path_rate` must lie in [0, 1), got {rate}.")
        self.handles: list[Any] = []
        self._own: list[tuple[Any, float]] = []
        blocks = list(encoder_blocks(model).values())
        for i, block in enumerate(blocks):
            self._silence(block)
            if i and rate > 0:
                self._hook(block, rate * i / (len(blocks) - 1))

    def _silence(self, block: nn.Module) -> None:
        module: Any
        for module in block.modules():
            if hasattr(module, "drop_prob"):
                self._own.append((module, module.drop_prob))
                module.drop_prob = 0.0

    def _hook(self, block: Any, rate: float) -> None:
        """On the last linear layer of each residual branch: without its output, bias included, the branch is zero."""
        batch: list[int] = []

        def see(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            batch[:] = [len(args[0] if args else kwargs["hidden_states"])]

        self.handles.append(block.register_forward_pre_hook(see, with_kwargs=True))
        for branch in (attention_of(block), block.mlp):
            linear = [module for module in branch.modules() if isinstance(module, nn.Linear)][-1]
            self.handles.append(linear.register_forward_hook(partial(drop_path, rate=rate, batch=batch)))

    def remove(self) -> None:
        """Takes the hooks off the model."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        for module, rate in self._own:
            module.drop_prob = rate
        self._own.clear()


def drop_path(module: nn.Module, inputs: Any, output: torch.Tensor, rate: float, batch: list[int]) -> torch.Tensor:
    """Forward hook: zeroes the output of a random share `rate` of the images, in training.

    Args:
        output (`torch.Tensor` of shape `(batch * windows, ...)`): Of windows, those of an image one after the other.
        batch (`list[int]`): The number of images.
    """
    if not module.training:
        return output
    keep = output.new_empty(batch[0]).bernoulli_(1 - rate).repeat_interleave(len(output) // batch[0])
    return output * keep.view(-1, *(1,) * (output.ndim - 1)) / (1 - rate)
