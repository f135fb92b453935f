"""What to segment into classes: the `data:` section of a recipe of semantic segmentation."""

from dataclasses import dataclass
from typing import Literal

from ..fields import Checked, Count, FieldError, Positive, Seed, Text, Whole
from .arguments import OnError
from .columns import SEGMENTED, check_columns_field


SemanticFormat = Literal["auto", "label_maps", "ade20k", "cityscapes", "foreground"]


@dataclass
class SemanticArguments(Checked):
    """Images with a class for every pixel, augmentation and loading.

    Raises:
        ValueError: If a value is out of its range, naming the field.
    """

    source: str = ""
    """A local folder, or a dataset id on the Hub or local parquet (foreground)."""
    config_name: Text | None = None
    """Configuration of a dataset on the Hub that has several."""
    revision: Text | None = None
    """Branch, tag or commit of a dataset on the Hub."""
    format: SemanticFormat = "auto"
    """cityscapes (leftImg8bit/ and gtFine/), ade20k (images/ and annotations/ of the scene-parsing challenge),
    label_maps (images/ and labels/, ids from 0), foreground (two classes: any source of objects), auto: by what lies
    there."""
    columns: dict[str, Text] | None = None
    """Columns of a table of objects (foreground) by what they hold (image, instances or objects), where they have
    other names."""
    train_split: Text = "train"
    """Split to train on; of foreground, a slice such as "train[:90%]" is understood; of label maps that lie in no
    folder of a split, "all"."""
    eval_split: Text = "validation"
    """Split to evaluate on; "val" and "validation" mean the same."""
    max_train_images: Count | None = None
    """Use only the first so many training images; null: all."""
    max_eval_images: Count | None = None
    """Use only the first so many evaluation images; null: all."""
    label_names: list[Text] | None = None
    """Names of the classes in the order of their ids (label_maps); null: numbers."""
    min_scale: Positive = 0.5
    """Smallest factor by which a training image is resized before a square is cropped from it."""
    max_scale: Positive = 2.0
    """Largest factor."""
    flip: bool = True
    """Random horizontal flips in training."""
    on_error: OnError = "raise"
    """What an image that cannot be read does: end the run ("raise"), or be left out and listed ("skip")."""
    batch_size: Count = 8
    """Images a training batch and process; evaluation takes one at a time, of any size."""
    num_workers: Whole = 0
    """Worker processes of each loader."""
    seed: Seed = 0
    """Seed of order, scales, crops and flips."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_scale > self.max_scale:
            text = f"must be at most `max_scale` {self.max_scale:g}, got {self.min_scale:g}."
            raise FieldError("min_scale", text)
        check_columns_field(self.columns, SEGMENTED)


__all__ = ["SemanticArguments", "SemanticFormat"]
