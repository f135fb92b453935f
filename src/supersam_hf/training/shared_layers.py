"""What the subnets of a sandwich step share: the leading layers that none of them changes, run once."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from ..models.supersam import Subnet
from ..models.supersam.elastic_supersam import shared_depth
from ..models.supersam.modeling_supersam import SuperSamVisionEncoder
from .engine import Engine
from .sharding import is_sharded


class SharedLayers:
    """Patch embedding and the leading layers that all of the subnets treat alike, forward once and backward once.

    What they give, the fork, is where the subnets part. All subnets but the last run from a copy of the fork without
    its graph, in which their gradients add up; the last runs from the fork itself, and its backward carries the sum
    along through the shared layers. So every parameter gets its gradient in some backward of a subnet's loss, the
    shared ones in the last (where DDP averages), and the graph of one subnet at a time is held beside the shared one.

    Args:
        encoder (`SuperSamVisionEncoder`): Not sharded.
        pixel_values (`torch.Tensor` of shape `(batch, 3, image_size, image_size)`): Normalised images.
        subnets (`Iterable[Subnet or None]`): Those that will run; None is the largest.

    Attributes:
        depth (`int`): How many leading layers are shared.

    Raises:
        ValueError: If a subnet does not fit the model.
    """

    def __init__(self, encoder: Any, pixel_values: torch.Tensor, subnets: Iterable[Subnet | None]) -> None:
        checked = [encoder.checked(subnet) for subnet in subnets]
        self.depth = shared_depth(checked, len(encoder.layers))
        # (batch, grid, grid, channels)
        self._fork = encoder.run_layers(encoder.embed(pixel_values), checked[0], last_layer=self.depth)
        # where all that is shared is frozen, nothing goes back through it
        self._copy = self._fork.detach().requires_grad_(self._fork.requires_grad)

    def inputs(self, last: bool) -> dict[str, Any]:
        """What a subnet gets in place of images: `hidden_states` of shape (batch, grid, grid, channels), and
        `first_layer`. The backward of the `last` must come after those of the others."""
        if last and self._fork.requires_grad:
            self._fork.register_hook(self._with_the_others)
        return {"hidden_states": self._fork if last else self._copy, "first_layer": self.depth}

    def _with_the_others(self, gradient: torch.Tensor) -> torch.Tensor:
        """The fork's gradient over all subnets, from that of the last."""
        return gradient if self._copy.grad is None else gradient + self._copy.grad


def share(engine: Engine, batch: dict[str, torch.Tensor], subnets: Mapping[str, Subnet | None]) -> SharedLayers | None:
    """What these subnets share of the batch. None for one alone, and for a sharded model: its first layers have their
    weights only while its own forward runs."""
    if len(subnets) == 1 or is_sharded(engine.model):
        return None
    model: Any = engine.accelerator.unwrap_model(engine.model)
    with engine.accelerator.autocast():
        encoder = model if isinstance(model, SuperSamVisionEncoder) else model.vision_encoder
        return SharedLayers(encoder, batch["pixel_values"], subnets.values())


__all__ = ["SharedLayers", "share"]
