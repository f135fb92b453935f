"""OFB's ViT: a ViT or DeiT, or the smaller network that a bi-mask search left of one."""

from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from .configuration_ofb_vit import OfbViTConfig
from .modeling_ofb_vit import (
    OfbViTForImageClassification,
    OfbViTImageClassifierOutput,
    OfbViTModel,
    OfbViTPreTrainedModel,
)
from .segmentation_ofb_vit import OfbViTForSemanticSegmentation


# Whose checkpoints load, and which classes of ours search and deploy them.
STOCK_TYPES = ("vit", "deit")
BACKBONE, CLASSIFIER, SEGMENTER = OfbViTModel, OfbViTForImageClassification, OfbViTForSemanticSegmentation
# For a folder whose processor config names no class; on PIL, so that it needs no torchvision.
PROCESSOR = ViTImageProcessorPil

__all__ = [
    "BACKBONE",
    "CLASSIFIER",
    "PROCESSOR",
    "SEGMENTER",
    "STOCK_TYPES",
    "OfbViTConfig",
    "OfbViTForImageClassification",
    "OfbViTForSemanticSegmentation",
    "OfbViTImageClassifierOutput",
    "OfbViTModel",
    "OfbViTPreTrainedModel",
]
