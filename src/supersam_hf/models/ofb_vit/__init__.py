"""OFB's ViT: a ViT or DeiT, or the smaller network that a bi-mask search left of one."""

from .configuration_ofb_vit import OfbViTConfig
from .modeling_ofb_vit import (
    OfbViTForImageClassification,
    OfbViTImageClassifierOutput,
    OfbViTModel,
    OfbViTPreTrainedModel,
)
from .segmentation_ofb_vit import OfbViTForSemanticSegmentation


# Whose checkpoints load, and which class of ours searches and deploys them.
STOCK_TYPES = ("vit", "deit")
CLASSIFIER = OfbViTForImageClassification
SEGMENTER = OfbViTForSemanticSegmentation

__all__ = [
    "CLASSIFIER",
    "SEGMENTER",
    "STOCK_TYPES",
    "OfbViTConfig",
    "OfbViTForImageClassification",
    "OfbViTForSemanticSegmentation",
    "OfbViTImageClassifierOutput",
    "OfbViTModel",
    "OfbViTPreTrainedModel",
]
