"""Parameters and multiply-accumulates of a ViT or DeiT classifier, in closed form: no model is built."""

from dataclasses import dataclass

from transformers import DeiTConfig, ViTConfig

from ..models.ofb_vit.configuration_ofb_vit import OfbViTConfig, square_side


@dataclass(frozen=True)
class ViTShape:
    """All the numbers that the cost of a ViT depends on.

    A search that asks for the cost of many networks makes one of these from the config and changes it by
    `dataclasses.replace`. `num_heads`, `head_dims` and `mlp_dims` hold one number a layer.

    Args:
        image_size, patch_size (`int`): In pixels a side; a patch at the edge that is not whole is dropped.
        num_channels (`int`): Of the image.
        hidden_size (`int`): Channels of the residual stream.
        num_heads (`tuple[int, ...]`): Attention heads.
        head_dims (`tuple[int, ...]`): Channels of a head.
        mlp_dims (`tuple[int, ...]`): Hidden units of the MLP.
        num_labels (`int`): Rows of a classifier.
        num_special_tokens (`int`): 1 with a class token, 2 with a distillation token beside it.
        num_heads_out (`int`): Classifiers: 0, 1 or 2.
        pooler (`bool`): Whether the class token goes through a pooler, of `hidden_size` in and out.
        qkv_bias (`bool`): Whether queries, keys and values have biases.
    """

    image_size: int
    patch_size: int
    num_channels: int
    hidden_size: int
    num_heads: tuple[int, ...]
    head_dims: tuple[int, ...]
    mlp_dims: tuple[int, ...]
    num_labels: int
    num_special_tokens: int = 1
    num_heads_out: int = 1
    pooler: bool = False
    qkv_bias: bool = True

    @classmethod
    def from_config(cls, config: ViTConfig | DeiTConfig) -> "ViTShape":
        """The shape of the image classifier of this config.

        Args:
            config (`ViTConfig`, `DeiTConfig` or [`OfbViTConfig`]): A `DeiTConfig` is taken to have one head, unless
                its `architectures` says `DeiTForImageClassificationWithTeacher`.

        Raises:
            ValueError: For another config, or images or patches that are not square.
        """
        if not isinstance(config, (ViTConfig, DeiTConfig)):
            raise ValueError(f"`config` must be a ViTConfig, DeiTConfig or OfbViTConfig, got {type(config).__name__}.")
        num_heads, head_dims, mlp_dims = _layer_widths(config)
        special_tokens, heads_out = _tokens_and_classifiers(config)
        return cls(
            image_size=square_side("image_size", config.image_size),
            patch_size=square_side("patch_size", config.patch_size),
            num_channels=config.num_channels,
            hidden_size=config.hidden_size,
            num_heads=tuple(num_heads),
            head_dims=tuple(head_dims),
            mlp_dims=tuple(mlp_dims),
            num_labels=config.num_labels or 0,
            num_special_tokens=special_tokens,
            num_heads_out=heads_out if config.num_labels else 0,
            qkv_bias=config.qkv_bias,
        )

    @property
    def num_patches(self) -> int:
        """Patches of an image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def attention_widths(self) -> tuple[int, ...]:
        """Channels of all heads together, layer by layer."""
        return tuple(heads * dim for heads, dim in zip(self.num_heads, self.head_dims))


def count_parameters(shape: ViTShape, weights_only: bool = False) -> int:
    """Parameters of all tensors: those that the built model has.

    Args:
        shape ([`ViTShape`]): Of the network.
        weights_only (`bool`): Counts only tensors named `.weight`: no biases, tokens or positions.
    """
    hidden, rest = shape.hidden_size, 0 if weights_only else 1
    norm = hidden * (1 + rest)
    total = norm + rest * hidden * (shape.num_patches + 2 * shape.num_special_tokens)
    total += hidden * (shape.num_channels * shape.patch_size**2 + rest)
    for width, mlp_dim in zip(shape.attention_widths, shape.mlp_dims):
        total += 2 * norm + width * (4 * hidden + 3 * rest * shape.qkv_bias) + rest * hidden
        total += mlp_dim * (2 * hidden + rest) + rest * hidden
    total += shape.pooler * hidden * (hidden + rest)
    return total + shape.num_heads_out * shape.num_labels * (hidden + rest)


def count_macs(shape: ViTShape) -> int:
    """Multiply-accumulates of the matrix products and convolutions for one image, class and distillation token in.

    Equal to half of what `torch.utils.flop_counter.FlopCounterMode` counts on eager attention. Biases, norms,
    softmax and activations are not in it.

    Args:
        shape ([`ViTShape`]): Of the network.
    """
    hidden, patches = shape.hidden_size, shape.num_patches
    tokens = patches + shape.num_special_tokens
    total = patches * shape.num_channels * shape.patch_size**2 * hidden
    # queries, keys, values and output; logits and weighted values
    total += 2 * tokens * (2 * hidden + tokens) * sum(shape.attention_widths)
    total += 2 * tokens * hidden * sum(shape.mlp_dims)
    # pooler and classifiers see one token each
    return total + shape.pooler * hidden**2 + shape.num_heads_out * hidden * shape.num_labels


def _layer_widths(config: ViTConfig | DeiTConfig) -> tuple[list[int], list[int], list[int]]:
    if isinstance(config, OfbViTConfig):
        return config.layer_widths
    depth, heads = config.num_hidden_layers, config.num_attention_heads
    return [heads] * depth, [config.hidden_size // heads] * depth, [config.intermediate_size] * depth


def _tokens_and_classifiers(config: ViTConfig | DeiTConfig) -> tuple[int, int]:
    if isinstance(config, OfbViTConfig):
        return 1 + config.distillation_token, 1 + config.distillation_head
    if isinstance(config, DeiTConfig):
        return 2, 1 + ("DeiTForImageClassificationWithTeacher" in (config.architectures or []))
    return 1, 1


SHAPE, CONFIGS = ViTShape, (ViTConfig, DeiTConfig)

__all__ = ["CONFIGS", "SHAPE", "ViTShape", "count_macs", "count_parameters"]
