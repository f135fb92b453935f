"""Parameters and multiply-accumulates in closed form: no model is built.

Of a SAM and its subnets; configs of classifiers are passed on to the modules of their families.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from transformers import SamConfig

from ..models.supersam.configuration_supersam import SuperSamVisionConfig
from ..models.supersam.elastic_supersam import Subnet
from . import swin_cost, vit_cost


# A box is its two corners; a lone point gets a padding point beside it.
TOKENS_PER_PROMPT = 2
# One module a family of classifiers: its `SHAPE`, the stock `CONFIGS` that it counts (ours are subclasses of them),
# `count_parameters` and `count_macs` of a shape.
CLASSIFIERS: tuple[Any, ...] = (vit_cost, swin_cost)
# transformers' decoder layers do not read `attention_downsample_rate`; only the final attention does.
LAYER_DOWNSAMPLE_RATE = 2


class LayerShape(NamedTuple):
    """One layer of the image encoder.

    Args:
        mlp_dim (`int`): Hidden units of the MLP.
        head_dim (`int`): Channels of a head.
        side (`int`): Tokens that attend to each other form a square of this side: a window, or the whole grid.
        padded (`int`): Side of the grid of tokens once it is padded to whole windows.
        num_heads (`int`): Heads.
    """

    mlp_dim: int
    head_dim: int
    side: int
    padded: int
    num_heads: int


@dataclass(frozen=True)
class SamShape:
    """All the numbers that the cost of a SAM depends on, read once from its config.

    Reading a config takes longer than counting: whoever counts many subnets of one model makes this first and gives
    it to [`count_parameters`] and [`count_macs`] in the config's place.
    """

    hidden_size: int
    layers: tuple[LayerShape, ...]
    num_channels: int
    patch_size: int
    grid: int
    output_channels: int
    num_pos_feats: int
    qkv_bias: bool
    use_abs_pos: bool
    use_rel_pos: bool
    prompt_size: int
    mask_channels: int
    num_point_embeddings: int
    decoder_size: int
    decoder_mlp_dim: int
    decoder_layers: int
    decoder_cross_dim: int
    decoder_final_dim: int
    num_mask_tokens: int
    iou_head_dim: int
    iou_head_depth: int

    @classmethod
    def from_config(cls, config: SamConfig) -> "SamShape":
        """The shape of a `SamConfig`, `SuperSamConfig` or the config of an extracted subnet.

        Raises:
            ValueError: If `config` is not that of a whole SAM.
        """
        if not isinstance(config, SamConfig):
            raise ValueError(
                "`config` must be the config of a whole SAM (SamConfig or SuperSamConfig), "
                f"got {type(config).__name__}."
            )
        vision: Any = config.vision_config
        prompt: Any = config.prompt_encoder_config
        decoder: Any = config.mask_decoder_config
        return cls(
            hidden_size=vision.hidden_size,
            layers=_layer_shapes(vision),
            num_channels=vision.num_channels,
            patch_size=vision.patch_size,
            grid=vision.image_size // vision.patch_size,
            output_channels=vision.output_channels,
            num_pos_feats=vision.num_pos_feats,
            qkv_bias=vision.qkv_bias,
            use_abs_pos=vision.use_abs_pos,
            use_rel_pos=vision.use_rel_pos,
            prompt_size=prompt.hidden_size,
            mask_channels=prompt.mask_input_channels,
            num_point_embeddings=prompt.num_point_embeddings,
            decoder_size=decoder.hidden_size,
            decoder_mlp_dim=decoder.mlp_dim,
            decoder_layers=decoder.num_hidden_layers,
            decoder_cross_dim=decoder.hidden_size // LAYER_DOWNSAMPLE_RATE,
            decoder_final_dim=decoder.hidden_size // decoder.attention_downsample_rate,
            num_mask_tokens=decoder.num_multimask_outputs + 1,
            iou_head_dim=decoder.iou_head_hidden_dim,
            iou_head_depth=decoder.iou_head_depth,
        )

    def kept(self, subnet: Subnet | None) -> tuple[LayerShape, ...]:
        """The layers of `subnet` at its widths (all of them, whole, for `None`); `ValueError` if it does not fit."""
        if subnet is None:
            return self.layers
        subnet.check(len(self.layers), [x.mlp_dim for x in self.layers], [x.head_dim for x in self.layers])
        widths = zip(subnet.layers, subnet.mlp_dim, subnet.head_dim)
        return tuple(LayerShape(mlp, head, *self.layers[i][2:]) for i, mlp, head in widths)


def count_parameters(
    config: Any,
    subnet: Subnet | None = None,
    weights_only: bool = False,
) -> int:
    """Parameters of the whole model: of a SAM the image encoder, prompt encoder and mask decoder.

    The positional embedding that the image and prompt encoders share is counted once.

    Args:
        config (`SamConfig` or [`SamShape`]): Of the supernet or of a standalone model. Or the config of an image
            classifier (ViT, DeiT, Swin, and OFB's), or its shape.
        subnet ([`Subnet`], *optional*): Counts this subnet as if it were extracted; the whole model if left out.
        weights_only (`bool`): Counts only tensors named `.weight`, as the numbers in the SuperSAM paper (section IV)
            do: no biases, no absolute, relative or shared positional embeddings.

    Raises:
        ValueError: If `config` is neither that of a whole SAM nor of a classifier, or the subnet does not fit it.
    """
    family = _family(config)
    if family is not None:
        _check_no_subnet(subnet)
        return family.count_parameters(classifier_shape(config), weights_only)
    shape = config if isinstance(config, SamShape) else SamShape.from_config(config)
    # 1 where tensors not named `.weight` count, 0 where they do not
    rest = 0 if weights_only else 1
    layers = sum(_layer_parameters(shape, layer, rest) for layer in shape.kept(subnet))
    around = _patch_and_neck_parameters(shape, rest)
    return layers + around + _prompt_encoder_parameters(shape, rest) + _decoder_parameters(shape, rest)


def count_macs(
    config: Any,
    subnet: Subnet | None = None,
    num_prompts: int = 0,
) -> int:
    """Multiply-accumulates of the matrix products and convolutions for one image.

    Tokens that pad windows are counted, for they are computed. Equal to half of what
    `torch.utils.flop_counter.FlopCounterMode` counts on eager attention.

    Args:
        config (`SamConfig` or [`SamShape`]): Of the supernet or of a standalone model. Or the config of an image
            classifier (ViT, DeiT, Swin, and OFB's), or its shape.
        subnet ([`Subnet`], *optional*): Counts this subnet; the whole model if left out.
        num_prompts (`int`): 0 counts the image encoder alone, k > 0 the whole model for k prompts of one box or one
            point each. One mask a prompt or three cost the same.

    Raises:
        ValueError: If `config` is neither that of a whole SAM nor of a classifier, the subnet does not fit it or
            `num_prompts` is negative, or not 0 for a classifier.
    """
    family = _family(config)
    if family is not None:
        if num_prompts != 0:
            raise ValueError(f"`num_prompts` must be 0 for an image classifier, got {num_prompts}.")
        _check_no_subnet(subnet)
        return family.count_macs(classifier_shape(config))
    if num_prompts < 0:
        raise ValueError(f"`num_prompts` must be 0 (image encoder alone) or more, got {num_prompts}.")
    shape = config if isinstance(config, SamShape) else SamShape.from_config(config)
    encoder = sum(layer_macs(shape, layer) for layer in shape.kept(subnet)) + _patch_and_neck_macs(shape)
    if num_prompts == 0:
        return encoder
    return encoder + _prompt_encoder_macs(shape, num_prompts) + num_prompts * _decoder_macs(shape)


def _check_no_subnet(subnet: Subnet | None) -> None:
    if subnet is not None:
        raise ValueError("A classifier has no `subnet`s: its config says what it is; give `subnet=None`.")


def classifier_shape(config: Any) -> Any:
    """The shape of the config of an image classifier ([`ViTShape`], [`SwinShape`]); a shape as it is.

    Raises:
        ValueError: If no family has such configs.
    """
    family = _family(config)
    if family is None:
        raise ValueError(f"`config` must be that of an image classifier, got {type(config).__name__}.")
    return config if isinstance(config, family.SHAPE) else family.SHAPE.from_config(config)


def _family(config: Any) -> Any:
    """The module of a classifier's config or shape; None of anything else."""
    return next((module for module in CLASSIFIERS if isinstance(config, (module.SHAPE, *module.CONFIGS))), None)


def _layer_shapes(vision: Any) -> tuple[LayerShape, ...]:
    depth, grid = vision.num_hidden_layers, vision.image_size // vision.patch_size
    if vision.model_type == SuperSamVisionConfig.model_type:
        widths = zip(*vision.layer_widths, vision.layer_heads)
    else:  # stock SAM: uniform, and its heads share the hidden size
        heads = vision.num_attention_heads
        widths = zip(*([width] * depth for width in (vision.mlp_dim, vision.hidden_size // heads, heads)))
    shapes = []
    for i, (mlp_dim, head_dim, num_heads) in enumerate(widths):
        window = 0 if i in vision.global_attn_indexes else vision.window_size
        side = window or grid
        shapes.append(LayerShape(mlp_dim, head_dim, side, -(-grid // side) * side, num_heads))
    return tuple(shapes)


# Parameters. `rest` is 1, or 0 to leave out the tensors that are not named `.weight`.


def _linear(inputs: int, outputs: int, bias: int) -> int:
    return (inputs + bias) * outputs


def _norm(channels: int, rest: int) -> int:
    return channels * (1 + rest)


def _feed_forward(inputs: int, hidden: int, outputs: int, depth: int, bias: int) -> int:
    """SAM's small heads: a linear layer in, `depth - 2` between, one out. With bias 0: their MACs for one token."""
    between = max(depth - 2, 0) * _linear(hidden, hidden, bias)
    return _linear(inputs, hidden, bias) + between + _linear(hidden, outputs, bias)


def _layer_parameters(shape: SamShape, layer: LayerShape, rest: int) -> int:
    hidden, width = shape.hidden_size, layer.num_heads * layer.head_dim
    attention = _linear(hidden, 3 * width, rest * shape.qkv_bias) + _linear(width, hidden, rest)
    # rel_pos_h and rel_pos_w: one row a distance, from -(side - 1) to side - 1
    rel_pos = 2 * (2 * layer.side - 1) * layer.head_dim * rest * shape.use_rel_pos
    mlp = _linear(hidden, layer.mlp_dim, rest) + _linear(layer.mlp_dim, hidden, rest)
    return attention + rel_pos + mlp + 2 * _norm(hidden, rest)


def _patch_and_neck_parameters(shape: SamShape, rest: int) -> int:
    hidden, out = shape.hidden_size, shape.output_channels
    patch = _linear(shape.num_channels * shape.patch_size**2, hidden, rest)
    pos_embed = shape.grid**2 * hidden * rest * shape.use_abs_pos
    neck = _linear(hidden, out, 0) + _linear(9 * out, out, 0) + 2 * _norm(out, rest)
    return patch + pos_embed + neck


def _prompt_encoder_parameters(shape: SamShape, rest: int) -> int:
    size, wide, thin = shape.prompt_size, shape.mask_channels, shape.mask_channels // 4
    positional = 2 * shape.num_pos_feats * rest
    embeddings = (shape.num_point_embeddings + 2) * size  # points, "not a point", "no mask"
    # convolutions of 2 x 2, 2 x 2 and 1 x 1 pixels
    mask_embed = _linear(4, thin, rest) + _linear(4 * thin, wide, rest) + _linear(wide, size, rest)
    return positional + embeddings + mask_embed + _norm(thin, rest) + _norm(4 * thin, rest)


def _decoder_attention_parameters(size: int, inner: int, rest: int) -> int:
    return 3 * _linear(size, inner, rest) + _linear(inner, size, rest)


def _decoder_parameters(shape: SamShape, rest: int) -> int:
    size = shape.decoder_size
    self_attention = _decoder_attention_parameters(size, size, rest)
    cross_attention = _decoder_attention_parameters(size, shape.decoder_cross_dim, rest)
    mlp = _linear(size, shape.decoder_mlp_dim, rest) + _linear(shape.decoder_mlp_dim, size, rest)
    layer = self_attention + 2 * cross_attention + mlp + 4 * _norm(size, rest)
    final_attention = _decoder_attention_parameters(size, shape.decoder_final_dim, rest)
    transformer = shape.decoder_layers * layer + final_attention + _norm(size, rest)

    tokens = (1 + shape.num_mask_tokens) * size
    # transposed convolutions of 2 x 2 pixels: size -> size / 4 -> size / 8 channels, one bias a channel
    upscale = 4 * size * (size // 4) + 4 * (size // 4) * (size // 8) + rest * (size // 4 + size // 8)
    hypernetworks = shape.num_mask_tokens * _feed_forward(size, size, size // 8, 3, rest)
    iou_head = _feed_forward(size, shape.iou_head_dim, shape.num_mask_tokens, shape.iou_head_depth, rest)
    return transformer + tokens + upscale + _norm(size // 4, rest) + hypernetworks + iou_head


# Multiply-accumulates.


def layer_macs(shape: SamShape, layer: LayerShape) -> int:
    """Of one layer of the image encoder, for one image."""
    hidden, width = shape.hidden_size, layer.num_heads * layer.head_dim
    padded, tokens = layer.padded**2, shape.grid**2
    qkv_and_proj = 4 * padded * hidden * width
    # every token against its square: once for the logits, once for the values
    attention = 2 * padded * layer.side**2 * width
    # every token against the rows and the columns of its square
    rel_pos = 2 * padded * layer.side * width * shape.use_rel_pos
    return qkv_and_proj + attention + rel_pos + 2 * tokens * hidden * layer.mlp_dim


def _patch_and_neck_macs(shape: SamShape) -> int:
    hidden, out = shape.hidden_size, shape.output_channels
    return shape.grid**2 * (shape.num_channels * shape.patch_size**2 * hidden + hidden * out + 9 * out * out)


def _prompt_encoder_macs(shape: SamShape, num_prompts: int) -> int:
    """x and y of every position in the grid and of every prompt token, times the shared positional embedding."""
    return (shape.grid**2 + num_prompts * TOKENS_PER_PROMPT) * 2 * shape.num_pos_feats


def _decoder_attention_macs(these: int, those: int, size: int, inner: int) -> int:
    """`these` tokens attend to `those`, or the other way round: two projections on either side, logits and values."""
    return 2 * (these + those) * size * inner + 2 * these * those * inner


def _decoder_macs(shape: SamShape) -> int:
    """For one prompt."""
    size, pixels = shape.decoder_size, shape.grid**2
    tokens = 1 + shape.num_mask_tokens + TOKENS_PER_PROMPT
    self_attention = _decoder_attention_macs(tokens, tokens, size, size)
    cross_attention = _decoder_attention_macs(tokens, pixels, size, shape.decoder_cross_dim)
    layer = self_attention + 2 * cross_attention + 2 * tokens * size * shape.decoder_mlp_dim
    final_attention = _decoder_attention_macs(tokens, pixels, size, shape.decoder_final_dim)
    transformer = shape.decoder_layers * layer + final_attention

    upscale = pixels * 4 * size * (size // 4) + 4 * pixels * 4 * (size // 4) * (size // 8)
    hypernetworks = shape.num_mask_tokens * _feed_forward(size, size, size // 8, 3, 0)
    masks = shape.num_mask_tokens * (size // 8) * 16 * pixels
    iou_head = _feed_forward(size, shape.iou_head_dim, shape.num_mask_tokens, shape.iou_head_depth, 0)
    return transformer + upscale + hypernetworks + masks + iou_head


__all__ = ["LayerShape", "SamShape", "classifier_shape", "count_macs", "count_parameters", "layer_macs"]
