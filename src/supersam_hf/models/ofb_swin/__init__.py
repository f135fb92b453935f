"""OFB's Swin: a Swin Transformer, or the smaller network that a bi-mask search left of one."""

from .configuration_ofb_swin import OfbSwinConfig
from .modeling_ofb_swin import OfbSwinForImageClassification, OfbSwinModel, OfbSwinPreTrainedModel


# Whose checkpoints load, and which class of ours searches and deploys them.
STOCK_TYPES = ("swin",)
CLASSIFIER = OfbSwinForImageClassification

__all__ = [
    "CLASSIFIER",
    "STOCK_TYPES",
    "OfbSwinConfig",
    "OfbSwinForImageClassification",
    "OfbSwinModel",
    "OfbSwinPreTrainedModel",
]
