"""PyTorch SuperSAM: a SAM whose image encoder runs at the depth and widths of any of its subnets."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, SamModel, SamPreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.sam.modeling_sam import (
    SamImageSegmentationOutput,
    SamMaskDecoder,
    SamPatchEmbeddings,
    SamPositionalEmbedding,
    SamPromptEncoder,
    SamTwoWayAttentionBlock,
    SamVisionAttention,
    SamVisionEncoder,
    SamVisionEncoderOutput,
    SamVisionLayer,
    SamVisionNeck,
)
from transformers.utils import resolve_revision
from transformers.utils.generic import TransformersKwargs, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_supersam import SuperSamConfig, SuperSamVisionConfig
from .elastic_supersam import ElasticSpace, Subnet
from .extraction_supersam import resized_config, resized_state_dict, stock_sam_config, subnet_config, subnet_state_dict
from .pareto_supersam import HUB_ARGUMENTS, choose_subnet


# What `SamProcessor` returns beside the inputs, for `post_process_masks`: `model(**inputs)` has them along.
PROCESSOR_SIZES = ("original_sizes", "reshaped_input_sizes")


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


class SuperSamPreTrainedModel(SamPreTrainedModel):
    """Loading, resizing and what transformers asks of a model family."""

    config: SuperSamConfig
    config_class = SuperSamConfig
    base_model_prefix = "supersam"
    _no_split_modules = ["SuperSamVisionLayer"]

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *model_args: Any,
        image_size: int | None = None,
        window_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Loads a SuperSAM, or any stock `SamModel` checkpoint, from the Hub or a folder.

        Args:
            image_size (`int`, *optional*): Run at this many pixels a side instead of the checkpoint's: position
                embeddings and relative positions are interpolated. A multiple of the patch size.
            window_size (`int`, *optional*): Attention windows of this many patches a side instead of the checkpoint's.

        Raises:
            ValueError: For a checkpoint of another architecture or with weights missing, or a size that does not fit
                the patches.
        """
        with_info = kwargs.pop("output_loading_info", False)
        loaded: Any = super().from_pretrained(
            pretrained_model_name_or_path, *model_args, output_loading_info=True, **kwargs
        )
        model, info = loaded
        if info["missing_keys"]:
            raise ValueError(
                f"`{pretrained_model_name_or_path}` lacks weights of this model, which would stay random: "
                f"{sorted(info['missing_keys'])[:5]} and so on ({len(info['missing_keys'])} in all)."
            )
        if image_size is not None or window_size is not None:
            model = model.resized(image_size, window_size)
        return (model, info) if with_info else model

    def resized(self, image_size: int | None = None, window_size: int | None = None) -> "SuperSamPreTrainedModel":
        """This model at another input or window size, with interpolated positions (see `from_pretrained`)."""
        config = resized_config(self.config, image_size, window_size)
        return self._like_this(config, resized_state_dict(self.state_dict(), config))

    def _like_this(self, config: Any, state_dict: dict[str, torch.Tensor]) -> Any:
        """A new model of this class, dtype, device, mode and attention implementation."""
        implementation = self.config._attn_implementation
        model = type(self)._from_config(config, dtype=self.dtype, attn_implementation=implementation)
        model.load_state_dict(state_dict)
        return model.to(self.device).train(self.training)


class SuperSamVisionEncoder(SuperSamPreTrainedModel, SamVisionEncoder):
    """SAM's ViT. Which layers run, and how wide, is the `subnet` of each call."""

    config: SuperSamVisionConfig
    config_class = SuperSamVisionConfig
    _can_record_outputs = {"hidden_states": SuperSamVisionLayer, "attentions": SuperSamVisionAttention}

    def __init__(self, config: SuperSamVisionConfig) -> None:
        PreTrainedModel.__init__(self, config)
        self.image_size = config.image_size
        self.mlp_dims, self.head_dims = config.layer_widths
        self.patch_embed = SamPatchEmbeddings(config)
        grid = config.image_size // config.patch_size
        self.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, config.hidden_size)) if config.use_abs_pos else None
        self.layers = nn.ModuleList(
            SuperSamVisionLayer(config, 0 if i in config.global_attn_indexes else config.window_size, mlp, head)
            for i, (mlp, head) in enumerate(zip(self.mlp_dims, self.head_dims))
        )
        self.neck = SamVisionNeck(config)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, pixel_values: torch.Tensor | None = None, subnet: Subnet | None = None, **kwargs: Any
    ) -> tuple | SamVisionEncoderOutput:
        _reject_unknown(kwargs)
        if pixel_values is None:
            raise ValueError("You have to specify pixel_values")
        if subnet is None:
            subnet = Subnet(tuple(range(len(self.layers))), tuple(self.mlp_dims), tuple(self.head_dims))
        else:
            subnet.check(len(self.layers), self.mlp_dims, self.head_dims)
        hidden_states = self.patch_embed(pixel_values)
        if self.pos_embed is not None:
            hidden_states = hidden_states + self.pos_embed
        for layer, mlp_dim, head_dim in zip(subnet.layers, subnet.mlp_dim, subnet.head_dim):
            # positional, as gradient checkpointing wants them
            hidden_states = self.layers[layer](hidden_states, mlp_dim, head_dim)
        return SamVisionEncoderOutput(last_hidden_state=self.neck(hidden_states))


class SuperSamVisionModel(SuperSamPreTrainedModel):
    """The image encoder alone. Loads the encoder of any SAM checkpoint."""

    config: SuperSamVisionConfig
    config_class = SuperSamVisionConfig

    def __init__(self, config: SuperSamVisionConfig) -> None:
        super().__init__(config)
        self.vision_encoder = SuperSamVisionEncoder(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.vision_encoder.patch_embed

    def forward(
        self, pixel_values: torch.Tensor | None = None, subnet: Subnet | None = None, **kwargs: Any
    ) -> tuple | SamVisionEncoderOutput:
        """Embeds images (see [`SuperSamModel`]): `last_hidden_state` of shape (batch, channels, grid, grid)."""
        return self.vision_encoder(pixel_values, subnet=subnet, **kwargs)


class SuperSamModel(SuperSamPreTrainedModel, SamModel):
    """A SAM supernet, or a standalone subnet extracted from one (SuperSAM, section III).

    Parameter names are `SamModel`'s, so `SuperSamModel.from_pretrained("facebook/sam-vit-base")` loads any SAM
    checkpoint and gives its outputs. Which subnet runs is an argument of each call, not a state of the model.
    """

    config: SuperSamConfig
    _can_record_outputs = {"mask_decoder_attentions": OutputRecorder(SamTwoWayAttentionBlock, index=2)}

    def __init__(self, config: SuperSamConfig) -> None:
        PreTrainedModel.__init__(self, config)
        self.shared_image_embedding = SamPositionalEmbedding(config.vision_config)
        self.vision_encoder = SuperSamVisionEncoder(config.vision_config)
        self.prompt_encoder = SamPromptEncoder(config)
        # the mask decoder is no PreTrainedModel, so its config is not set by transformers
        config.mask_decoder_config._attn_implementation = config._attn_implementation
        self.mask_decoder = SamMaskDecoder(config.mask_decoder_config)
        self.post_init()

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        input_points: torch.Tensor | None = None,
        input_labels: torch.LongTensor | None = None,
        input_boxes: torch.Tensor | None = None,
        input_masks: torch.Tensor | None = None,
        image_embeddings: torch.Tensor | None = None,
        multimask_output: bool = True,
        attention_similarity: torch.Tensor | None = None,
        target_embedding: torch.Tensor | None = None,
        subnet: Subnet | None = None,
        **kwargs: Any,
    ) -> SamImageSegmentationOutput:
        """Segments what the prompts point at. Arguments and outputs are [`SamModel`]'s, and:

        Args:
            pixel_values (`torch.Tensor` of shape `(batch, 3, image_size, image_size)`): Normalised images.
            input_points (`torch.Tensor` of shape `(batch, prompts, points, 2)`): x, y in pixels of the model's input.
            input_boxes (`torch.Tensor` of shape `(batch, prompts, 4)`): x1, y1, x2, y2, likewise.
            subnet ([`Subnet`], *optional*): Which subnet to run; the largest if left out.

        Returns:
            `SamImageSegmentationOutput`: `pred_masks`, logits of shape `(batch, prompts, masks, image_size / 4,
            image_size / 4)`, and `iou_scores` of shape `(batch, prompts, masks)`.

        Raises:
            ValueError: If the subnet does not fit this model, or is given with `image_embeddings`.
            TypeError: For an unknown keyword argument.
        """
        for name in PROCESSOR_SIZES:
            kwargs.pop(name, None)
        _reject_unknown(kwargs)
        if subnet is not None and image_embeddings is not None:
            raise ValueError("`subnet` picks how `pixel_values` are encoded; it has no effect on `image_embeddings`.")
        return super().forward(
            pixel_values=pixel_values,
            input_points=input_points,
            input_labels=input_labels,
            input_boxes=input_boxes,
            input_masks=input_masks,
            image_embeddings=image_embeddings,
            multimask_output=multimask_output,
            attention_similarity=attention_similarity,
            target_embedding=target_embedding,
            subnet=subnet,
            **kwargs,
        )

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *model_args: Any,
        subnet: Subnet | Mapping[str, Any] | str | None = None,
        max_params: float | None = None,
        max_macs: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """As above; with `subnet` or a limit, that subnet of the checkpoint as a standalone model (see `extract`).

        Which one is settled before any weights are downloaded.

        Args:
            subnet ([`Subnet`], `dict` or `str`, *optional*): Itself, its data, `"largest"`, `"smallest"`, or the name
                of a point of the Pareto front that the supernet's repository carries, such as `"pareto-2"`.
            max_params (`float`, *optional*): The best point of that front with at most so many parameters; up to 1, a
                fraction of the largest subnet's.
            max_macs (`float`, *optional*): Likewise, with at most so many multiply-accumulates in the image encoder.

        Raises:
            ValueError: If there is no such subnet or no front, or `subnet` is given with a limit.
        """
        if subnet is None and max_params is None and max_macs is None:
            return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        kwargs["revision"] = _one_revision(pretrained_model_name_or_path, kwargs)
        hub = {key: kwargs[key] for key in HUB_ARGUMENTS if key in kwargs}
        config = kwargs.get("config")
        # not given, or where it lies; as remote code, what Auto classes give may be a SuperSamConfig of another import
        if not isinstance(config, PreTrainedConfig):
            config = SuperSamConfig.from_pretrained(config or pretrained_model_name_or_path, **hub)
        chosen, name = choose_subnet(pretrained_model_name_or_path, config, subnet, max_params, max_macs, hub)
        loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        if isinstance(loaded, tuple):  # output_loading_info=True
            return loaded[0].extract(chosen, name), loaded[1]
        return loaded.extract(chosen, name)

    @torch.no_grad()
    def get_image_embeddings(
        self, pixel_values: torch.Tensor, subnet: Subnet | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """Image embeddings of shape (batch, channels, grid, grid) by `subnet`, to be used for many prompts."""
        return self.vision_encoder(pixel_values, subnet=subnet, **kwargs)[0]

    @property
    def elastic_space(self) -> ElasticSpace:
        """The space in the config, or the paper's for this architecture."""
        return ElasticSpace.for_config(self.config)

    def extract(self, subnet: Subnet, name: str | None = None) -> "SuperSamModel":
        """Copies the subnet's weights into a standalone, smaller model, which `save_pretrained` saves as any other.

        Its outputs are those of `forward(subnet=subnet)`: bit for bit in fp32 on CPU, to rounding elsewhere.

        Args:
            subnet ([`Subnet`]): Which subnet.
            name (`str`, *optional*): What it is called, for the record in the config: `"pareto-2"`.

        Raises:
            ValueError: If the subnet does not fit this model.
        """
        encoder = self.vision_encoder
        subnet.check(len(encoder.layers), encoder.mlp_dims, encoder.head_dims)
        return self._like_this(subnet_config(self.config, subnet, name), subnet_state_dict(self, subnet))

    def to_sam(self) -> SamModel:
        """This model as a stock `transformers.SamModel`, which needs no code of ours to load.

        Raises:
            ValueError: If the layers differ in width or heads were narrowed: stock SAM cannot hold that.
        """
        config = stock_sam_config(self.config)
        model = SamModel._from_config(config, dtype=self.dtype, attn_implementation=self.config._attn_implementation)
        model.load_state_dict(self.state_dict())
        return model.to(self.device).train(self.training)


def _one_revision(name_or_path: Any, kwargs: dict[str, Any]) -> str | None:
    """The commit that `revision` is now, so that config, front and weights are of the same."""
    return resolve_revision(
        name_or_path,
        kwargs.get("revision"),
        token=kwargs.get("token"),
        local_files_only=kwargs.get("local_files_only", False),
        cache_dir=kwargs.get("cache_dir"),
    )


def _reject_unknown(kwargs: dict[str, Any]) -> None:
    """A misspelt `subnet` must not silently run the largest."""
    allowed: Sequence[str] = (*TransformersKwargs.__annotations__, "return_dict")
    unknown = sorted(set(kwargs) - set(allowed))
    if unknown:
        raise TypeError(f"Unexpected keyword arguments {unknown}; did you mean `subnet`?")


__all__ = ["ElasticLinear", "SuperSamModel", "SuperSamPreTrainedModel", "SuperSamVisionModel"]
