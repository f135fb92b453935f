"""What a network in the middle of a search costs: physically, and as the differentiable g(V) of the paper."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from ..elastic.vit_cost import ViTShape
from ..models.ofb_vit import OfbViTForImageClassification
from .masking import MaskedModel
from .space import SearchSpace


Amount = torch.Tensor | float


def physical_shape(model: OfbViTForImageClassification) -> ViTShape:
    """The sizes that a model's weights have, which during a search are smaller than its config says."""
    layers: list[Any] = list(model.vit.layers)
    attentions = [layer.attention for layer in layers]
    head_dims = tuple(attention.head_dim for attention in attentions)
    return replace(
        ViTShape.from_config(model.config),
        hidden_size=model.vit.layernorm.weight.shape[0],
        num_heads=tuple(attention.q_proj.weight.shape[0] // d for attention, d in zip(attentions, head_dims)),
        head_dims=head_dims,
        mlp_dims=tuple(layer.mlp.fc1.weight.shape[0] for layer in layers),
    )


def smallest_shape(shape: ViTShape, space: SearchSpace) -> ViTShape:
    """The smallest network that the search can reach."""
    return replace(
        shape,
        hidden_size=space.embedding_sizes(shape.hidden_size)[0],
        num_heads=tuple(space.head_sizes(heads)[0] for heads in shape.num_heads),
        head_dims=tuple(space.channel_sizes(width)[0] for width in shape.head_dims),
        mlp_dims=tuple(space.mlp_sizes(width)[0] for width in shape.mlp_dims),
    )


def soft_macs(
    shape: ViTShape, embedding: Amount, attention: Sequence[Amount], mlp: Sequence[Amount]
) -> torch.Tensor | float:
    """g(V): multiply-accumulates of the expected widths, as the released code counts them (without the CLS token,
    with softmax, norms and biases).

    Args:
        shape ([`ViTShape`]): Sizes of the weights as they are.
        embedding (`torch.Tensor` or `float`): Sum of V over the embedding.
        attention (`Sequence`): For every layer, sum of V over heads and channels.
        mlp (`Sequence`): For every layer, sum of V over the MLP.
    """
    n = (shape.image_size // shape.patch_size) ** 2
    heads = shape.num_heads_out * shape.num_labels
    total: Amount = n * embedding * shape.num_channels * shape.patch_size**2 + embedding * heads
    for layer_heads, s, m in zip(shape.num_heads, attention, mlp):
        projections = 3 * n * embedding * s + 3 * n * s + n * s * embedding + n * embedding
        attend = 2 * n**2 * s + 6 * layer_heads * n**2
        total = total + projections + attend + n * (2 * embedding * m + embedding + m) + 2 * shape.hidden_size * n
    return total


def soft_parameters(
    shape: ViTShape, embedding: Amount, attention: Sequence[Amount], mlp: Sequence[Amount]
) -> torch.Tensor | float:
    """Parameters of the expected widths; equal to the number of all parameters at V = 1."""
    n = (shape.image_size // shape.patch_size) ** 2
    # patch projection with bias, positions of patches and special tokens, special tokens, last norm
    per_channel = shape.num_channels * shape.patch_size**2 + 1 + n + 2 * shape.num_special_tokens + 2
    heads = shape.num_heads_out * shape.num_labels
    total: Amount = embedding * (per_channel + heads) + heads
    bias = 3 if shape.qkv_bias else 0
    for s, m in zip(attention, mlp):
        total = total + 4 * s * embedding + bias * s + embedding + 2 * embedding * m + m + embedding + 4 * embedding
    return total


def soft_cost(masked: MaskedModel, kind: str) -> torch.Tensor:
    """g(V) of a masked model, in MACs or parameters.

    Args:
        kind (`str`): "macs" or "params".
    """
    shape = physical_shape(masked.model)
    total = {name: mask.sparsity().sum() for name, mask in masked.masks.items()}
    widths = zip(shape.num_heads, shape.head_dims)
    attention = [total.get(f"attention.{i}", heads * width) for i, (heads, width) in enumerate(widths)]
    mlp = [total.get(f"mlp.{i}", width) for i, width in enumerate(shape.mlp_dims)]
    count = soft_macs if kind == "macs" else soft_parameters
    return torch.as_tensor(count(shape, total.get("embedding", shape.hidden_size), attention, mlp))


def full_cost(shape: ViTShape, kind: str) -> float:
    """g(V) at V = 1."""
    attention = [heads * width for heads, width in zip(shape.num_heads, shape.head_dims)]
    count = soft_macs if kind == "macs" else soft_parameters
    return float(count(shape, shape.hidden_size, attention, shape.mlp_dims))


__all__ = ["full_cost", "physical_shape", "smallest_shape", "soft_cost", "soft_macs", "soft_parameters"]
