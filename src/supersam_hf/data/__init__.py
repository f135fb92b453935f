"""Sources of segmented and of labelled images, and samples of them for training and evaluation."""

from .arguments import DataArguments
from .canonical import canonical_features, decode_masks, encode_masks, instances_to_objects
from .classification import ImageDataset, load_classification, stream_classification
from .classification_arguments import ImageClassificationArguments
from .dataset import PromptDataset
from .images import read_rgb
from .labels import match_labels
from .load import load_source, open_source
from .loader import build_loader, collate, shared
from .pictures import OriginalMasks, PictureDataset, PictureStream
from .shape_classes import shape_classes
from .shapes import shapes
from .streaming import ImageStream, PromptStream
from .tables import from_canonical, from_instances


__all__ = [
    "DataArguments",
    "ImageClassificationArguments",
    "ImageDataset",
    "ImageStream",
    "OriginalMasks",
    "PictureDataset",
    "PictureStream",
    "PromptDataset",
    "PromptStream",
    "build_loader",
    "canonical_features",
    "collate",
    "decode_masks",
    "encode_masks",
    "from_canonical",
    "from_instances",
    "instances_to_objects",
    "load_classification",
    "load_source",
    "match_labels",
    "open_source",
    "read_rgb",
    "shape_classes",
    "shapes",
    "shared",
    "stream_classification",
]
