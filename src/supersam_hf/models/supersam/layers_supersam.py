"""The encoder layers of a SuperSAM: stock SAM's, at any of their widths."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.sam.modeling_sam import SamVisionAttention, SamVisionLayer

from .configuration_supersam import SuperSamVisionConfig


class Windowed:
    """Marks layers whose forward takes a `window`. A layer that wraps one and passes the window on bears it too."""


def leading(weight: torch.Tensor, window: int, groups: int, dim: int) -> torch.Tensor:
    """The leading `window` channels of each of the equal `groups` along `dim`: a view for one group, a gathered copy
    for several."""
    if groups == 1:
        return weight.narrow(dim, 0, window)
    # (..., groups * full, ...) -> (..., groups * window, ...)
    return weight.unflatten(dim, (groups, -1)).narrow(dim + 1, 0, window).flatten(dim, dim + 1)


class ElasticLinear(Windowed, nn.Linear):
    """A linear layer that can run on the leading `window` of one of its dimensions.

    Args:
        elastic (`str`): `"out"` if rows of the weight are windowed, `"in"` if columns are.
        groups (`int`): The elastic dimension consists of this many equal groups (heads), each windowed alike.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, elastic: str, groups: int = 1
    ) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.elastic = elastic
        self.groups = groups

    def narrowed(self, window: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weight and bias at `window`: views for one group, a gathered copy for several."""
        if self.elastic == "in":
            return leading(self.weight, window, self.groups, 1), self.bias
        bias = None if self.bias is None else leading(self.bias, window, self.groups, 0)
        return leading(self.weight, window, self.groups, 0), bias

    def forward(self, hidden_states: torch.Tensor, window: int | None = None) -> torch.Tensor:
        if window is None:
            return super().forward(hidden_states)
        return F.linear(hidden_states, *self.narrowed(window))


def narrow_out(layer: nn.Module, hidden_states: torch.Tensor, window: int, full: int, groups: int = 1) -> torch.Tensor:
    """Applies `layer` and keeps the leading `window` of `full` output channels of each group:
    (..., in) to (..., groups * window)."""
    if window == full:
        return layer(hidden_states)
    if isinstance(layer, Windowed):
        return layer(hidden_states, window)
    # An adapter that knows no windows (stock peft) wraps the layer: run it whole, keep what the window keeps.
    return layer(hidden_states).unflatten(-1, (groups, full))[..., :window].flatten(-2)


def narrow_in(layer: nn.Module, hidden_states: torch.Tensor, window: int, full: int, groups: int = 1) -> torch.Tensor:
    """Applies `layer` to inputs that hold only the leading `window` of `full` channels of each group:
    (..., groups * window) to (..., out)."""
    if window == full:
        return layer(hidden_states)
    if isinstance(layer, Windowed):
        return layer(hidden_states, window)
    return layer(F.pad(hidden_states.unflatten(-1, (groups, window)), (0, full - window)).flatten(-2))


class SuperSamMLPBlock(nn.Module):
    """Stock SAM's MLP on its leading `window` hidden units."""

    def __init__(self, config: SuperSamVisionConfig, mlp_dim: int) -> None:
        super().__init__()
        self.lin1 = ElasticLinear(config.hidden_size, mlp_dim, elastic="out")
        self.lin2 = ElasticLinear(mlp_dim, config.hidden_size, elastic="in")
        self.act = ACT2FN[config.hidden_act]
        self.mlp_dim = mlp_dim

    def forward(self, hidden_states: torch.Tensor, window: int | None = None) -> torch.Tensor:
        """(batch, height, width, channels) to the same."""
        window = self.mlp_dim if window is None else window
        hidden_states = self.act(narrow_out(self.lin1, hidden_states, window, self.mlp_dim))
        return narrow_in(self.lin2, hidden_states, window, self.mlp_dim)


class SuperSamVisionAttention(SamVisionAttention):
    """Stock SAM's attention with relative positions, on the leading channels of every head.

    Eager or sdpa is read from the model's config in each forward, so that it can be switched after loading.
    """

    def __init__(self, config: SuperSamVisionConfig, window_size: int, head_dim: int) -> None:
        nn.Module.__init__(self)  # the stock __init__ reads widths that a heterogeneous config does not have
        self.config = config
        self.num_attention_heads = config.num_attention_heads
        self.head_dim = head_dim
        self.scale = config.query_pre_attn_scalar**-0.5
        self.dropout = config.attention_dropout
        width, hidden = self.num_attention_heads * head_dim, config.hidden_size
        groups = self.num_attention_heads
        self.qkv = ElasticLinear(hidden, 3 * width, bias=config.qkv_bias, elastic="out", groups=3 * groups)
        self.proj = ElasticLinear(width, hidden, elastic="in", groups=groups)
        self.use_rel_pos = config.use_rel_pos
        if self.use_rel_pos:
            side = window_size or config.image_size // config.patch_size
            self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, head_dim))
            self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, head_dim))

    def forward(
        self, hidden_states: torch.Tensor, window: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(windows, height, width, channels) to the same, and eager attention weights (windows * heads, tokens,
        tokens); `window` is in channels a head."""
        batch_size, height, width, _ = hidden_states.shape
        heads, head_dim = self.num_attention_heads, self.head_dim if window is None else window
        qkv = narrow_out(self.qkv, hidden_states, head_dim, self.head_dim, 3 * heads)
        # (batch, height, width, 3 * heads * channel) -> (3, batch, heads, height * width, channel)
        qkv = qkv.reshape(batch_size, height * width, 3, heads, -1).permute(2, 0, 3, 1, 4)
        # each (batch * heads, height * width, channel)
        query, key, value = qkv.reshape(3, batch_size * heads, height * width, -1).unbind(0)

        bias = None
        if self.use_rel_pos:
            rel_pos_h, rel_pos_w = self.rel_pos_h[:, :head_dim], self.rel_pos_w[:, :head_dim]
            size = (height, width)
            bias = self.get_decomposed_rel_pos(query, rel_pos_h, rel_pos_w, size, size)
            # (batch * heads, height, width, height, width) -> (batch * heads, tokens, tokens)
            bias = bias.reshape(batch_size * heads, height * width, height * width)

        attend = self._eager if self.config._attn_implementation == "eager" else self._sdpa
        attn_output, attn_weights = attend(query, key, value, bias)
        # (batch * heads, tokens, channel) -> (batch, height, width, heads * channel)
        attn_output = attn_output.reshape(batch_size, heads, height, width, -1)
        attn_output = attn_output.permute(0, 2, 3, 1, 4).reshape(batch_size, height, width, -1)
        return narrow_in(self.proj, attn_output, head_dim, self.head_dim, heads), attn_weights

    def _eager(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        attn_weights = (query * self.scale) @ key.transpose(-2, -1)
        if bias is not None:
            attn_weights = attn_weights + bias
        attn_weights = F.softmax(attn_weights, dtype=torch.float32, dim=-1).to(query.dtype)
        return F.dropout(attn_weights, p=self.dropout, training=self.training) @ value, attn_weights

    def _sdpa(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None
    ) -> tuple[torch.Tensor, None]:
        # (batch * heads, tokens, channel) -> (batch, heads, tokens, channel): the fused kernels want four dimensions
        query, key, value = (x.unflatten(0, (-1, self.num_attention_heads)) for x in (query, key, value))
        if bias is not None:
            bias = bias.unflatten(0, (-1, self.num_attention_heads))
        dropout = self.dropout if self.training else 0.0
        output = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout, scale=self.scale)
        return output.flatten(0, 1), None


class SuperSamVisionLayer(SamVisionLayer):
    """Stock SAM's encoder layer, windowed or global, at any of its widths."""

    def __init__(self, config: SuperSamVisionConfig, window_size: int, mlp_dim: int, head_dim: int) -> None:
        GradientCheckpointingLayer.__init__(self)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attn = SuperSamVisionAttention(config, window_size, head_dim)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = SuperSamMLPBlock(config, mlp_dim)
        self.window_size = window_size

    def forward(
        self, hidden_states: torch.Tensor, mlp_dim: int | None = None, head_dim: int | None = None
    ) -> torch.Tensor:
        """(batch, grid, grid, channels) to the same; MLP of `mlp_dim` units, heads of `head_dim` channels."""
        residual = hidden_states
        hidden_states = self.layer_norm1(hidden_states)
        height, width = hidden_states.shape[1:3]
        if self.window_size > 0:
            hidden_states, padded = self.window_partition(hidden_states, self.window_size)
        hidden_states, _ = self.attn(hidden_states, head_dim)
        if self.window_size > 0:
            hidden_states = self.window_unpartition(hidden_states, self.window_size, padded, (height, width))
        hidden_states = residual + hidden_states
        return hidden_states + self.mlp(self.layer_norm2(hidden_states), mlp_dim)
