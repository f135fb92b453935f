"""SAM's mask decoder on the objects of a batch, without what `SamModel.forward` does again and again."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.sam.modeling_sam import eager_attention_forward


PROMPTS = ("input_boxes", "input_points", "input_labels")
# On a CPU, bytes of the upscaled images of the objects that are decoded at a time. From 32 MiB on, glibc asks the
# system for each tensor's memory anew, which takes as long as writing it.
OBJECTS_BYTES = 16 << 20


@dataclass(frozen=True)
class EmbeddedPrompts:
    """The prompts of a batch's objects, as the mask decoder takes them: no subnet changes them.

    Args:
        owner (`torch.Tensor` of shape `(objects,)`): Which image of the batch each object is in.
        tokens (`torch.Tensor` of shape `(objects, tokens, channels)`): The decoder's own tokens (IoU, masks), then
            embedded points or boxes.
        queries (`torch.Tensor` of shape `(objects, tokens, channels)`): The same after the self-attention of the first
            block, which has not seen the image.
        dense (`torch.Tensor` of shape `(batch, channels, grid, grid)`): SAM's "no mask", a view of one vector.
        positions (`torch.Tensor` of shape `(1, grid * grid, channels)`): Where in the image an embedding lies.
    """

    owner: torch.Tensor
    tokens: torch.Tensor
    queries: torch.Tensor
    dense: torch.Tensor
    positions: torch.Tensor

    @classmethod
    def of(cls, model: Any, batch: Mapping[str, torch.Tensor]) -> "EmbeddedPrompts":
        """Embeds the prompts of the slots that hold an object (`object_mask`); the others are left out."""
        points, labels, boxes = (batch.get(name) for name in ("input_points", "input_labels", "input_boxes"))
        sparse, dense = model.prompt_encoder(points, labels, boxes, None)
        held, decoder = batch["object_mask"], model.mask_decoder
        outputs = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        outputs = outputs.expand(int(held.sum()), -1, -1)
        tokens = torch.cat([outputs, sparse[held]], dim=1).to(outputs.dtype)
        block = decoder.transformer.layers[0]
        queries = block.layer_norm1(_self_attended(block, tokens, tokens)) if len(tokens) else tokens
        positions = model.get_image_wide_positional_embeddings()
        return cls(held.nonzero()[:, 0], tokens, queries, dense, _tokens(positions))

    def split(self, objects: int) -> Iterator["EmbeddedPrompts"]:
        """So many objects at a time."""
        parts = zip(*(values.split(objects) for values in (self.owner, self.tokens, self.queries)))
        for owner, tokens, queries in parts:
            yield replace(self, owner=owner, tokens=tokens, queries=queries)

    @property
    def nbytes(self) -> int:
        return sum(values.nbytes for values in (self.owner, self.tokens, self.queries, self.positions))


def decode(
    decoder: Any, embeddings: torch.Tensor, prompts: EmbeddedPrompts, *, multimask: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """The masks of each object, and what IoU each mask token predicts: `SamMaskDecoder.forward`, where
    `multimask_output` only picks the first or the others of one pass.

    What the first block makes of an image before it has seen a prompt is made once an image, not once a prompt. An
    object has few tokens and the image many: where they attend to each other, queries, keys and values are brought to
    the image's channels, `q (W x)ᵀ = (q W) xᵀ`, and not every place of the image to theirs. The result is the same up
    to rounding.

    Args:
        decoder (`SamMaskDecoder`): Of a SAM or SuperSAM.
        embeddings (`torch.Tensor` of shape `(batch, channels, grid, grid)`): The image encoder's.
        multimask (`bool`): Masks of all four mask tokens, or of the first alone.

    Returns:
        `tuple`: Logits `(objects, 4 or 1, 4 * grid, 4 * grid)` and predicted IoUs `(objects, 4)`.
    """
    images = _Images.of(decoder.transformer, _tokens(embeddings + prompts.dense), prompts.positions)
    objects = len(prompts.owner)
    if embeddings.device.type == "cpu":
        channels = decoder.upscale_conv2.out_channels
        objects = OBJECTS_BYTES // (images.tokens.shape[1] * 16 * channels * embeddings.element_size())
    grid = embeddings.shape[-1]
    parts = [_decoded(decoder, images, part, grid, multimask) for part in prompts.split(max(1, objects))]
    masks, ious = zip(*parts)
    return torch.cat(masks), torch.cat(ious)


@dataclass(frozen=True)
class _Images:
    """What the first block makes of images before it has seen a prompt.

    Args:
        tokens (`torch.Tensor` of shape `(batch, grid * grid, channels)`): The images themselves.
        keys (`torch.Tensor` of shape `(batch, heads, grid * grid, channels of a head)`): For the tokens of objects.
        values (`torch.Tensor` of shape `(batch, heads, grid * grid, channels of a head)`): Likewise.
    """

    tokens: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor

    @classmethod
    def of(cls, transformer: Any, tokens: torch.Tensor, positions: torch.Tensor) -> "_Images":
        reading = transformer.layers[0].cross_attn_token_to_image
        keys = _heads(reading, reading.k_proj(tokens + positions))
        return cls(tokens, keys, _heads(reading, reading.v_proj(tokens)))


def _decoded(
    decoder: Any, images: _Images, prompts: EmbeddedPrompts, grid: int, multimask: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    mlps = list(decoder.output_hypernetworks_mlps)[: None if multimask else 1]
    queries, image = _transform(decoder.transformer, images, prompts, 1 + len(mlps))
    mixed = torch.stack([mlp(queries[:, 1 + i]) for i, mlp in enumerate(mlps)], dim=1)
    return _masks(decoder, image, mixed, grid), decoder.iou_prediction_head(queries[:, 0])


def _masks(decoder: Any, image: torch.Tensor, mixed: torch.Tensor, grid: int) -> torch.Tensor:
    """Masks (objects, masks, 4 * grid, 4 * grid) from an image an object (objects, grid * grid, channels).

    A transposed convolution by as much as its kernel is a product at every place: 2 x 2 pixels of each. Channels stay
    last, and only the masks are put in the order of pixels.
    """
    norm = decoder.upscale_layer_norm
    image = _product(decoder.upscale_conv1, image)  # (objects, grid * grid, 4, channels / 4)
    image = F.layer_norm(image, image.shape[-1:], norm.weight, norm.bias, norm.eps)
    image = _product(decoder.upscale_conv2, decoder.activation(image), decoder.activation)
    image = image.flatten(1, 3)  # (objects, grid * grid * 4 * 4, channels / 8)
    masks = (mixed @ image.transpose(1, 2)).unflatten(2, (grid, grid, 2, 2, 2, 2))
    # (objects, masks, row, column, and of each twice: row and column in it) -> rows, columns
    return masks.permute(0, 1, 2, 4, 6, 3, 5, 7).flatten(5, 7).flatten(2, 4)


def _product(convolution: Any, image: torch.Tensor, activation: Any = None) -> torch.Tensor:
    """A transposed convolution of kernel and stride 2 at every place, and what follows it: (..., channels) to (..., 4,
    its channels)."""
    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (in, out, 2, 2) -> (2 * 2 * out, in)
    bias, fused = convolution.bias.repeat(4), _fused(image, activation)
    if fused is not None:
        return torch.ops.mkldnn._linear_pointwise(image, weight, bias, fused, [], "none").unflatten(-1, (4, -1))
    image = F.linear(image, weight, bias).unflatten(-1, (4, -1))
    return image if activation is None else activation(image)


def _fused(image: torch.Tensor, activation: Any) -> str | None:
    """What oneDNN calls an activation that it applies, like the bias, while the product is still in the cache: half
    the time. None where it does not."""
    usual = image.device.type == "cpu" and image.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if not usual or torch.is_grad_enabled() or not torch.backends.mkldnn.is_available():
        return None
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):  # torch's own, not promised
        return None
    if activation is None:
        return "none"
    return "gelu" if isinstance(activation, torch.nn.GELU) and activation.approximate == "none" else None


def _tokens(image: torch.Tensor) -> torch.Tensor:
    """(batch, channels, grid, grid) to (batch, grid * grid, channels)."""
    return image.flatten(2).transpose(1, 2).contiguous()


def _transform(
    transformer: Any, images: _Images, prompts: EmbeddedPrompts, wanted: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """`SamTwoWayTransformer.forward`, from one image each to one an object: the `wanted` leading tokens (objects,
    wanted, channels) and images (objects, grid * grid, channels)."""
    queries, tokens, image = prompts.queries, prompts.tokens, images.tokens[prompts.owner]
    placed = image + prompts.positions
    for number, block in enumerate(transformer.layers):
        if number > 0:
            queries = block.layer_norm1(_self_attended(block, queries, tokens))
        reading = block.cross_attn_token_to_image
        if number == 0:
            asking = _heads(reading, reading.q_proj(queries + tokens))
            read = _attend(reading, asking, images.keys[prompts.owner], images.values[prompts.owner])
        else:
            read = _read(reading, queries + tokens, placed, image)
        queries = block.layer_norm2(queries + read)
        queries = block.layer_norm3(queries + block.mlp(queries))
        written = _written(block.cross_attn_image_to_token, image, placed, queries + tokens, queries)
        image = block.layer_norm4(written)
        placed = image + prompts.positions
    queries, tokens = queries[:, :wanted], tokens[:, :wanted]
    read = _read(transformer.final_attn_token_to_image, queries + tokens, placed, image)
    return transformer.layer_norm_final_attn(queries + read), image


def _read(layer: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """`SamAttention.forward` where few tokens (objects, tokens, channels) attend to many places (objects, places,
    channels). The bias of keys is the same for all places, which the softmax does not see."""
    heads = _heads(layer, layer.q_proj(query))  # (objects, heads, tokens, channels of a head)
    asked = _turned(heads, _by_head(layer, layer.k_proj.weight)).flatten(1, 2)
    weights = (layer.scaling * asked @ key.transpose(1, 2)).softmax(-1)  # (objects, heads * tokens, places)
    seen = (weights @ value).unflatten(1, heads.shape[1:3])
    seen = _turned(seen, _by_head(layer, layer.v_proj.weight).mT) + _by_head(layer, layer.v_proj.bias[:, None]).mT
    return layer.out_proj(seen.transpose(1, 2).flatten(-2))


def _written(
    layer: Any, image: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> torch.Tensor:
    """`image` and what `SamAttention.forward` adds to it, where its many places attend to few tokens."""
    keys, values = _heads(layer, layer.k_proj(key)), _heads(layer, layer.v_proj(value))
    offered = _turned(keys, _by_head(layer, layer.q_proj.weight)).flatten(1, 2)
    offset = _turned(keys, _by_head(layer, layer.q_proj.bias[:, None])).flatten(1, 2)
    scores = torch.baddbmm(offset, offered, query.transpose(1, 2))  # (objects, heads * tokens, places)
    weights = (layer.scaling * scores).unflatten(1, keys.shape[1:3]).softmax(2).flatten(1, 2)
    given = _turned(values, _by_head(layer, layer.out_proj.weight.T))  # (objects, heads, tokens, channels)
    # the weights of a head's tokens add up to 1: one head brings the bias
    given[:, 0] += layer.out_proj.bias
    return torch.baddbmm(image, weights.transpose(1, 2), given.flatten(1, 2))


def _turned(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """(objects, heads, tokens, m) by a weight a head, (heads, m, n), to (objects, heads, tokens, n)."""
    return torch.einsum("ohtm,hmn->ohtn", values, weights)


def _by_head(layer: Any, weight: torch.Tensor) -> torch.Tensor:
    """(heads * channels of a head, n) to (heads, channels of a head, n)."""
    return weight.unflatten(0, (layer.num_attention_heads, -1))


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
