"""What to segment into classes: the `data:` section of a recipe of semantic segmentation."""

from dataclasses import dataclass
from typing import Literal, get_args

from .arguments import OnError
from .columns import SEGMENTED, check_columns_field


SemanticFormat = Literal["auto", "label_maps", "ade20k", "cityscapes", "foreground"]


@dataclass
class SemanticArguments:
    """Images with a class for every pixel, augmentation and loading.

    Raises:
        ValueError: If a value is out of its range, naming the field.
    """

    source: str = ""
    """A local folder, or a dataset id on the Hub or local parquet (foreground)."""
    config_name: str | None = None
    """Configuration of a dataset on the Hub that has several."""
    revision: str | None = None
    """Branch, tag or commit of a dataset on the Hub."""
    format: SemanticFormat = "auto"
    """cityscapes (leftImg8bit/ and gtFine/), ade20k (images/ and annotations/ of the scene-parsing challenge),
    label_maps (images/ and labels/, ids from 0), foreground (two classes: any source of objects), auto: by what lies
    there."""
    columns: dict[str, str] | None = None
    """Columns of a table of objects (foreground) by what they hold (image, instances or objects), where they have
    other names."""
    train_split: str = "train"
    """Split to train on; of foreground, a slice such as "train[:90%]" is understood; of label maps that lie in no
    folder of a split, "all"."""
    eval_split: str = "validation"
    """Split to evaluate on; "val" and "validation" mean the same."""
    max_train_images: int | None = None
    """Use only the first so many training images; null: all."""
    max_eval_images: int | None = None
    """Use only the first so many evaluation images; null: all."""
    label_names: list[str] | None = None
    """Names of the classes in the order of their ids (label_maps); null: numbers."""
    min_scale: float = 0.5
    """Smallest factor by which a training image is resized before a square is cropped from it."""
    max_scale: float = 2.0
    """Largest factor."""
    flip: bool = True
    """Random horizontal flips in training."""
    on_error: OnError = "raise"
    """What an image that cannot be read does: end the run ("raise"), or be left out and listed ("skip")."""
    batch_size: int = 8
    """Images a training batch and process; evaluation takes one at a time, of any size."""
    num_workers: int = 0
    """Worker processes of each loader."""
    seed: int = 0
    """Seed of order, scales, crops and flips."""

    def __post_init__(self) -> None:
        for name, minimum in {"batch_size": 1, "num_workers": 0, "seed": 0}.items():
            if vars(self)[name] < minimum:
                raise ValueError(f"`data.{name}` must be at least {minimum}, got {vars(self)[name]}.")
        for name in ("max_train_images", "max_eval_images"):
            if vars(self)[name] is not None and vars(self)[name] < 1:
                raise ValueError(f"`data.{name}` must be at least 1, or null, got {vars(self)[name]}.")
        check_columns_field(self.columns, SEGMENTED)
        if not 0 < self.min_scale <= self.max_scale:
            raise ValueError(
                f"`data.min_scale` must be positive and at most `data.max_scale`, got {self.min_scale} and "
                f"{self.max_scale}."
            )
        for name, kinds in (("format", SemanticFormat), ("on_error", OnError)):
            if vars(self)[name] not in get_args(kinds):
                raise ValueError(f"`data.{name}` must be one of {list(get_args(kinds))}, got {vars(self)[name]!r}.")


__all__ = ["SemanticArguments", "SemanticFormat"]
