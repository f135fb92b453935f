"""Swin classifiers: a stream a stage; patch merging reads four neighbours of one and writes to the next."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ...elastic.swin_cost import SwinShape
from ...models.ofb_swin import OfbSwinForImageClassification
from ..submodules import Slice, columns, rows
from .base import Amount, Block, Family, Patches, Position, Stream


NEIGHBOURS = 4  # that patch merging puts side by side


class SwinFamily(Family):
    """[`OfbSwinForImageClassification`]."""

    model_class = OfbSwinForImageClassification
    shape_class = SwinShape

    def streams(self, model: Any) -> list[Stream]:
        swin, head = model.swin, model.classifier
        merging = [stage.downsample for stage in swin.encoder.layers[:-1]]
        streams = [self._embedding(swin.embeddings)]
        streams += [Stream([m.reduction], list(rows(m.reduction)), [], []) for m in merging]
        for stream, downsample in zip(streams, merging):
            stream.norms.append(downsample.norm)
            pieces = [*rows(downsample.norm), columns(downsample.reduction)]
            stream.sliced.extend(replace(piece, copies=NEIGHBOURS) for piece in pieces)
        streams[-1].norms.append(swin.layernorm)
        streams[-1].sliced.extend(rows(swin.layernorm))
        if isinstance(head, nn.Linear):
            streams[-1].sliced.append(columns(head))
        return streams

    def _embedding(self, embeddings: Any) -> Stream:
        """Patches are normalised before they are written: the mask goes into that norm, not into the projection."""
        folded = list(rows(embeddings.norm))
        if embeddings.position_embeddings is not None:
            folded.append(Slice(embeddings, "position_embeddings", 2))
        projection = embeddings.patch_embeddings.projection
        # the last module of the embeddings, whose output is a tensor
        return Stream([embeddings.dropout], folded, list(rows(projection)), [embeddings.norm])

    def blocks(self, model: Any) -> list[Block]:
        return [
            Block(
                layer.attention,
                layer.mlp,
                [layer.layernorm_before, layer.layernorm_after],
                stage,
                [Slice(layer.attention.relative_position_bias, "relative_position_bias_table", 1, entries="groups")],
            )
            for stage, layers in enumerate(model.swin.encoder.layers)
            for layer in layers.blocks
        ]

    def stream_widths(self, shape: SwinShape) -> tuple[int, ...]:
        return shape.hidden_sizes

    def with_stream_widths(self, shape: SwinShape, widths: tuple[int, ...]) -> SwinShape:
        return replace(shape, hidden_sizes=widths)

    def soft_macs(
        self, shape: SwinShape, embedding: torch.Tensor, attention: torch.Tensor, mlp: torch.Tensor
    ) -> Amount:
        """As [`swin_cost.count_macs`], of expected widths."""
        total: Amount = embedding[0] * (shape.grids[0] ** 2 * shape.num_channels * shape.patch_size**2)
        for stage, blocks in _stages(shape):
            tokens, padded, window = shape.tokens(stage)
            total = total + attention[blocks].sum() * (2 * padded * (2 * embedding[stage] + window))
            total = total + mlp[blocks].sum() * (2 * tokens * embedding[stage])
        for stage in range(1, len(shape.depths)):
            total = total + embedding[stage - 1] * embedding[stage] * (NEIGHBOURS * shape.grids[stage] ** 2)
        return total + embedding[-1] * shape.num_labels

    def soft_parameters(
        self, shape: SwinShape, embedding: torch.Tensor, attention: torch.Tensor, mlp: torch.Tensor
    ) -> Amount:
        """As [`swin_cost.count_parameters`], of expected widths; heads count as many as there are."""
        positions = shape.absolute_positions * (shape.image_size // shape.patch_size) ** 2
        # patch projection with bias, norm, positions; relative positions; last norm and classifier
        total: Amount = embedding[0] * (shape.num_channels * shape.patch_size**2 + 3 + positions)
        total = total + (2 * shape.window_size - 1) ** 2 * sum(shape.num_heads)
        total = total + embedding[-1] * (2 + shape.num_labels) + shape.num_labels
        for stage, blocks in _stages(shape):
            # norms, and biases of output projections and of the MLPs' second linears
            total = total + embedding[stage] * (6 * shape.depths[stage])
            total = total + attention[blocks].sum() * (4 * embedding[stage] + 3 * shape.qkv_bias)
            total = total + mlp[blocks].sum() * (2 * embedding[stage] + 1)
        for stage in range(1, len(shape.depths)):
            total = total + embedding[stage - 1] * (NEIGHBOURS * (2 + embedding[stage]))
        return total

    def config_values(self, shape: SwinShape) -> dict[str, Any]:
        return {
            "hidden_sizes": list(shape.hidden_sizes),
            "block_num_heads": list(shape.num_heads),
            "block_head_dims": list(shape.head_dims),
            "block_intermediate_sizes": list(shape.mlp_dims),
        }

    def architecture(self, shape: SwinShape) -> dict[str, Any]:
        return {
            "hidden_sizes": list(shape.hidden_sizes),
            "num_attention_heads": list(shape.num_heads),
            "head_dim": list(shape.head_dims),
            "intermediate_size": list(shape.mlp_dims),
        }

    def patches(self, model: Any, position: Position) -> Patches:
        """Masked are squares of as many patches as one token of the last stage stands for, as in SimMIM."""
        embeddings, across = model.swin.embeddings, 2 ** (len(model.config.depths) - 1)
        module = embeddings.norm if position == "before" else embeddings.dropout
        return Patches(module, 0, embeddings.norm.weight, across)

    def last_norm(self, model: Any) -> nn.LayerNorm:
        return model.swin.layernorm


def _stages(shape: SwinShape) -> Iterator[tuple[int, slice]]:
    """Each stage and its blocks."""
    start = 0
    for stage, depth in enumerate(shape.depths):
        yield stage, slice(start, start + depth)
        start += depth


__all__ = ["SwinFamily"]
