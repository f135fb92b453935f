"""What a network in the middle of a search costs: physically, and as the differentiable g(V) of the paper."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from ..elastic.vit_cost import ViTShape
from ..models.ofb_vit import OfbViTForImageClassification
from .masking import MaskedModel
from .space import SearchSpace
from .stack import StackValues


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


def soft_macs(shape: ViTShape, embedding: Amount, attention: Amount, mlp: Amount) -> Amount:
    """g(V): multiply-accumulates of the expected widths, as the released code counts them (without the CLS token,
    with softmax, norms and biases).

    Every layer adds a constant and products with its own sums, so that the sums over all layers are enough.

    Args:
        shape ([`ViTShape`]): Sizes of the weights as they are.
        embedding (`torch.Tensor` or `float`): Sum of V over the embedding.
        attention (`torch.Tensor` or `float`): Sum of V over heads and channels of all layers.
        mlp (`torch.Tensor` or `float`): Sum of V over the MLPs of all layers.
    """
    n, layers = (shape.image_size // shape.patch_size) ** 2, len(shape.mlp_dims)
    heads = shape.num_heads_out * shape.num_labels
    # patches, classifier, biases of output projections and of the MLPs' second linears
    of_embedding = n * shape.num_channels * shape.patch_size**2 + heads + 2 * n * layers
    # q, k, v and output projection; biases; attention logits and weighted values
    of_attention = 4 * n * embedding + 3 * n + 2 * n**2
    softmax, norms = 6 * n**2 * sum(shape.num_heads), 2 * n * shape.hidden_size * layers
    return embedding * of_embedding + attention * of_attention + mlp * (2 * n * embedding + n) + softmax + norms


def soft_parameters(shape: ViTShape, embedding: Amount, attention: Amount, mlp: Amount) -> Amount:
    """Parameters of the expected widths; equal to the number of all parameters at V = 1. Arguments of
    [`soft_macs`]."""
    n, layers = (shape.image_size // shape.patch_size) ** 2, len(shape.mlp_dims)
    # patch projection with bias, positions of patches and special tokens, special tokens, last norm
    per_channel = shape.num_channels * shape.patch_size**2 + 1 + n + 2 * shape.num_special_tokens + 2
    heads = shape.num_heads_out * shape.num_labels
    # biases of output projections and of the MLPs' second linears, two norms
    of_embedding = per_channel + heads + 6 * layers
    biases = 3 if shape.qkv_bias else 0
    return embedding * of_embedding + heads + attention * (4 * embedding + biases) + mlp * (2 * embedding + 1)


def soft_cost(masked: MaskedModel, kind: str, values: dict[str, StackValues] | None = None) -> torch.Tensor:
    """g(V) of a masked model, in MACs or parameters.

    Args:
        kind (`str`): "macs" or "params".
        values (`dict`, *optional*): What the masks' scores are, from [`MaskedModel.evaluate`] or a forward.
    """
    shape = physical_shape(masked.model)
    values = masked.evaluate() if values is None else values
    widths = _widths(shape) | {name: value.sparsity.sum() for name, value in values.items()}
    return torch.as_tensor(_count(kind)(shape, **widths))


def full_cost(shape: ViTShape, kind: str) -> float:
    """g(V) at V = 1."""
    return float(_count(kind)(shape, **_widths(shape)))


def _widths(shape: ViTShape) -> dict[str, Amount]:
    """Sums of V where nothing is masked, by kind of submodule."""
    attention = sum(heads * width for heads, width in zip(shape.num_heads, shape.head_dims))
    return {"embedding": shape.hidden_size, "attention": attention, "mlp": sum(shape.mlp_dims)}


def _count(kind: str) -> Callable[..., Amount]:
    return soft_macs if kind == "macs" else soft_parameters


__all__ = ["full_cost", "physical_shape", "smallest_shape", "soft_cost", "soft_macs", "soft_parameters"]
