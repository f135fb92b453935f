"""SuperSAM configuration: stock SAM's, plus an elastic space and per-layer widths."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import SamConfig, SamVisionConfig
from transformers.models.sam.configuration_sam import SamMaskDecoderConfig, SamPromptEncoderConfig


# A stock SAM's `model_type` and the one it becomes here.
RENAMED = {"sam": "supersam", "sam_vision_model": "supersam_vision_model"}
# Of what `save_pretrained` writes: raised when a folder of today would no longer be read rightly by yesterday's code.
FORMAT_VERSION = 1


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
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise ValueError(
            f"`format_version` of the checkpoint is {version!r}, this code reads up to {FORMAT_VERSION}. Upgrade "
            "supersam_hf; or load it with the code in its own repository: by an Auto class with "
            "`trust_remote_code=True`, in a process that has not imported supersam_hf."
        )


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

    head_dim: int | None = None
    query_pre_attn_scalar: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.head_dim is None:
            self.head_dim = self.hidden_size // self.num_attention_heads
        if self.query_pre_attn_scalar is None:
            self.query_pre_attn_scalar = self.head_dim
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

    elastic_space: dict | None = None
    subnet: dict | None = None
    subnet_name: str | None = None
    search: dict | None = None
    format_version: int = FORMAT_VERSION

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As any config's.

        Raises:
            ValueError: If the data is of a newer `format_version`.
        """
        _check_format(config_dict)
        # Auto classes offer the model's arguments to the config first; `subnet` there is which one to load, not the
        # record of that name.
        asked = {"subnet": kwargs.pop("subnet")} if "subnet" in kwargs else {}
        loaded = super().from_dict(config_dict, **kwargs)
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
