"""Attention with SAM's decomposed relative positions, without a (heads, tokens, tokens) bias in memory.

The bias of query q and key k is `rel_h[q, row(k)] + rel_w[q, column(k)]`. Stock SAM writes it out, which at 1024 px
takes longer than the attention itself. Here it is made a block at a time, small enough to stay in the cache (CPUs), or
rides inside the products: queries are extended by `rel_h` and `rel_w`, keys by ones at their row and their column
(GPUs, and CPUs that multiply matrices of bfloat16 in hardware).
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F


# Bytes of bias at a time: about what lies in a core's cache. Backward holds four such blocks at once.
FORWARD_BLOCK, BACKWARD_BLOCK = 16 << 20, 4 << 20
# Fused kernels of GPUs want head widths that are multiples of this.
ALIGNMENT = 8
# Asked once: no compiler sees through the question.
AMX = torch.cpu._is_amx_tile_supported()
_fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


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
        `torch.Tensor`: Of `query`'s shape. On a CPU in blocks, bit for bit what one call with the whole bias gives;
        to rounding where the bias rides inside.
    """
    if dropout == 0 and _rides_inside(query):
        return _extended(query, key, value, rel_h, rel_w, scale)
    bias_bytes = query[..., 0].numel() * key.shape[-2] * query.element_size()
    # Tensors of other types stand for ones without memory, are traced or spread: nothing is gained by blocks of them.
    real = type(query) is torch.Tensor and not torch.compiler.is_compiling()
    blocks = real and query.device.type == "cpu" and bias_bytes > FORWARD_BLOCK
    if dropout == 0 and blocks:
        # (batch, heads, ...) -> (batch * heads, ...)
        output = _BlockedAttention.apply(*(x.flatten(0, 1) for x in (query, key, value, rel_h, rel_w)), scale)
        return output.unflatten(0, query.shape[:2])
    bias = (rel_h[..., :, None] + rel_w[..., None, :]).flatten(-2)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout, scale=scale)


def _rides_inside(query: torch.Tensor) -> bool:
    """Whether three times the multiplications cost less than moving the bias."""
    if query.device.type == "cpu":
        return query.dtype == torch.bfloat16 and AMX
    return query.device.type == "cuda"


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
    # The kernels of CPUs want value as wide as key, those of GPUs a multiple of the alignment.
    fused = -(-extended // ALIGNMENT) * ALIGNMENT
    value_width = fused if query.device.type == "cpu" else -(-channels // ALIGNMENT) * ALIGNMENT
    output = F.scaled_dot_product_attention(
        F.pad(torch.cat([query * scale, rel_h, rel_w], -1), (0, fused - extended)),
        F.pad(torch.cat([key, ones], -1), (0, fused - extended)),
        F.pad(value, (0, value_width - channels)),
        scale=1.0,
    )
    return output[..., :channels]


def _blocks(groups: int, tokens: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Slices of groups and of queries whose biases, of 4 bytes, take about `size` bytes."""
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
        output, log_sums = torch.empty_like(query), query.new_empty(query.shape[:2], dtype=_exact(query))
        for group, rows in _blocks(query.shape[0], query.shape[1], FORWARD_BLOCK):
            # (groups, rows, tokens)
            bias = (rel_h[group, rows, :, None] + rel_w[group, rows, None, :]).flatten(-2)
            # a batch of one: the fused kernels want four dimensions
            block, keys, values = query[None, group, rows], key[None, group], value[None, group]
            # what `scaled_dot_product_attention` calls on a CPU, which keeps the second result to itself
            attended, sums = _fused(block, keys, values, attn_mask=bias[None], scale=scale)
            output[group, rows], log_sums[group, rows] = attended[0], sums[0]
        ctx.save_for_backward(query, key, value, rel_h, rel_w, output, log_sums)
        ctx.scale = scale
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, rel_h, rel_w, output, log_sums = ctx.saved_tensors
        grad_query, grad_h, grad_w = (torch.empty_like(x) for x in (query, rel_h, rel_w))
        grad_key, grad_value = torch.zeros_like(key), torch.zeros_like(value)
        # softmax(x) = exp(x - log sum exp x), and its backward takes off the sum of weights times their gradients
        shifted = rel_h - log_sums[..., None]
        offset = -(grad_output * output).sum(-1, keepdim=True)
        for group, rows in _blocks(query.shape[0], query.shape[1], BACKWARD_BLOCK):
            scaled, grad = query[group, rows] * ctx.scale, grad_output[group, rows]
            # (groups, rows, tokens)
            weights = (shifted[group, rows, :, None] + rel_w[group, rows, None, :]).flatten(-2)
            weights = _add_product(weights, scaled, key[group].transpose(1, 2)).exp_().to(query.dtype)
            grad_value[group].baddbmm_(weights.transpose(1, 2), grad)
            grad_weights = torch.baddbmm(offset[group, rows], grad, value[group].transpose(1, 2))
            grad_weights *= weights
            # (groups, rows, tokens) -> (groups, rows, height, width)
            grid = grad_weights.unflatten(-1, (rel_h.shape[-1], rel_w.shape[-1]))
            grad_h[group, rows], grad_w[group, rows] = grid.sum(-1), grid.sum(-2)
            grad_query[group, rows] = torch.bmm(grad_weights, key[group]) * ctx.scale
            grad_key[group].baddbmm_(grad_weights.transpose(1, 2), scaled)
        return grad_query, grad_key, grad_value, grad_h, grad_w, None


def _exact(tensor: torch.Tensor) -> torch.dtype:
    """In which dtype logarithms of sums are kept."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """`total`, which may be of a wider dtype, and the product, in the place of `total` where it can be."""
    return total.baddbmm_(left, right) if total.dtype == left.dtype else total.add_(torch.bmm(left, right))


__all__ = ["relative_attention"]
