"""SuperSAM: SAM as a supernet, and the subnets extracted from it."""

from .configuration_supersam import SuperSamConfig, SuperSamVisionConfig
from .elastic_supersam import ElasticSpace, Subnet, shared_depth
from .image_processing_supersam import SuperSamImageProcessor, SuperSamProcessor
from .layers_supersam import ElasticLinear
from .modeling_supersam import SuperSamModel, SuperSamPreTrainedModel, SuperSamVisionModel


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
    "shared_depth",
]
