"""OFB's Swin: a Swin Transformer, or the smaller network that a bi-mask search left of one."""

from .configuration_ofb_swin import OfbSwinConfig
from .modeling_ofb_swin import OfbSwinForImageClassification, OfbSwinModel, OfbSwinPreTrainedModel


__all__ = ["OfbSwinConfig", "OfbSwinForImageClassification", "OfbSwinModel", "OfbSwinPreTrainedModel"]
