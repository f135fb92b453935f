"""OFB's ViT: a ViT or DeiT, or the smaller network that a bi-mask search left of one."""

from .configuration_ofb_vit import OfbViTConfig
from .modeling_ofb_vit import (
    OfbViTForImageClassification,
    OfbViTImageClassifierOutput,
    OfbViTModel,
    OfbViTPreTrainedModel,
)


__all__ = [
    "OfbViTConfig",
    "OfbViTForImageClassification",
    "OfbViTImageClassifierOutput",
    "OfbViTModel",
    "OfbViTPreTrainedModel",
]
