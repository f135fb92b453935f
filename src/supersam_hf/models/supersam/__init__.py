"""SuperSAM: SAM as a supernet, and the subnets extracted from it."""

from .configuration_supersam import SuperSamConfig, SuperSamVisionConfig
from .elastic_supersam import ElasticSpace, Subnet
from .image_processing_supersam import SuperSamImageProcessor, SuperSamProcessor
from .modeling_supersam import ElasticLinear, SuperSamModel, SuperSamPreTrainedModel, SuperSamVisionModel


__all__ = [
    "ElasticLinear",
    "ElasticSpace",
    "Subnet",
    "SuperSamConfig",
    "SuperSamImageProcessor",
    "SuperSamModel",
    "SuperSamPreTrainedModel",
    "SuperSamProcessor",
    "SuperSamVisionConfig",
    "SuperSamVisionModel",
]
