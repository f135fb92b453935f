"""PyTorch SuperSAM: a SAM whose image encoder runs at the depth and widths of any of its subnets."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, SamModel, SamPreTrainedModel
from transformers.initialization import no_init_weights
from transformers.models.sam.modeling_sam import (
    SamImageSegmentationOutput,
    SamMaskDecoder,
    SamPatchEmbeddings,
    SamPositionalEmbedding,
    SamPromptEncoder,
    SamTwoWayAttentionBlock,
    SamVisionEncoder,
    SamVisionEncoderOutput,
    SamVisionNeck,
)
from transformers.utils import resolve_revision
from transformers.utils.generic import TransformersKwargs, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_supersam import SuperSamConfig, SuperSamVisionConfig
from .elastic_supersam import ElasticSpace, Subnet
from .extraction_supersam import resized_config, resized_state_dict, stock_sam_config, subnet_config, subnet_state_dict
from .layers_supersam import SuperSamVisionAttention, SuperSamVisionLayer
from .pareto_supersam import HUB_ARGUMENTS, choose_subnet


# What `SamProcessor` returns beside the inputs, for `post_process_masks`: `model(**inputs)` has them along.
PROCESSOR_SIZES = ("original_sizes", "reshaped_input_sizes")


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
        with no_init_weights():  # which takes longer than the rest: all of them are given
            model = type(self)._from_config(config, dtype=self.dtype, attn_implementation=implementation)
        model.tie_weights()
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
        self.patch_embed = SamPatchEmbeddings(config)
        grid = config.image_size // config.patch_size
        self.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, config.hidden_size)) if config.use_abs_pos else None
        self.layers = nn.ModuleList(
            SuperSamVisionLayer(config, 0 if i in config.global_attn_indexes else config.window_size, *widths)
            for i, widths in enumerate(zip(*config.layer_widths, config.layer_heads))
        )
        self.neck = SamVisionNeck(config)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        subnet: Subnet | None = None,
        hidden_states: torch.Tensor | None = None,
        first_layer: int = 0,
        **kwargs: Any,
    ) -> tuple | SamVisionEncoderOutput:
        """Embeds images, or goes on at `first_layer` from `hidden_states` that `run_layers` has left there."""
        _reject_unknown(kwargs)
        if (pixel_values is None) == (hidden_states is None):
            raise ValueError("You have to specify either pixel_values or hidden_states")
        subnet = self.checked(subnet)
        if pixel_values is not None:
            hidden_states = self.embed(pixel_values)
        hidden_states = self.run_layers(hidden_states, subnet, first_layer)
        return SamVisionEncoderOutput(last_hidden_state=self.neck(hidden_states))

    @property
    def mlp_dims(self) -> list[int]:
        """MLP widths of the layers."""
        return [layer.mlp.mlp_dim for layer in self.layers]

    @property
    def head_dims(self) -> list[int]:
        """Channels a head of the layers."""
        return [layer.attn.head_dim for layer in self.layers]

    def checked(self, subnet: Subnet | None) -> Subnet:
        """The subnet, if it fits this model; the largest for None."""
        if subnet is None:
            return Subnet(tuple(range(len(self.layers))), tuple(self.mlp_dims), tuple(self.head_dims))
        subnet.check(len(self.layers), self.mlp_dims, self.head_dims)
        return subnet

    def embed(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Images (batch, 3, image_size, image_size) to what the first layer takes: (batch, grid, grid, channels)."""
        hidden_states = self.patch_embed(pixel_values)
        return hidden_states if self.pos_embed is None else hidden_states + self.pos_embed

    def run_layers(
        self, hidden_states: torch.Tensor, subnet: Subnet, first_layer: int = 0, last_layer: int | None = None
    ) -> torch.Tensor:
        """Runs the layers that the subnet keeps, of those from `first_layer` up to, not with, `last_layer`: (batch,
        grid, grid, channels) to the same."""
        stop = len(self.layers) if last_layer is None else last_layer
        for layer, mlp_dim, head_dim in zip(subnet.layers, subnet.mlp_dim, subnet.head_dim):
            if first_layer <= layer < stop:
                # positional, as gradient checkpointing wants them
                hidden_states = self.layers[layer](hidden_states, mlp_dim, head_dim)
        return hidden_states


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
        hidden_states: torch.Tensor | None = None,
        first_layer: int = 0,
        **kwargs: Any,
    ) -> SamImageSegmentationOutput:
        """Segments what the prompts point at. Arguments and outputs are [`SamModel`]'s, and:

        Args:
            pixel_values (`torch.Tensor` of shape `(batch, 3, image_size, image_size)`): Normalised images.
            input_points (`torch.Tensor` of shape `(batch, prompts, points, 2)`): x, y in pixels of the model's input.
            input_boxes (`torch.Tensor` of shape `(batch, prompts, 4)`): x1, y1, x2, y2, likewise.
            subnet ([`Subnet`], *optional*): Which subnet to run; the largest if left out.
            hidden_states (`torch.Tensor` of shape `(batch, grid, grid, channels)`, *optional*): Instead of images,
                what goes into encoder layer `first_layer` (see `vision_encoder.embed` and `run_layers`), so that
                subnets can share what their leading layers compute.
            first_layer (`int`): The layer to go on from with `hidden_states`.

        Returns:
            `SamImageSegmentationOutput`: `pred_masks`, logits of shape `(batch, prompts, masks, image_size / 4,
            image_size / 4)`, and `iou_scores` of shape `(batch, prompts, masks)`.

        Raises:
            ValueError: If the subnet does not fit this model, or is given with `image_embeddings`, or more than one
                of `pixel_values`, `hidden_states` and `image_embeddings` is given.
            TypeError: For an unknown keyword argument.
        """
        for name in PROCESSOR_SIZES:
            kwargs.pop(name, None)
        _reject_unknown(kwargs)
        if subnet is not None and image_embeddings is not None:
            raise ValueError("`subnet` picks how `pixel_values` are encoded; it has no effect on `image_embeddings`.")
        if hidden_states is not None:
            if pixel_values is not None or image_embeddings is not None:
                raise ValueError("Only one of pixel_values, hidden_states and image_embeddings can be provided.")
            encoded = self.vision_encoder(subnet=subnet, hidden_states=hidden_states, first_layer=first_layer)
            image_embeddings, subnet = encoded.last_hidden_state, None
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
        implementation = self.config._attn_implementation
        with no_init_weights():
            model = SamModel._from_config(config, dtype=self.dtype, attn_implementation=implementation)
        model.tie_weights()
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


__all__ = ["SuperSamModel", "SuperSamPreTrainedModel", "SuperSamVisionModel"]
