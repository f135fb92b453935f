"""Parameters and multiply-accumulates of a Swin classifier, in closed form: no model is built."""

from dataclasses import dataclass
from typing import Any

from transformers import SwinConfig

from ..models.ofb_swin.configuration_ofb_swin import OfbSwinConfig


@dataclass(frozen=True)
class SwinShape:
    """All the numbers that the cost of a Swin depends on.

    Args:
        image_size, patch_size (`int`): In pixels a side; the image is padded to whole patches.
        num_channels (`int`): Of the image.
        window_size (`int`): Of attention, in tokens a side.
        hidden_sizes (`tuple[int, ...]`): Channels of each stage.
        depths (`tuple[int, ...]`): Blocks of each stage.
        num_heads, head_dims, mlp_dims (`tuple[int, ...]`): Attention heads, channels of a head and hidden units of
            the MLP of every block, stage after stage.
        num_labels (`int`): Rows of the classifier; 0 without one.
        qkv_bias (`bool`): Whether queries, keys and values have biases.
        absolute_positions (`bool`): Whether patches have position embeddings.
    """

    image_size: int
    patch_size: int
    num_channels: int
    window_size: int
    hidden_sizes: tuple[int, ...]
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    head_dims: tuple[int, ...]
    mlp_dims: tuple[int, ...]
    num_labels: int
    qkv_bias: bool = True
    absolute_positions: bool = False

    @classmethod
    def from_config(cls, config: SwinConfig) -> "SwinShape":
        """The shape of the image classifier of this config.

        Args:
            config (`SwinConfig` or [`OfbSwinConfig`]): Of a classifier.

        Raises:
            ValueError: For another config, or images or patches that are not square.
        """
        if not isinstance(config, SwinConfig):
            raise ValueError(f"`config` must be a SwinConfig or OfbSwinConfig, got {type(config).__name__}.")
        if not isinstance(config, OfbSwinConfig):
            config = OfbSwinConfig(**{**config.to_dict(), "model_type": OfbSwinConfig.model_type})
        lists: Any = config
        return cls(
            image_size=lists.image_size,
            patch_size=lists.patch_size,
            num_channels=config.num_channels,
            window_size=config.window_size,
            hidden_sizes=tuple(lists.hidden_sizes),
            depths=tuple(config.depths),
            num_heads=tuple(lists.block_num_heads),
            head_dims=tuple(lists.block_head_dims),
            mlp_dims=tuple(lists.block_intermediate_sizes),
            num_labels=config.num_labels or 0,
            qkv_bias=config.qkv_bias,
            absolute_positions=config.use_absolute_embeddings,
        )

    @property
    def grids(self) -> tuple[int, ...]:
        """Tokens a side in each stage: merging rounds up."""
        sides = [-(-self.image_size // self.patch_size)]
        for _ in self.depths[1:]:
            sides.append(-(-sides[-1] // 2))
        return tuple(sides)

    @property
    def stages(self) -> tuple[int, ...]:
        """Stage of every block."""
        return tuple(stage for stage, depth in enumerate(self.depths) for _ in range(depth))

    def tokens(self, stage: int) -> tuple[int, int, int]:
        """Tokens of an image in a stage, the same with those that pad windows, and tokens of a window."""
        side = self.grids[stage]
        window = min(self.window_size, side)
        return side**2, (-(-side // window) * window) ** 2, window**2


def count_parameters(shape: SwinShape, weights_only: bool = False) -> int:
    """Parameters of all tensors: those that the built model has.

    Args:
        shape ([`SwinShape`]): Of the network.
        weights_only (`bool`): Counts only tensors named `.weight`: no biases, no absolute or relative positions.
    """
    rest, sizes = 0 if weights_only else 1, shape.hidden_sizes
    norms = 1 + rest  # numbers a channel of a norm has
    total = sizes[0] * (shape.num_channels * shape.patch_size**2 + rest + norms)
    total += rest * shape.absolute_positions * (shape.image_size // shape.patch_size) ** 2 * sizes[0]
    positions = rest * (2 * shape.window_size - 1) ** 2
    for stage, heads, head_dim, mlp_dim in zip(shape.stages, shape.num_heads, shape.head_dims, shape.mlp_dims):
        hidden, width = sizes[stage], heads * head_dim
        total += 2 * norms * hidden + heads * positions
        total += width * (4 * hidden + 3 * rest * shape.qkv_bias) + mlp_dim * (2 * hidden + rest) + 2 * rest * hidden
    # patch merging: a norm over four neighbours, and a projection without bias
    total += sum(4 * size * (norms + following) for size, following in zip(sizes, sizes[1:]))
    total += norms * sizes[-1]
    return total + shape.num_labels * (sizes[-1] + rest)


def count_macs(shape: SwinShape) -> int:
    """Multiply-accumulates of the matrix products and convolutions for one image.

    Equal to half of what `torch.utils.flop_counter.FlopCounterMode` counts on eager attention. Tokens that pad windows
    are counted, for they are computed. Biases, norms, softmax and activations are not in it.

    Args:
        shape ([`SwinShape`]): Of the network.
    """
    sizes, grids = shape.hidden_sizes, shape.grids
    total = grids[0] ** 2 * shape.num_channels * shape.patch_size**2 * sizes[0]
    for stage, heads, head_dim, mlp_dim in zip(shape.stages, shape.num_heads, shape.head_dims, shape.mlp_dims):
        total += block_macs(shape, stage, heads * head_dim, mlp_dim)
    total += sum(side**2 * 4 * size * following for side, size, following in zip(grids[1:], sizes, sizes[1:]))
    return total + sizes[-1] * shape.num_labels


def block_macs(shape: SwinShape, stage: int, width: int, mlp_dim: int) -> int:
    """Of a block whose heads have `width` channels together."""
    hidden, (tokens, padded, window) = shape.hidden_sizes[stage], shape.tokens(stage)
    # queries, keys, values and output; logits and weighted values in the windows
    return 2 * padded * width * (2 * hidden + window) + 2 * tokens * hidden * mlp_dim


SHAPE, CONFIGS = SwinShape, (SwinConfig,)

__all__ = ["CONFIGS", "SHAPE", "SwinShape", "block_macs", "count_macs", "count_parameters"]
