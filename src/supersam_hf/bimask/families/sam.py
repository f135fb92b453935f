"""SAM's image encoder: MLP widths, heads, and Q-K-V channels, which all heads share like their relative positions."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ...elastic.cost import LayerShape, SamShape, count_macs, count_parameters, layer_macs
from ...models.supersam import Subnet, SuperSamModel
from ...models.supersam.extraction_supersam import layer_values, subnet_config
from ..space import SearchSpace
from ..submodules import Slice, Submodule
from .base import Amount, Block, Family, Patches, Position, Sizes, Stream


class SamBlock(Block):
    """A layer of the encoder; what else holds its widths is told of a cut."""

    fused = 3
    shared_channels = True

    @property
    def projections(self) -> list[nn.Linear]:
        return [self.attention.qkv]

    @property
    def output(self) -> nn.Linear:
        return self.attention.proj

    @property
    def linears(self) -> tuple[nn.Linear, nn.Linear]:
        return self.mlp.lin1, self.mlp.lin2

    def attention_resized(self, heads: int, channels: int) -> None:
        attention = self.attention
        attention.head_dim, attention.num_attention_heads = channels, heads
        attention.qkv.groups, attention.proj.groups = 3 * heads, heads

    def mlp_resized(self, groups: int, units: int) -> None:
        self.mlp.mlp_dim = units


class SamFamily(Family):
    """[`SuperSamModel`], which any SAM becomes. Neck, prompt encoder and mask decoder stay as they are."""

    model_class = SuperSamModel
    shape_class = SamShape

    def streams(self, model: Any) -> list[Stream]:
        return [Stream([], [], [], [])]

    def submodules(self, model: Any, space: SearchSpace) -> dict[str, Submodule]:
        width = model.config.vision_config.hidden_size
        if space.embedding_sizes(width) != [width]:
            raise ValueError("`space.embedding_ratio` must be null: the embedding of a SAM keeps its width.")
        return super().submodules(model, space)

    def blocks(self, model: Any) -> list[Block]:
        encoder = model.vision_encoder
        return [
            SamBlock(layer.attn, layer.mlp, [layer.layer_norm1, layer.layer_norm2], positions=_positions(layer.attn))
            for layer in encoder.layers
        ]

    def without_layers(self, model: Any, layers: Collection[int]) -> Any:
        config = model.config.vision_config
        widths = [one for i, one in enumerate(zip(*config.layer_widths)) if i not in layers]
        kept = tuple(i for i in range(config.num_hidden_layers) if i not in layers)
        subnet = Subnet(kept, *zip(*widths))
        if model.device.type == "meta":  # there are no weights to take along
            with torch.device("meta"):
                return type(model)(subnet_config(model.config, subnet))
        return model.extract(subnet)

    def stream_widths(self, shape: SamShape) -> tuple[int, ...]:
        return (shape.hidden_size,)

    def with_stream_widths(self, shape: SamShape, widths: tuple[int, ...]) -> SamShape:
        return replace(shape, hidden_size=widths[0])

    def sizes(self, shape: SamShape) -> Sizes:
        found: Sizes = {"embedding": (1, shape.hidden_size)}
        found |= {f"attention.{i}": (layer.num_heads, layer.head_dim) for i, layer in enumerate(shape.layers)}
        return found | {f"mlp.{i}": (1, layer.mlp_dim) for i, layer in enumerate(shape.layers)}

    def _of_sizes(self, shape: SamShape, sizes: Sizes) -> SamShape:
        layers = []
        for i, layer in enumerate(shape.layers):
            (heads, channels), (_, units) = sizes[f"attention.{i}"], sizes[f"mlp.{i}"]
            layers.append(layer._replace(num_heads=heads, head_dim=channels, mlp_dim=units))
        return replace(shape, layers=tuple(layers))

    def soft_macs(
        self, shape: SamShape, embedding: torch.Tensor, attention: torch.Tensor, mlp: torch.Tensor
    ) -> Amount:
        """As [`count_macs`] of the image encoder, of expected widths: it is linear in each."""
        of_layers = [
            (
                layer_macs(shape, layer._replace(num_heads=1, head_dim=1, mlp_dim=0)),
                2 * shape.grid**2 * shape.hidden_size,
            )
            for layer in shape.layers
        ]
        return _linear(shape, of_layers, count_macs(shape), attention, mlp)

    def soft_parameters(
        self, shape: SamShape, embedding: torch.Tensor, attention: torch.Tensor, mlp: torch.Tensor
    ) -> Amount:
        """As [`count_parameters`] of the whole SAM, of expected widths; a channel's relative positions are shared by
        as many heads as there are."""
        hidden = shape.hidden_size
        of_layers = []
        for layer in shape.layers:
            positions = 2 * (2 * layer.side - 1) * shape.use_rel_pos / layer.num_heads
            of_layers.append((4 * hidden + 3 * shape.qkv_bias + positions, 2 * hidden + 1))
        return _linear(shape, of_layers, count_parameters(shape), attention, mlp)

    def config_values(self, shape: SamShape) -> dict[str, Any]:
        """Of the image encoder's config."""
        heads, mlp_dims, head_dims = zip(*((x.num_heads, x.mlp_dim, x.head_dim) for x in shape.layers))
        return layer_values(heads, mlp_dims, head_dims)

    def deployed_values(self, config: Any, shape: SamShape) -> dict[str, Any]:
        data = config.to_dict()
        data["vision_config"].pop("per_layer_config", None)
        data["vision_config"] |= self.config_values(shape)
        return data | {"elastic_space": None, "subnet": None, "subnet_name": None}

    def architecture(self, shape: SamShape) -> dict[str, Any]:
        return {
            "hidden_size": shape.hidden_size,
            "num_attention_heads": [layer.num_heads for layer in shape.layers],
            "head_dim": [layer.head_dim for layer in shape.layers],
            "intermediate_size": [layer.mlp_dim for layer in shape.layers],
        }

    def patches(self, model: Any, position: Position) -> Patches:
        raise ValueError(NO_PMIM)

    def last_norm(self, model: Any) -> nn.LayerNorm:
        raise ValueError(NO_PMIM)


NO_PMIM = "Masked image modelling is for classifiers; a SAM is searched with its own loss: `pmim` must be off."


def _positions(attention: Any) -> list[Slice]:
    if not attention.use_rel_pos:
        return []
    return [Slice(attention, name, 1, entries="units") for name in ("rel_pos_h", "rel_pos_w")]


def _linear(
    shape: SamShape,
    of_layers: Sequence[tuple[float, float]],
    total: int,
    attention: torch.Tensor,
    mlp: torch.Tensor,
) -> torch.Tensor:
    """What grows with every channel of a layer's attention and with every unit of its MLP, and `total` where both are
    whole."""
    weights = attention.new_tensor(of_layers)  # (layers, 2)
    whole = attention.new_tensor([_widths(layer) for layer in shape.layers])
    return (weights * (torch.stack([attention, mlp], 1) - whole)).sum() + total


def _widths(layer: LayerShape) -> tuple[int, int]:
    return layer.num_heads * layer.head_dim, layer.mlp_dim


__all__ = ["SamFamily"]
