"""SAM's mask decoder on the objects of a batch, without what `SamModel.forward` does again and again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.sam.modeling_sam import eager_attention_forward


PROMPTS = ("input_boxes", "input_points", "input_labels")


@dataclass(frozen=True)
class EmbeddedPrompts:
    """The prompts of a batch's objects, as the mask decoder takes them: no subnet changes them.

    Args:
        owner (`torch.Tensor` of shape `(objects,)`): Which image of the batch each object is in.
        sparse (`torch.Tensor` of shape `(objects, tokens, channels)`): Embedded points or boxes.
        dense (`torch.Tensor` of shape `(batch, channels, grid, grid)`): SAM's "no mask", a view of one vector.
        positions (`torch.Tensor` of shape `(1, grid * grid, channels)`): Where in the image an embedding lies.
    """

    owner: torch.Tensor
    sparse: torch.Tensor
    dense: torch.Tensor
    positions: torch.Tensor

    @classmethod
    def of(cls, model: Any, batch: Mapping[str, torch.Tensor]) -> "EmbeddedPrompts":
        """Embeds the prompts of the slots that hold an object (`object_mask`); the others are left out."""
        points, labels, boxes = (batch.get(name) for name in ("input_points", "input_labels", "input_boxes"))
        sparse, dense = model.prompt_encoder(points, labels, boxes, None)
        held = batch["object_mask"]
        positions = model.get_image_wide_positional_embeddings()
        return cls(held.nonzero()[:, 0], sparse[held], dense, _tokens(positions))

    @property
    def nbytes(self) -> int:
        return self.owner.nbytes + self.sparse.nbytes + self.positions.nbytes


def decode(decoder: Any, embeddings: torch.Tensor, prompts: EmbeddedPrompts) -> tuple[torch.Tensor, torch.Tensor]:
    """All mask tokens' masks of each object, and what IoU each predicts: `SamMaskDecoder.forward`, where
    `multimask_output` only picks the first or the others of one pass.

    What the first block makes of an image before it has seen a prompt is made once an image, not once a prompt.

    Args:
        decoder (`SamMaskDecoder`): Of a SAM or SuperSAM.
        embeddings (`torch.Tensor` of shape `(batch, channels, grid, grid)`): The image encoder's.

    Returns:
        `tuple`: Logits `(objects, 4, 4 * grid, 4 * grid)` and predicted IoUs `(objects, 4)`.
    """
    outputs = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    outputs = outputs.expand(len(prompts.sparse), -1, -1)
    tokens = torch.cat([outputs, prompts.sparse], dim=1).to(outputs.dtype)
    image = _tokens(embeddings + prompts.dense)
    queries, image = _transform(decoder.transformer, tokens, image, prompts)
    grid = embeddings.shape[-1]
    # (objects, grid * grid, channels) -> (objects, channels, grid, grid)
    image = decoder.upscale_conv1(image.transpose(1, 2).unflatten(2, (grid, grid)))
    image = decoder.activation(decoder.upscale_layer_norm(image))
    image = decoder.activation(decoder.upscale_conv2(image))  # (objects, channels / 8, 4 * grid, 4 * grid)
    mixed = torch.stack([mlp(queries[:, 1 + i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)], dim=1)
    masks = (mixed @ image.flatten(2)).unflatten(2, image.shape[2:])
    return masks, decoder.iou_prediction_head(queries[:, 0])


def _tokens(image: torch.Tensor) -> torch.Tensor:
    """(batch, channels, grid, grid) to (batch, grid * grid, channels)."""
    return image.flatten(2).transpose(1, 2).contiguous()


def _transform(
    transformer: Any, tokens: torch.Tensor, image: torch.Tensor, prompts: EmbeddedPrompts
) -> tuple[torch.Tensor, torch.Tensor]:
    """`SamTwoWayTransformer.forward`, from one image each to one an object: (objects, tokens, channels) and
    (objects, grid * grid, channels)."""
    queries, owner = tokens, prompts.owner
    for number, block in enumerate(transformer.layers):
        queries = block.layer_norm1(_self_attended(block, queries, tokens))
        reading, writing = block.cross_attn_token_to_image, block.cross_attn_image_to_token
        placed = image + prompts.positions
        of_image = [_heads(reading, reading.k_proj(placed)), _heads(reading, reading.v_proj(image))]
        of_image += [_heads(writing, writing.q_proj(placed)), image]
        if number == 0:
            of_image = [values[owner] for values in of_image]
        key, value, query, image = of_image
        queries = queries + _attend(reading, _heads(reading, reading.q_proj(queries + tokens)), key, value)
        queries = block.layer_norm2(queries)
        queries = block.layer_norm3(queries + block.mlp(queries))
        key, value = writing.k_proj(queries + tokens), writing.v_proj(queries)
        written = _attend(writing, query, _heads(writing, key), _heads(writing, value))
        image = block.layer_norm4(image + written)
    last = transformer.final_attn_token_to_image
    attended = _attention(last, queries + tokens, image + prompts.positions, image)
    return transformer.layer_norm_final_attn(queries + attended), image


def _self_attended(block: Any, queries: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    if block.skip_first_layer_pe:
        return _attention(block.self_attn, queries, queries, queries)
    placed = queries + tokens
    return queries + _attention(block.self_attn, placed, placed, queries)


def _attention(layer: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """`SamAttention.forward` on (objects, tokens, channels)."""
    projected = layer.q_proj(query), layer.k_proj(key), layer.v_proj(value)
    return _attend(layer, *(_heads(layer, values) for values in projected))


def _heads(layer: Any, values: torch.Tensor) -> torch.Tensor:
    """(batch, tokens, heads * channels) to (batch, heads, tokens, channels)."""
    return values.unflatten(-1, (layer.num_attention_heads, -1)).transpose(1, 2)


def _attend(layer: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The rest of `SamAttention.forward`, from (objects, heads, tokens, channels) to (objects, tokens, channels)."""
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(layer.config._attn_implementation, eager_attention_forward)
    attended, _ = attend(
        layer, query, key, value, attention_mask=None, dropout=0.0, scaling=layer.scaling, is_causal=False
    )
    return layer.out_proj(attended.flatten(-2))


__all__ = ["PROMPTS", "EmbeddedPrompts", "decode"]
