"""OFB's Swin: a Swin Transformer, or the smaller network that a bi-mask search left of one."""

from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from .configuration_ofb_swin import OfbSwinConfig
from .modeling_ofb_swin import OfbSwinForImageClassification, OfbSwinModel, OfbSwinPreTrainedModel


# Whose checkpoints load, and which classes of ours search and deploy them.
STOCK_TYPES = ("swin",)
BACKBONE, CLASSIFIER = OfbSwinModel, OfbSwinForImageClassification
# For a folder whose processor config names no class; on PIL, so that it needs no torchvision.
PROCESSOR = ViTImageProcessorPil

__all__ = [
    "BACKBONE",
    "CLASSIFIER",
    "PROCESSOR",
    "STOCK_TYPES",
    "OfbSwinConfig",
    "OfbSwinForImageClassification",
    "OfbSwinModel",
    "OfbSwinPreTrainedModel",
]
