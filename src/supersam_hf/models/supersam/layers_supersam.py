"""The encoder layers of a SuperSAM: stock SAM's, at any of their widths."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.sam.modeling_sam import SamVisionAttention, SamVisionLayer

from .attention_supersam import relative_attention
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


def pad_with(tokens: torch.Tensor, empty: torch.Tensor, below: int, beside: int) -> torch.Tensor:
    """Adds rows below and columns beside a grid (batch, height, width, channels) that hold `empty` (1, 1, 1,
    channels)."""
    batch, height, width, _ = tokens.shape
    tokens = torch.cat([tokens, empty.expand(batch, height, beside, -1)], 2)
    return torch.cat([tokens, empty.expand(batch, below, width + beside, -1)], 1)


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
    """Stock SAM's attention with relative positions, in windows or global, on the leading channels of every head.

    Eager or sdpa is read from the model's config in each forward, so that it can be switched after loading. Eager does
    what stock SAM does; sdpa projects only the tokens that are there, not those that pad the windows, and never holds
    the whole bias (see `relative_attention`).
    """

    def __init__(self, config: SuperSamVisionConfig, window_size: int, head_dim: int, num_heads: int) -> None:
        nn.Module.__init__(self)  # the stock __init__ reads widths that a heterogeneous config does not have
        self.config = config
        self.num_attention_heads = num_heads
        self.head_dim = head_dim
        self.window_size = window_size
        self.scale = config.query_pre_attn_scalar**-0.5
        self.dropout = config.attention_dropout
        width, hidden = num_heads * head_dim, config.hidden_size
        self.qkv = ElasticLinear(hidden, 3 * width, bias=config.qkv_bias, elastic="out", groups=3 * num_heads)
        self.proj = ElasticLinear(width, hidden, elastic="in", groups=num_heads)
        self.use_rel_pos = config.use_rel_pos
        if self.use_rel_pos:
            side = window_size or config.image_size // config.patch_size
            self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, head_dim))
            self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, head_dim))

    def forward(
        self, hidden_states: torch.Tensor, window: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(batch, height, width, channels) to the same, and eager attention weights (batch * windows * heads, tokens,
        tokens); `window` is in channels a head."""
        height, width = hidden_states.shape[1:3]
        head_dim = self.head_dim if window is None else window
        size = (self.window_size, self.window_size) if self.window_size else (height, width)
        # rows and columns that fill the last windows
        missing = (-height % size[0], -width % size[1])
        run = self._as_stock if self.config._attn_implementation == "eager" else self._fused
        attn_output, attn_weights = run(hidden_states, head_dim, size, missing)
        return attn_output[:, :height, :width], attn_weights

    def _as_stock(
        self, hidden_states: torch.Tensor, head_dim: int, size: tuple[int, int], missing: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """In stock SAM's order, padding and all, so that gradients are summed in its order too."""
        heads = self.num_attention_heads
        padded = F.pad(hidden_states, (0, 0, 0, missing[1], 0, missing[0]))
        rows, columns = padded.shape[1] // size[0], padded.shape[2] // size[1]
        # (batch, rows * size, columns * size, channels) -> (batch * rows * columns, size, size, channels)
        windows = padded.unflatten(1, (rows, size[0])).unflatten(3, (columns, size[1])).transpose(2, 3).flatten(0, 2)
        qkv = narrow_out(self.qkv, windows, head_dim, self.head_dim, 3 * heads)
        attn_output, attn_weights = self._eager(*self._split(qkv, size), size)
        attn_output = narrow_in(self.proj, self._joined(attn_output, size, size), head_dim, self.head_dim, heads)
        # and back
        attn_output = attn_output.unflatten(0, (-1, rows, columns)).transpose(2, 3)
        return attn_output.flatten(3, 4).flatten(1, 2), attn_weights

    def _fused(
        self, hidden_states: torch.Tensor, head_dim: int, size: tuple[int, int], missing: tuple[int, int]
    ) -> tuple[torch.Tensor, None]:
        """Projects the tokens that are there alone."""
        height, width, channels = hidden_states.shape[1:]
        heads = self.num_attention_heads
        qkv = narrow_out(self.qkv, hidden_states, head_dim, self.head_dim, 3 * heads)
        if any(missing):
            # what the projection makes of a token of zeros
            empty = hidden_states.new_zeros(1, 1, 1, channels)
            qkv = pad_with(qkv, narrow_out(self.qkv, empty, head_dim, self.head_dim, 3 * heads), *missing)
        attn_output, _ = self._sdpa(*self._split(qkv, size), size)
        attn_output = self._joined(attn_output, qkv.shape[1:3], size)[:, :height, :width]
        return narrow_in(self.proj, attn_output, head_dim, self.head_dim, heads), None

    def _split(self, qkv: torch.Tensor, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Windows of `size` tokens and heads: (batch, height, width, 3 * heads * channel) to query, key and value of
        (batch * windows, heads, tokens, channel)."""
        heads = self.num_attention_heads
        # -> (batch, rows, size, columns, size, 3, heads, channel)
        qkv = qkv.unflatten(1, (-1, size[0])).unflatten(3, (-1, size[1])).unflatten(-1, (3, heads, -1))
        # -> (3, batch, rows, columns, heads, size, size, channel) -> (3, batch * windows, heads, tokens, channel)
        query, key, value = qkv.permute(5, 0, 1, 3, 6, 2, 4, 7).flatten(1, 3).flatten(3, 4).unbind(0)
        return query, key, value

    def _joined(self, attn_output: torch.Tensor, grid: Sequence[int], size: tuple[int, int]) -> torch.Tensor:
        """The other way: (batch * windows, heads, tokens, channel) to (batch, height, width, heads * channel)."""
        # -> (batch, rows, columns, heads, size, size, channel)
        windows = (-1, grid[0] // size[0], grid[1] // size[1])
        attn_output = attn_output.unflatten(0, windows).unflatten(4, size)
        # -> (batch, rows, size, columns, size, heads, channel) -> (batch, height, width, heads * channel)
        return attn_output.permute(0, 1, 4, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4).flatten(1, 2)

    def _relative(self, query: torch.Tensor, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Bias of each query to each row and to each column of keys: (batch * windows, heads, tokens, height) and
        (batch * windows, heads, tokens, width)."""
        head_dim = query.shape[-1]
        rel_pos_h = self.get_rel_pos(size[0], size[0], self.rel_pos_h[:, :head_dim])
        rel_pos_w = self.get_rel_pos(size[1], size[1], self.rel_pos_w[:, :head_dim])
        # (batch * windows * heads, height, width, channel)
        grid = query.flatten(0, 1).unflatten(1, size)
        rel_h = torch.einsum("bhwc,hkc->bhwk", grid, rel_pos_h)
        rel_w = torch.einsum("bhwc,wkc->bhwk", grid, rel_pos_w)
        heads = (-1, self.num_attention_heads)  # no shape[0], which tracing would make a constant
        return rel_h.flatten(1, 2).unflatten(0, heads), rel_w.flatten(1, 2).unflatten(0, heads)

    def _eager(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, size: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        attn_weights = (query * self.scale) @ key.transpose(-2, -1)
        if self.use_rel_pos:
            rel_h, rel_w = self._relative(query, size)
            attn_weights = attn_weights + (rel_h[..., :, None] + rel_w[..., None, :]).flatten(-2)
        # what is returned is what the output is made of, so that its gradient can be asked for
        attn_weights = F.softmax(attn_weights, dtype=torch.float32, dim=-1).to(query.dtype).flatten(0, 1)
        by_head = attn_weights.unflatten(0, (-1, self.num_attention_heads))
        attn_output = F.dropout(by_head, p=self.dropout, training=self.training) @ value
        return attn_output, attn_weights

    def _sdpa(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, size: tuple[int, int]
    ) -> tuple[torch.Tensor, None]:
        dropout = self.dropout if self.training else 0.0
        if self.use_rel_pos:
            rel_h, rel_w = self._relative(query, size)
            return relative_attention(query, key, value, rel_h, rel_w, self.scale, dropout), None
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, scale=self.scale), None


class SuperSamVisionLayer(SamVisionLayer):
    """Stock SAM's encoder layer, windowed or global, at any of its widths."""

    def __init__(
        self, config: SuperSamVisionConfig, window_size: int, mlp_dim: int, head_dim: int, num_heads: int
    ) -> None:
        GradientCheckpointingLayer.__init__(self)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attn = SuperSamVisionAttention(config, window_size, head_dim, num_heads)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = SuperSamMLPBlock(config, mlp_dim)

    def forward(
        self,
        hidden_states: torch.Tensor,
        mlp_dim: int | None = None,
        head_dim: int | None = None,
        part: str | None = None,
    ) -> torch.Tensor:
        """(batch, grid, grid, channels) to the same; MLP of `mlp_dim` units, heads of `head_dim` channels.

        Args:
            part (`str`, *optional*): Only the first of the layer's two residual blocks, `"attn"`, or the second,
                `"mlp"`.
        """
        if part != "mlp":
            hidden_states = hidden_states + self.attn(self.layer_norm1(hidden_states), head_dim)[0]
        if part != "attn":
            hidden_states = hidden_states + self.mlp(self.layer_norm2(hidden_states), mlp_dim)
        return hidden_states
