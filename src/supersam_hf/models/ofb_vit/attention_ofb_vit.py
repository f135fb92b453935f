"""ViT's attention with any number of heads of any width, by plain products where those are faster than sdpa.

On CPUs that multiply bfloat16 in hardware, two products with a softmax of fp32 between them take about half the time
of torch's fused kernel, backward too, as long as the weights of a few heads lie in the cache.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.vit.modeling_vit import ViTAttention, eager_attention_forward

from .configuration_ofb_vit import OfbViTConfig


# Bytes a thread of attention weights, in fp32, at a time; and of the largest head that products still pay for.
BLOCK, LARGEST = 2 << 20, 16 << 20
# Asked once: no compiler sees through the question.
BFLOAT16_PRODUCTS = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


class OfbViTAttention(ViTAttention):
    """Stock ViT's attention with any number of heads of any width.

    The number of heads follows from the weights and `head_dim`; the logits are scaled by the original head width.
    """

    def __init__(self, config: OfbViTConfig, num_attention_heads: int, head_dim: int) -> None:
        nn.Module.__init__(self)
        # the model's own config, not the layer's copy, so that the attention implementation can be switched later
        self.config = config
        self.head_dim = head_dim
        self.attention_dropout = config.attention_probs_dropout_prob
        self.scaling = config.query_pre_attn_scalar**-0.5
        self.is_causal = False

        width = num_attention_heads * head_dim
        self.q_proj = nn.Linear(config.hidden_size, width, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, width, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, width, bias=config.qkv_bias)
        self.o_proj = nn.Linear(width, config.hidden_size)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(batch, tokens, hidden_size) to the same, and eager attention weights (batch, heads, tokens, tokens)."""
        implementation = self.config._attn_implementation
        dropout = self.attention_dropout if self.training else 0.0
        # (batch, tokens, heads * head_dim) -> (batch, heads, tokens, head_dim)
        query, key, value = (
            projection(hidden_states).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        if implementation == "sdpa" and attention_mask is None and dropout == 0 and _products_pay(query):
            heads = (x.flatten(0, 1) for x in (query, key, value))
            attended = _ProductAttention.apply(*heads, self.scaling).unflatten(0, query.shape[:2]).transpose(1, 2)
            return self.o_proj(attended.flatten(2)), None
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        attended, weights = attend(
            self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )
        return self.o_proj(attended.flatten(2)), weights


def _products_pay(query: torch.Tensor) -> bool:
    # Tensors of other types stand for ones without memory, are traced or spread.
    real = type(query) is torch.Tensor and not torch.compiler.is_compiling()
    in_hardware = BFLOAT16_PRODUCTS and query.device.type == "cpu" and query.dtype == torch.bfloat16
    return real and in_hardware and 4 * query.shape[-2] ** 2 <= LARGEST


class _ProductAttention(torch.autograd.Function):
    """Attention of heads (batch * heads, tokens, head_dim), a few at a time; saves no attention weights."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
        output, turned_key = torch.empty_like(query), _turned(key)
        for some in _blocks(query):
            output[some] = torch.bmm(_weights(query[some] * scale, turned_key[some]), value[some])
        ctx.save_for_backward(query, key, value, output)
        ctx.scale = scale
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, output = ctx.saved_tensors
        grad_query, grad_key, grad_value = (torch.empty_like(x) for x in (query, key, value))
        turned_key, turned_value = _turned(key), _turned(value)
        # the backward of a softmax takes off the sum of weights times their gradients
        offset = -(grad_output * output).sum(-1, keepdim=True)
        for some in _blocks(query):
            scaled, grad = query[some] * ctx.scale, grad_output[some]
            weights = _weights(scaled, turned_key[some])  # (heads, tokens, tokens)
            grad_value[some] = torch.bmm(weights.transpose(1, 2), grad)
            grad_weights = torch.baddbmm(offset[some], grad, turned_value[some]).mul_(weights)
            # the offset was rounded, the same way for all keys: what it left in their sum, which is zero
            grad_weights.addcmul_(weights, grad_weights.sum(-1, keepdim=True), value=-1)
            grad_query[some] = torch.bmm(grad_weights, key[some]) * ctx.scale
            grad_key[some] = torch.bmm(grad_weights.transpose(1, 2), scaled)
        return grad_query, grad_key, grad_value, None


def _blocks(query: torch.Tensor) -> Iterator[slice]:
    """Slices of heads whose weights, of 4 bytes, take about `BLOCK` bytes a thread."""
    heads, tokens, _ = query.shape
    count = max(1, BLOCK * torch.get_num_threads() // (4 * tokens**2))
    return (slice(first, first + count) for first in range(0, heads, count))


def _weights(query: torch.Tensor, turned_key: torch.Tensor) -> torch.Tensor:
    """Attention weights (heads, tokens, tokens) of scaled queries; softmax in fp32 at least."""
    scores = torch.bmm(query, turned_key)
    return scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(query.dtype)


def _turned(values: torch.Tensor) -> torch.Tensor:
    """(heads, tokens, channels) to (heads, channels, tokens), in memory too: oneDNN would do it again in every
    product."""
    return values.transpose(1, 2).contiguous()


__all__ = ["OfbViTAttention"]
