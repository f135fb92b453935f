"""One canonical example for segmentation, one function a source, and prompted samples for training and evaluation."""

from .arguments import DataArguments
from .canonical import canonical_features, decode_masks, encode_masks, instances_to_objects
from .dataset import PromptDataset
from .files import from_coco, from_folder
from .load import load_source
from .loader import EpochSampler, build_loader, collate
from .shapes import shapes
from .tables import from_canonical, from_instances


__all__ = [
    "DataArguments",
    "EpochSampler",
    "PromptDataset",
    "build_loader",
    "canonical_features",
    "collate",
    "decode_masks",
    "encode_masks",
    "from_canonical",
    "from_coco",
    "from_folder",
    "from_instances",
    "instances_to_objects",
    "load_source",
    "shapes",
]
