"""OFB ViT configuration: stock ViT's, plus widths of every layer and DeiT's distillation token."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict, validated_field
from huggingface_hub.errors import StrictDataclassError
from transformers import ViTConfig
from transformers.activations import ACT2FN


# What may differ from layer to layer.
LAYER_WIDTHS = ("num_attention_heads", "head_dim", "intermediate_size")
# Of what `save_pretrained` writes: raised when a folder of today would no longer be read rightly by yesterday's code.
FORMAT_VERSION = 1
# No network is so wide, or so deep: what is beyond is a slip, and would fill the memory.
MOST, MOST_LAYERS = 2**20, 1000


def bounded(default: Any, least: float, most: float = MOST) -> Any:
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


def _adopt_stock_vit(config_dict: dict[str, Any], source: Any) -> dict[str, Any]:
    """Turns the data of a ViT or DeiT config into an OFB ViT's; raises `ValueError` for any other type."""
    model_type = config_dict.get("model_type")
    if model_type not in ("vit", "deit", OfbViTConfig.model_type):
        raise ValueError(
            f"`{source}` holds a checkpoint of type {model_type!r}; OfbViT is made from a ViT or DeiT (`model_type` "
            "'vit' or 'deit', such as facebook/deit-small-patch16-224 or google/vit-base-patch16-224)."
        )
    if model_type == "deit":
        # its three shapes share one config: only the architecture tells how many heads there are
        config_dict["distillation_token"] = True
        architectures = config_dict.get("architectures") or []
        config_dict["distillation_head"] = "DeiTForImageClassificationWithTeacher" in architectures
    config_dict["model_type"] = OfbViTConfig.model_type
    return config_dict


@strict
class OfbViTConfig(ViTConfig):
    r"""
    Configuration of a ViT or DeiT, or of the smaller network found inside one. Every argument of [`ViTConfig`], and:

    Args:
        head_dim (`int`, *optional*):
            Channels of an attention head; defaults to `hidden_size // num_attention_heads`.
        query_pre_attn_scalar (`int`, *optional*):
            The head width whose inverse square root scales the attention logits; defaults to `head_dim`. A network
            with narrower heads keeps the original's.
        distillation_token (`bool`, *optional*, defaults to `False`):
            Whether a DeiT's distillation token stands between the class token and the patches.
        distillation_head (`bool`, *optional*, defaults to `False`):
            Whether that token has a classifier of its own; the logits are then the mean of the two.
        search (`dict`, *optional*):
            How this network was found. A record: nothing is read from it.
        segmentation_head (`str`, *optional*, defaults to `"naive"`):
            Of [`OfbViTForSemanticSegmentation`]: SETR's `"naive"`, `"pup"` or `"mla"`.
        segmentation_channels (`int`, *optional*, defaults to 256):
            Width of that head.
        segmentation_layers (`list[int]`, *optional*):
            Layers that `"mla"` reads; by default four, evenly spaced, the last one among them.
        use_auxiliary_head (`bool`, *optional*, defaults to `True`):
            Whether three evenly spaced layers before the last have heads too, in training.
        auxiliary_loss_weight (`float`, *optional*, defaults to 0.4):
            Weight of each of their losses.
        semantic_loss_ignore_index (`int`, *optional*, defaults to 255):
            Label of pixels that have none.
        format_version (`int`, *optional*, defaults to 1):
            Version of the format of the saved model. A newer one than this code knows is refused.
        per_layer_config (`dict[int, dict]`, *optional*):
            `num_attention_heads`, `head_dim` and `intermediate_size` of the layers that differ from the values above.

    Images and patches are square: `image_size` and `patch_size` are one number each.
    """

    model_type = "ofb_vit"

    # stock's, with bounds
    hidden_size: int = bounded(ViTConfig.hidden_size, 1)
    num_hidden_layers: int = bounded(ViTConfig.num_hidden_layers, 1, MOST_LAYERS)
    num_attention_heads: int = bounded(ViTConfig.num_attention_heads, 1)
    intermediate_size: int = bounded(ViTConfig.intermediate_size, 1)
    hidden_act: str = activation(ViTConfig.hidden_act)
    hidden_dropout_prob: float | int = bounded(ViTConfig.hidden_dropout_prob, 0, 1)
    attention_probs_dropout_prob: float | int = bounded(ViTConfig.attention_probs_dropout_prob, 0, 1)
    initializer_range: float = bounded(ViTConfig.initializer_range, 0)
    layer_norm_eps: float = bounded(ViTConfig.layer_norm_eps, 0)
    image_size: int | list[int] | tuple[int, int] = bounded(ViTConfig.image_size, 1)
    patch_size: int | list[int] | tuple[int, int] = bounded(ViTConfig.patch_size, 1)
    num_channels: int = bounded(ViTConfig.num_channels, 1)
    encoder_stride: int = bounded(ViTConfig.encoder_stride, 1)
    pooler_output_size: int | None = bounded(ViTConfig.pooler_output_size, 1)
    pooler_act: str = activation(ViTConfig.pooler_act)

    head_dim: int | None = bounded(None, 1)
    query_pre_attn_scalar: int | None = bounded(None, 1)
    distillation_token: bool = False
    distillation_head: bool = False
    search: dict | None = None
    segmentation_head: Literal["naive", "pup", "mla"] = "naive"
    segmentation_channels: int = bounded(256, 2)
    segmentation_layers: list[int] | None = bounded(None, 0, MOST_LAYERS)
    use_auxiliary_head: bool = True
    auxiliary_loss_weight: float = bounded(0.4, 0)
    semantic_loss_ignore_index: int = 255
    format_version: int = bounded(FORMAT_VERSION, 1, FORMAT_VERSION)

    def __post_init__(self, **kwargs: Any) -> None:
        self.image_size = square_side("image_size", self.image_size)
        self.patch_size = square_side("patch_size", self.patch_size)
        if self.patch_size > self.image_size:
            raise ValueError(f"`patch_size` ({self.patch_size}) must be at most `image_size` ({self.image_size}).")
        if self.head_dim is None:
            self.head_dim = self._stock_head_dim()
        if self.query_pre_attn_scalar is None:
            self.query_pre_attn_scalar = self.head_dim
        if self.distillation_head and not self.distillation_token:
            raise ValueError("`distillation_head` reads the distillation token: `distillation_token` must be True.")
        _check_layer_widths(kwargs.get("per_layer_config"))
        _check_num_labels(kwargs)
        super().__post_init__(**kwargs)

    def validate_segmentation_layers(self) -> None:
        """Part of `@strict`: the layers must be this model's."""
        if self.segmentation_layers is not None:
            _check_read_layers(self.segmentation_layers, self.num_hidden_layers)

    def _stock_head_dim(self) -> int:
        """As stock's: rounded down."""
        if self.hidden_size < self.num_attention_heads:
            raise ValueError(
                f"`head_dim` must be given where `hidden_size` ({self.hidden_size}) is smaller than "
                f"`num_attention_heads` ({self.num_attention_heads})."
            )
        return self.hidden_size // self.num_attention_heads

    @property
    def read_layers(self) -> list[int]:
        """Layers whose outputs the segmentation head reads.

        Raises:
            ValueError: If `segmentation_layers` are not layers of this model, ascending.
        """
        if self.segmentation_head != "mla":
            return [self.num_hidden_layers - 1]
        layers = self.segmentation_layers or _evenly(self.num_hidden_layers)
        _check_read_layers(layers, self.num_hidden_layers)
        return layers

    @property
    def auxiliary_layers(self) -> list[int]:
        """Layers whose outputs auxiliary heads read."""
        return _evenly(self.num_hidden_layers)[:-1]

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As any config's.

        Raises:
            ValueError: If the data is of a newer `format_version`, or a field is not what it must be.
        """
        _check_format(config_dict)
        try:
            return super().from_dict(config_dict, **kwargs)
        except StrictDataclassError as error:
            raise ValueError(str(error)) from error

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> tuple[dict, dict]:
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        return _adopt_stock_vit(config_dict, pretrained_model_name_or_path), kwargs

    @property
    def layer_widths(self) -> tuple[list[int], list[int], list[int]]:
        """Heads, channels a head and hidden units of the MLP of all layers, in order."""
        layers = self.per_layer_config if self.is_heterogeneous else [self] * self.num_hidden_layers
        heads = [layer.num_attention_heads for layer in layers]
        return heads, [layer.head_dim for layer in layers], [layer.intermediate_size for layer in layers]


def _check_read_layers(layers: list[int], num_hidden_layers: int) -> None:
    if not layers or layers != sorted(set(layers) & set(range(num_hidden_layers))):
        last = num_hidden_layers - 1
        raise ValueError(f"`segmentation_layers` must be layers 0 to {last}, ascending, got {layers}.")


def _evenly(layers: int) -> list[int]:
    """Up to four layers, evenly spaced, the last one among them."""
    return sorted({max(0, round(layers * part / 4) - 1) for part in range(1, 5)})


def _check_format(config_dict: dict[str, Any]) -> None:
    version = config_dict.get("format_version", FORMAT_VERSION)
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise ValueError(
            f"`format_version` of the checkpoint is {version!r}, this code reads up to {FORMAT_VERSION}. Upgrade "
            "supersam_hf; or load it with the code in its own repository: by an Auto class with "
            "`trust_remote_code=True`, in a process that has not imported supersam_hf."
        )


def _check_num_labels(given: dict[str, Any]) -> None:
    """Raises `ValueError` where stock's config would make names of classes for what is no number of them."""
    number = given.get("num_labels", 0)
    if type(number) is not int or not 0 <= number <= MOST:
        raise ValueError(f"`num_labels` must be a whole number from 0 to {MOST:,}, got {number!r}.")


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
        if not isinstance(widths, dict):
            raise ValueError(f"`per_layer_config` of layer {layer} must be a dict of widths, got {widths!r}.")
        unknown = sorted(map(str, set(widths) - set(LAYER_WIDTHS)))
        if unknown:
            raise ValueError(f"`per_layer_config` of layer {layer} holds {unknown}; a layer has {list(LAYER_WIDTHS)}.")
        for name, width in widths.items():
            if type(width) is not int or not 1 <= width <= MOST:
                raise ValueError(
                    f"`{name}` of layer {layer} in `per_layer_config` must be 1 or more, as a whole number, got "
                    f"{width!r}."
                )


__all__ = ["OfbViTConfig"]
