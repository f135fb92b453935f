"""Memory that a training step would take, worked out without taking it: tensors that have shapes but no values."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers.initialization import no_init_weights


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of the tensors of a training step.

    Args:
        weights (`int`): Parameters and buffers.
        gradients (`int`): Of the parameters that are trained.
        optimizer (`int`): Its state.
        activations (`int`): The rest at the peak: what forward saves for backward, and what backward works with.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that are made while it lasts, until they are freed.

    Attributes:
        live (`int`): Bytes of those that are there.
        peak (`int`): The most there were at once; to be set back by whoever asks.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_iter(out):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage())
        self.peak = max(self.peak, self.live)
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        # views share a storage; its address in C++ is its identity for as long as it lives
        key = storage._cdata
        if key not in self._known:
            self._known.add(key)
            self.live += storage.nbytes()
            weakref.finalize(storage, self._forget, key, storage.nbytes())

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def training_memory(
    build: Callable[[], tuple[torch.nn.Module, Callable[[], torch.Tensor]]],
) -> TrainingMemory:
    """What a step of AdamW on a model takes, in the order: forward, backward, update.

    Nothing is allocated: inside, tensors have a shape, a dtype and a device, but no memory. What kernels take as work
    space and what an allocator rounds up to is not in it.

    Args:
        build (`Callable`): Makes the model in training mode, and returns it with a function that runs forward on
            inputs of the right shapes, which it makes too, and returns the loss.
    """
    # Initial values may depend on values, which there are none of.
    with FakeTensorMode(), no_init_weights(), LiveBytes() as live:
        model, loss = build()
        weights = _bytes(model.parameters()) + _bytes(model.buffers())
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, fused=True)
        _step(optimizer, loss)  # makes the state, which is there in all later steps
        live.peak = live.live
        _step(optimizer, loss)
        state = _bytes(value for values in optimizer.state.values() for value in values.values())
        gradients = _bytes(trained)
        return TrainingMemory(weights, gradients, state, max(0, live.peak - weights - gradients - state))


def _step(optimizer: torch.optim.Optimizer, loss: Callable[[], torch.Tensor]) -> None:
    loss().backward()
    optimizer.step()
    optimizer.zero_grad()


def _bytes(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor))


__all__ = ["LiveBytes", "TrainingMemory", "training_memory"]
