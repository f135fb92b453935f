"""ViT and DeiT classifiers: one stream, the embedding, through all layers."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ...elastic.vit_cost import ViTShape
from ...models.ofb_vit import OfbViTForImageClassification
from ..submodules import Slice, columns, rows
from .base import Amount, Block, Family, Patches, Position, Stream


class ViTFamily(Family):
    """[`OfbViTForImageClassification`]."""

    model_class = OfbViTForImageClassification
    shape_class = ViTShape

    def streams(self, model: Any) -> list[Stream]:
        embeddings, norm = model.vit.embeddings, model.vit.layernorm
        tokens = ("cls_token", "distillation_token", "position_embeddings")
        folded = [Slice(embeddings, name, 2) for name in tokens if getattr(embeddings, name) is not None]
        folded += rows(embeddings.patch_embeddings.projection)
        heads = [model.classifier] + ([model.distillation_classifier] if model.config.distillation_head else [])
        inputs = [columns(head) for head in heads if isinstance(head, nn.Linear)]
        return [Stream([embeddings], folded, [*rows(norm), *inputs], [norm])]

    def blocks(self, model: Any) -> list[Block]:
        return [
            Block(layer.attention, layer.mlp, [layer.layernorm_before, layer.layernorm_after])
            for layer in model.vit.layers
        ]

    def without_layers(self, model: Any, layers: Collection[int]) -> Any:
        kept = [layer for i, layer in enumerate(model.vit.layers) if i not in layers]
        model.vit.layers = nn.ModuleList(kept)
        return model

    def stream_widths(self, shape: ViTShape) -> tuple[int, ...]:
        return (shape.hidden_size,)

    def with_stream_widths(self, shape: ViTShape, widths: tuple[int, ...]) -> ViTShape:
        return replace(shape, hidden_size=widths[0])

    def soft_macs(
        self, shape: ViTShape, embedding: torch.Tensor, attention: torch.Tensor, mlp: torch.Tensor
    ) -> Amount:
        return soft_macs(shape, embedding.sum(), attention.sum(), mlp.sum())

    def soft_parameters(
        self, shape: ViTShape, embedding: torch.Tensor, attention: torch.Tensor, mlp: torch.Tensor
    ) -> Amount:
        return soft_parameters(shape, embedding.sum(), attention.sum(), mlp.sum())

    def config_values(self, shape: ViTShape) -> dict[str, Any]:
        layers = [
            {"num_attention_heads": heads, "head_dim": width, "intermediate_size": mlp}
            for heads, width, mlp in zip(shape.num_heads, shape.head_dims, shape.mlp_dims)
        ]
        # Layers that are like the first need no entry of their own.
        own = {i: layer for i, layer in enumerate(layers) if layer != layers[0]}
        values: dict[str, Any] = {"hidden_size": shape.hidden_size, "pooler_output_size": None, **layers[0]}
        values["num_hidden_layers"] = len(layers)
        return values | {"per_layer_config": own or None}

    def architecture(self, shape: ViTShape) -> dict[str, Any]:
        return {
            "hidden_size": shape.hidden_size,
            "num_attention_heads": list(shape.num_heads),
            "head_dim": list(shape.head_dims),
            "intermediate_size": list(shape.mlp_dims),
        }

    def patches(self, model: Any, position: Position) -> Patches:
        embeddings = model.vit.embeddings
        if position == "before":
            return Patches(embeddings.patch_embeddings, 0, embeddings.position_embeddings)
        return Patches(embeddings, embeddings.num_tokens, embeddings.position_embeddings)

    def last_norm(self, model: Any) -> nn.LayerNorm:
        return model.vit.layernorm


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


__all__ = ["ViTFamily", "soft_macs", "soft_parameters"]
