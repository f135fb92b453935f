"""Attention with SAM's decomposed relative positions, without a (heads, tokens, tokens) bias in memory.

The bias of query q and key k is `rel_h[q, row(k)] + rel_w[q, column(k)]`. Stock SAM writes it out, which at 1024 px
takes longer than the attention itself. On CPUs it is made here a block at a time, small enough to stay in the cache,
and goes into torch's fused kernel or, where bfloat16 is multiplied in hardware, between two plain products, which are
several times as fast as that kernel there. On GPUs it rides inside the products of the fused kernels: queries are
extended by `rel_h` and `rel_w`, keys by ones at their row and their column.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable


# Bytes a thread of bias, in fp32, at a time: about what lies in a core's caches beside what is made of it.
FUSED_BLOCK, PRODUCT_BLOCK = 8 << 20, 2 << 20
# Fused kernels of GPUs want head widths that are multiples of this.
ALIGNMENT = 8
# Asked once: no compiler sees through the question.
BFLOAT16_PRODUCTS = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def relative_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    rel_h: torch.Tensor,
    rel_w: torch.Tensor,
    scale: float,
    dropout: float = 0.0,
) -> torch.Tensor:
    """softmax(scale * query key^T + bias) value, the fastest way this device has.

    Args:
        query, key, value (`torch.Tensor` of shape `(batch, heads, height * width, channels)`): What attends to what.
        rel_h (`torch.Tensor` of shape `(batch, heads, height * width, height)`): Bias of each query to each row of
            keys.
        rel_w (`torch.Tensor` of shape `(batch, heads, height * width, width)`): And to each column.

    Returns:
        `torch.Tensor`: Of `query`'s shape. In fp32 on a CPU bit for bit what one call with the whole bias gives; to
        rounding elsewhere.
    """
    # Tensors of other types stand for ones without memory, are traced or spread: nothing is gained by blocks of them.
    real = type(query) is torch.Tensor and not torch.compiler.is_compiling()
    if dropout == 0 and query.device.type == "cuda":
        return _extended(query, key, value, rel_h, rel_w, scale)
    if dropout == 0 and query.device.type == "cpu" and real and _blocks_pay(query, key):
        # (batch, heads, ...) -> (batch * heads, ...)
        output = _BlockedAttention.apply(*(x.flatten(0, 1) for x in (query, key, value, rel_h, rel_w)), scale)
        return output.unflatten(0, query.shape[:2])
    bias = _bias(rel_h, rel_w)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout, scale=scale)


def _blocks_pay(query: torch.Tensor, key: torch.Tensor) -> bool:
    """Whether products are faster than the fused kernel, or the bias is more than one block of it."""
    bias_bytes = query[..., 0].numel() * key.shape[-2] * query.element_size()
    return _by_products(query) or bias_bytes > FUSED_BLOCK * torch.get_num_threads()


def _by_products(query: torch.Tensor) -> bool:
    return query.dtype == torch.bfloat16 and BFLOAT16_PRODUCTS


def _extended(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    rel_h: torch.Tensor,
    rel_w: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    batch, heads, tokens, channels = query.shape
    height, width = rel_h.shape[-1], rel_w.shape[-1]
    position = torch.arange(tokens, device=key.device)
    rows, columns = F.one_hot(position // width, height), F.one_hot(position % width, width)
    # (tokens, height + width) -> (batch, heads, tokens, height + width)
    ones = torch.cat([rows, columns], -1).to(key.dtype).expand(batch, heads, -1, -1)
    extended = channels + height + width
    fused, value_width = (-(-width // ALIGNMENT) * ALIGNMENT for width in (extended, channels))
    output = F.scaled_dot_product_attention(
        F.pad(torch.cat([query * scale, rel_h, rel_w], -1), (0, fused - extended)),
        F.pad(torch.cat([key, ones], -1), (0, fused - extended)),
        F.pad(value, (0, value_width - channels)),
        scale=1.0,
    )
    return output[..., :channels]


def _blocks(groups: int, tokens: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Slices of groups and of queries whose biases, of 4 bytes, take about `size` bytes a thread."""
    size *= torch.get_num_threads()
    whole = max(1, min(groups, size // (4 * tokens**2)))
    rows = max(1, min(tokens, size // (4 * tokens)))
    for group in range(0, groups, whole):
        for row in range(0, tokens, rows):
            yield slice(group, group + whole), slice(row, row + rows)


class _BlockedAttention(torch.autograd.Function):
    """Attention of groups (batch * heads), a block of queries at a time, in backward too: saves no attention weights.

    Works on (groups, tokens, channels), and (groups, tokens, height) and (groups, tokens, width) of biases.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        rel_h: torch.Tensor,
        rel_w: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        output, by_products = torch.empty_like(query), _by_products(query)
        turned = _turned(key) if by_products else key
        for group, rows in _blocks(query.shape[0], query.shape[1], PRODUCT_BLOCK if by_products else FUSED_BLOCK):
            block, biases = query[group, rows], (rel_h[group, rows], rel_w[group, rows])
            if by_products:
                output[group, rows] = torch.bmm(_weights(block * scale, turned[group], *biases), value[group])
            else:
                # a batch of one: the fused kernels want four dimensions
                tensors = block[None], key[None, group], value[None, group]
                mask = _bias(*biases)[None]
                output[group, rows] = F.scaled_dot_product_attention(*tensors, attn_mask=mask, scale=scale)[0]
        ctx.save_for_backward(query, key, value, rel_h, rel_w, output)
        ctx.scale = scale
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, rel_h, rel_w, output = ctx.saved_tensors
        grad_query, grad_h, grad_w = (torch.empty_like(x) for x in (query, rel_h, rel_w))
        turned_key, turned_value = _turned(key), _turned(value)
        # sums over all blocks of queries
        grad_key, grad_value = (torch.zeros_like(x, dtype=_exact(x)) for x in (key, value))
        # the backward of a softmax takes off the sum of weights times their gradients
        offset = -(grad_output * output).sum(-1, keepdim=True)
        for group, rows in _blocks(query.shape[0], query.shape[1], PRODUCT_BLOCK):
            scaled, grad = query[group, rows] * ctx.scale, grad_output[group, rows]
            # (groups, rows, tokens)
            weights = _weights(scaled, turned_key[group], rel_h[group, rows], rel_w[group, rows])
            _add_product(grad_value[group], weights.transpose(1, 2), grad)
            grad_weights = torch.baddbmm(offset[group, rows], grad, turned_value[group]).mul_(weights)
            if grad_weights.dtype != _exact(grad_weights):
                # the offset was rounded, the same way for all keys: what it left in their sum, which is zero
                grad_weights.addcmul_(weights, grad_weights.sum(-1, keepdim=True), value=-1)
            # (groups, rows, tokens) -> (groups, rows, height, width)
            grid = grad_weights.unflatten(-1, (rel_h.shape[-1], rel_w.shape[-1]))
            grad_h[group, rows], grad_w[group, rows] = grid.sum(-1), grid.sum(-2)
            grad_query[group, rows] = torch.bmm(grad_weights, key[group]) * ctx.scale
            _add_product(grad_key[group], grad_weights.transpose(1, 2), scaled)
        return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), grad_h, grad_w, None


def _bias(rel_h: torch.Tensor, rel_w: torch.Tensor) -> torch.Tensor:
    """(..., queries, height) and (..., queries, width) to (..., queries, height * width)."""
    return (rel_h[..., :, None] + rel_w[..., None, :]).flatten(-2)


def _weights(query: torch.Tensor, key: torch.Tensor, rel_h: torch.Tensor, rel_w: torch.Tensor) -> torch.Tensor:
    """Attention weights (groups, rows, tokens) of scaled queries to turned keys; bias and softmax in fp32 at least."""
    exact = _exact(query)
    scores = _bias(rel_h.to(exact), rel_w.to(exact))
    return _add_product(scores, query, key).softmax(-1).to(query.dtype)


def _turned(values: torch.Tensor) -> torch.Tensor:
    """(groups, tokens, channels) to (groups, channels, tokens), in memory too: oneDNN would do it again in every
    product."""
    return values.transpose(1, 2).contiguous()


def _exact(tensor: torch.Tensor) -> torch.dtype:
    """In which dtype the softmax and sums over blocks are taken."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Adds the product to `total`, which may be of a wider dtype."""
    return total.baddbmm_(left, right) if total.dtype == left.dtype else total.add_(torch.bmm(left, right))


__all__ = ["relative_attention"]
