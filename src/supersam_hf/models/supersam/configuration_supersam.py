"""SuperSAM configuration: stock SAM's, plus an elastic space and per-layer widths."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import SamConfig, SamVisionConfig
from transformers.models.sam.configuration_sam import SamMaskDecoderConfig, SamPromptEncoderConfig


# A stock SAM's `model_type` and the one it becomes here.
RENAMED = {"sam": "supersam", "sam_vision_model": "supersam_vision_model"}


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
            `mlp_dim` and `head_dim` of the layers that differ from the values above.
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
        layers = self.per_layer_config if self.is_heterogeneous else [self] * self.num_hidden_layers
        return [layer.mlp_dim for layer in layers], [layer.head_dim for layer in layers]


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
    """

    model_type = "supersam"
    sub_configs_defaults = {
        "prompt_encoder_config": SamPromptEncoderConfig,
        "mask_decoder_config": SamMaskDecoderConfig,
        "vision_config": SuperSamVisionConfig,
    }

    elastic_space: dict | None = None
    subnet: dict | None = None

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> tuple[dict, dict]:
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        # Not an encoder alone: prompt encoder and mask decoder would stay random.
        return _adopt_stock_sam(config_dict, pretrained_model_name_or_path, ("sam", "supersam")), kwargs


__all__ = ["SuperSamConfig", "SuperSamVisionConfig"]
