"""SuperSAM configuration: stock SAM's, plus an elastic space and per-layer widths."""

from typing import Any

from huggingface_hub.dataclasses import strict, validated_field
from huggingface_hub.errors import StrictDataclassError
from transformers import SamConfig, SamVisionConfig
from transformers.activations import ACT2FN
from transformers.models.sam.configuration_sam import SamMaskDecoderConfig, SamPromptEncoderConfig

from .elastic_supersam import MOST_CHANNELS, MOST_LAYERS, ElasticSpace, Subnet


# A stock SAM's `model_type` and the one it becomes here.
RENAMED = {"sam": "supersam", "sam_vision_model": "supersam_vision_model"}
# Of what `save_pretrained` writes: raised when a folder of today would no longer be read rightly by yesterday's code.
FORMAT_VERSION = 1
LAYER_WIDTHS = ("num_attention_heads", "mlp_dim", "head_dim")
# Whole numbers of 1 or more in the other two parts, which are stock's classes and check nothing themselves.
PART_SIZES = {
    "prompt_encoder_config": (
        "hidden_size",
        "image_size",
        "patch_size",
        "mask_input_channels",
        "num_point_embeddings",
    ),
    "mask_decoder_config": (
        "hidden_size",
        "mlp_dim",
        "num_hidden_layers",
        "num_attention_heads",
        "attention_downsample_rate",
        "num_multimask_outputs",
        "iou_head_depth",
        "iou_head_hidden_dim",
    ),
}


def bounded(default: Any, least: float, most: float = MOST_CHANNELS) -> Any:
    """A field of a config whose value, or each entry of a list, lies in [least, most]; None, where the type allows
    it, is filled in later."""

    def check(value: Any) -> None:
        for entry in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(entry, bool) or (entry is not None and not least <= entry <= most):
                raise ValueError(f"must lie in {least} to {most}, got {value!r}")

    return validated_field(check, default=default)


def activation(default: str) -> Any:
    """A field of a config that names one of transformers' activations."""

    def check(value: str) -> None:
        if value not in ACT2FN:
            raise ValueError(f"must be one of {sorted(ACT2FN)}, got {value!r}")

    return validated_field(check, default=default)


def _adopt_stock_sam(config_dict: dict[str, Any], source: Any, accepted: tuple[str, ...]) -> dict[str, Any]:
    """Renames the `model_type`s of a stock SAM; raises `ValueError` for every type but those `accepted`."""
    model_type = config_dict.get("model_type")
    if model_type not in accepted:
        raise ValueError(
            f"`{source}` holds a checkpoint of type {model_type!r}; SuperSAM is made from the original SAM "
            "(`model_type` 'sam': facebook/sam-vit-base, -large, -huge or a model trained from them). "
            "SAM 2, SAM 3 and SAM-HQ have other encoders and are not supported."
        )
    config_dict["model_type"] = RENAMED.get(model_type, model_type)
    if isinstance(config_dict.get("vision_config"), dict):
        vision = config_dict["vision_config"]
        vision["model_type"] = RENAMED.get(vision.get("model_type"), "supersam_vision_model")
    return config_dict


def _check_format(config_dict: dict[str, Any]) -> None:
    version = config_dict.get("format_version", FORMAT_VERSION)
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise ValueError(
            f"`format_version` of the checkpoint is {version!r}, this code reads up to {FORMAT_VERSION}. Upgrade "
            "supersam_hf; or load it with the code in its own repository: by an Auto class with "
            "`trust_remote_code=True`, in a process that has not imported supersam_hf."
        )


def square_side(name: str, size: int | list[int] | tuple[int, int]) -> int:
    """One number for a square given as one or two."""
    if isinstance(size, int):
        return size
    if len(size) != 2 or len(set(size)) != 1:
        raise ValueError(f"`{name}` must be square: one number, or two equal ones, got {list(size)}.")
    return size[0]


def _check_layer_widths(per_layer_config: Any) -> None:
    if per_layer_config is None:
        return
    if not isinstance(per_layer_config, dict):
        raise ValueError(f"`per_layer_config` must be a dict of layers, got {per_layer_config!r}.")
    for layer, widths in per_layer_config.items():
        if not str(layer).isdecimal():
            raise ValueError(f"`per_layer_config` must name layers by their numbers, got {layer!r}.")
        if not isinstance(widths, dict) or not set(widths) <= set(LAYER_WIDTHS):
            raise ValueError(f"`per_layer_config` of layer {layer} may hold {list(LAYER_WIDTHS)}, got {widths!r}.")
        for name, width in widths.items():
            if type(width) is not int or not 1 <= width <= MOST_CHANNELS:
                raise ValueError(
                    f"`{name}` of layer {layer} in `per_layer_config` must be 1 or more, as a whole number, got "
                    f"{width!r}."
                )


def _check_scale(scale: Any) -> None:
    """Raises `ValueError` for a standard deviation of the positions' random features that is none."""
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 <= scale < float("inf"):
        raise ValueError(f"`scale` must be a finite number of 0 or more, got {scale!r}.")


def _check_part(name: str, part: Any) -> None:
    """Raises `ValueError` for sizes in the data of a part that are not whole numbers of 1 or more."""
    data = part if isinstance(part, dict) else {} if part is None else part.to_dict()
    for field in PART_SIZES[name]:
        size = data.get(field, 1)
        if type(size) is not int or not 1 <= size <= MOST_CHANNELS:
            raise ValueError(f"`{field}` of `{name}` must be a whole number of 1 or more, got {size!r}.")


@strict
class SuperSamVisionConfig(SamVisionConfig):
    r"""
    Configuration of the image encoder. Every argument of [`SamVisionConfig`], and:

    Args:
        head_dim (`int`, *optional*):
            Channels of an attention head; defaults to `hidden_size // num_attention_heads`. Smaller in a subnet
            extracted with attention windows.
        query_pre_attn_scalar (`int`, *optional*):
            The head width whose inverse square root scales the attention logits; defaults to `head_dim`. A subnet
            keeps the supernet's.
        per_layer_config (`dict[int, dict]`, *optional*):
            `num_attention_heads`, `mlp_dim` and `head_dim` of the layers that differ from the values above.
    """

    model_type = "supersam_vision_model"

    # stock's, with bounds
    hidden_size: int = bounded(SamVisionConfig.hidden_size, 1)
    output_channels: int = bounded(SamVisionConfig.output_channels, 1)
    num_hidden_layers: int = bounded(SamVisionConfig.num_hidden_layers, 1, MOST_LAYERS)
    num_attention_heads: int = bounded(SamVisionConfig.num_attention_heads, 1)
    num_channels: int = bounded(SamVisionConfig.num_channels, 1)
    image_size: int | list[int] | tuple[int, int] = bounded(SamVisionConfig.image_size, 1)
    patch_size: int | list[int] | tuple[int, int] = bounded(SamVisionConfig.patch_size, 1)
    hidden_act: str = activation(SamVisionConfig.hidden_act)
    layer_norm_eps: float = bounded(SamVisionConfig.layer_norm_eps, 0)
    attention_dropout: float | int = bounded(SamVisionConfig.attention_dropout, 0, 1)
    initializer_range: float = bounded(SamVisionConfig.initializer_range, 0)
    mlp_ratio: float = bounded(SamVisionConfig.mlp_ratio, 0)
    window_size: int = bounded(SamVisionConfig.window_size, 0)
    global_attn_indexes: list[int] | tuple[int, ...] = bounded(SamVisionConfig.global_attn_indexes, 0)
    num_pos_feats: int = bounded(SamVisionConfig.num_pos_feats, 1)
    mlp_dim: int | None = bounded(SamVisionConfig.mlp_dim, 1)

    head_dim: int | None = bounded(None, 1)
    query_pre_attn_scalar: int | None = bounded(None, 1)

    def __post_init__(self, **kwargs: Any) -> None:
        self.image_size = square_side("image_size", self.image_size)
        self.patch_size = square_side("patch_size", self.patch_size)
        if self.patch_size > self.image_size:
            raise ValueError(f"`patch_size` ({self.patch_size}) must be at most `image_size` ({self.image_size}).")
        if self.head_dim is None:
            if self.hidden_size < self.num_attention_heads:
                raise ValueError(
                    f"`head_dim` must be given where `hidden_size` ({self.hidden_size}) is smaller than "
                    f"`num_attention_heads` ({self.num_attention_heads})."
                )
            self.head_dim = self.hidden_size // self.num_attention_heads
        if self.query_pre_attn_scalar is None:
            self.query_pre_attn_scalar = self.head_dim
        _check_layer_widths(kwargs.get("per_layer_config"))
        _check_scale(kwargs.get("scale", 1.0))
        super().__post_init__(**kwargs)

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> tuple[dict, dict]:
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        accepted = (*RENAMED, *RENAMED.values())
        return _adopt_stock_sam(config_dict, pretrained_model_name_or_path, accepted), kwargs

    @property
    def layer_widths(self) -> tuple[list[int], list[int]]:
        """MLP widths and head widths of all layers, in order."""
        layers = self._layers()
        return [layer.mlp_dim for layer in layers], [layer.head_dim for layer in layers]

    @property
    def layer_heads(self) -> list[int]:
        """Attention heads of all layers, in order."""
        return [layer.num_attention_heads for layer in self._layers()]

    def _layers(self) -> Any:
        return self.per_layer_config if self.is_heterogeneous else [self] * self.num_hidden_layers


@strict
class SuperSamConfig(SamConfig):
    r"""
    Configuration of a SuperSAM supernet, or of a standalone subnet extracted from one.

    Args:
        vision_config, prompt_encoder_config, mask_decoder_config (`dict` or config, *optional*):
            As in [`SamConfig`].
        elastic_space (`dict`, *optional*):
            What may vary between the subnets of this supernet: [`ElasticSpace`] as JSON data.
        subnet (`dict`, *optional*):
            In an extracted model, which [`Subnet`] of its supernet it is. A record: the shapes are in `vision_config`.
        subnet_name (`str`, *optional*):
            What that subnet was asked for by: a point of the supernet's Pareto front (`"pareto-2"`), `"largest"` or
            `"smallest"`. A record.
        search (`dict`, *optional*):
            How a bi-mask search found this network. A record: nothing is read from it.
        format_version (`int`, *optional*, defaults to 1):
            Version of the format of the saved model. A newer one than this code knows is refused.
    """

    model_type = "supersam"
    sub_configs_defaults = {
        "prompt_encoder_config": SamPromptEncoderConfig,
        "mask_decoder_config": SamMaskDecoderConfig,
        "vision_config": SuperSamVisionConfig,
    }

    initializer_range: float = bounded(SamConfig.initializer_range, 0)
    elastic_space: dict | None = None
    subnet: dict | None = None
    subnet_name: str | None = None
    search: dict | None = None
    format_version: int = bounded(FORMAT_VERSION, 1, FORMAT_VERSION)

    def __post_init__(self, **kwargs: Any) -> None:
        for name in PART_SIZES:
            _check_part(name, getattr(self, name))
        super().__post_init__(**kwargs)

    def validate_parts(self) -> None:
        """Part of `@strict`: the three networks must fit together."""
        vision, prompts, decoder = self.vision_config, self.prompt_encoder_config, self.mask_decoder_config
        widths = vision.output_channels, prompts.hidden_size, decoder.hidden_size
        if len(set(widths)) > 1:
            raise ValueError(
                "`output_channels` of `vision_config` and `hidden_size` of `prompt_encoder_config` and of "
                f"`mask_decoder_config` must be equal, got {widths}."
            )
        if 2 * vision.num_pos_feats != prompts.hidden_size:
            raise ValueError(
                f"`num_pos_feats` of `vision_config` must be half of the prompts' `hidden_size`, "
                f"{prompts.hidden_size // 2}, got {vision.num_pos_feats}."
            )
        sizes = vision.image_size, vision.patch_size
        if sizes != (prompts.image_size, prompts.patch_size):
            raise ValueError(
                "`image_size` and `patch_size` of `vision_config` and of `prompt_encoder_config` must be equal, got "
                f"{sizes} and {(prompts.image_size, prompts.patch_size)}."
            )

    def validate_records(self) -> None:
        """Part of `@strict`: `elastic_space` and `subnet` must be such."""
        records = {"elastic_space": (ElasticSpace, self.elastic_space), "subnet": (Subnet, self.subnet)}
        for name, (kind, data) in records.items():
            try:
                record = None if data is None else kind.from_dict(data)
            except ValueError as error:
                raise ValueError(f"`{name}`: {error}") from None
            depth = self.vision_config.num_hidden_layers
            if isinstance(record, ElasticSpace) and record.num_hidden_layers != depth:
                raise ValueError(f"`{name}` is of {record.num_hidden_layers} layers, `vision_config` of {depth}.")

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As any config's.

        Raises:
            ValueError: If the data is of a newer `format_version`, or a field is not what it must be.
        """
        _check_format(config_dict)
        # Auto classes offer the model's arguments to the config first; `subnet` there is which one to load, not the
        # record of that name.
        asked = {"subnet": kwargs.pop("subnet")} if "subnet" in kwargs else {}
        try:
            loaded = super().from_dict(config_dict, **kwargs)
        except StrictDataclassError as error:
            raise ValueError(str(error)) from error
        if not kwargs.get("return_unused_kwargs"):
            return loaded
        config, unused = loaded
        return config, {**unused, **asked}

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> tuple[dict, dict]:
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        # Not an encoder alone: prompt encoder and mask decoder would stay random.
        return _adopt_stock_sam(config_dict, pretrained_model_name_or_path, ("sam", "supersam")), kwargs


__all__ = ["SuperSamConfig", "SuperSamVisionConfig"]
