"""A recipe of semantic segmentation: a backbone, a SETR head, data, training. What the YAML files fill in."""

from dataclasses import dataclass, field
from typing import Literal

from .data.semantic_arguments import SemanticArguments
from .fields import Checked, Count, FieldError, Fraction, Place, Side, Text, Whole
from .training.segment import SegmenterArguments


@dataclass
class SegmenterModelArguments(Checked):
    """The backbone, and the head that is put on it."""

    name: Place | None = None
    """Hub id or folder of a ViT, DeiT or OFB ViT: a classifier, also a found one, or a segmenter to go on with."""
    revision: Text | None = None
    """Branch, tag or commit on the Hub."""
    image_size: Side | None = None
    """Side of training crops and of evaluation windows, px, positions interpolated; null: the checkpoint's."""
    attn_implementation: Literal["sdpa", "eager"] = "sdpa"
    """Attention kernel."""
    segmentation_head: Literal["naive", "pup", "mla"] = "naive"
    """SETR's heads."""
    segmentation_channels: Count = 256
    """Width of the head."""
    use_auxiliary_head: bool = True
    """Heads on three layers before the last too, in training."""


@dataclass
class SegmenterRecipe(Checked):
    """Fine-tuning of a backbone for semantic segmentation."""

    output_dir: Place = "runs/segmenter"
    """Folder of everything the run writes. A model that is there is evaluated, not trained again."""
    stride: Fraction = 2 / 3
    """Distance of the windows of an evaluation, as a share of their side."""
    repeats: Whole = 20
    """Timed forwards of one window; 0: none."""
    model: SegmenterModelArguments = field(default_factory=SegmenterModelArguments)
    data: SemanticArguments = field(default_factory=SemanticArguments)
    train: SegmenterArguments = field(default_factory=SegmenterArguments)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model.name is None:
            raise FieldError("model.name", "is missing: give a ViT or DeiT, or a classifier that OFB found.")
        if not self.data.source:
            raise FieldError("data.source", "is missing: give a folder, or a dataset.")


__all__ = ["SegmenterModelArguments", "SegmenterRecipe"]
