"""What to train and evaluate on, and how images become prompted samples; the `data:` section of a recipe."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..fields import Checked, ClosedUnitInterval, Count, FieldError, NonNegative, Place, Seed, Side, Text, Whole
from .columns import SEGMENTED, check_columns_field


Prompt = Literal["point", "box"]
# Layouts of files; the other formats are those of datasets' rows.
FileLayout = Literal["folder", "coco", "sa1b", "ade20k", "ade20k_instances", "stacks"]
SourceFormat = Literal["auto", "shapes", "instances", "canonical", "images", FileLayout]
OnError = Literal["raise", "skip"]
# What reads a `data:` section: training, an evaluation on held-out training images, one on the evaluation split.
DataPart = Literal["train", "holdout", "eval"]
HOW_FAST = ("num_workers", "eval_batch_size", "embeddings_gb")
TRAIN_SPLIT = ("train_split", "max_train_images", "shapes_train_images")
EVAL_SPLIT = ("eval_split", "max_eval_images", "shapes_eval_images")
EVAL_SAMPLES = ("crop_eval", "prompts_per_side")
TRAIN_SAMPLES = (
    *("batch_size", "shuffle_buffer", "crop_train", "flip", "min_scale", "max_scale", "color_jitter"),
    *("rand_augment", "rand_augment_num_ops", "rand_augment_magnitude", "random_erasing"),
)
NOT_READ: dict[DataPart, tuple[str, ...]] = {
    "train": (*HOW_FAST, *EVAL_SPLIT, *EVAL_SAMPLES),
    "holdout": (*HOW_FAST, *EVAL_SPLIT, *TRAIN_SAMPLES),
    "eval": (*HOW_FAST, *TRAIN_SPLIT, *TRAIN_SAMPLES),
}


def data_read(section: Mapping[str, Any], part: DataPart) -> dict[str, Any]:
    """The values of a `data:` section, of any task, on which the samples of a part depend."""
    return {name: value for name, value in section.items() if name not in NOT_READ[part]}


@dataclass
class DataArguments(Checked):
    """Data source, prompts and loading.

    Raises:
        ValueError: If a value is out of its range, naming the field.
    """

    source: Place = "shapes"
    """"shapes" (generated scenes), a local path, or a dataset id on the Hub."""
    config_name: Text | None = None
    """Configuration of a dataset on the Hub that has several."""
    revision: Text | None = None
    """Branch, tag or commit of a dataset on the Hub."""
    format: SourceFormat = "auto"
    """Layout of the source; "auto" finds it from the files or columns that are there. "images": pictures alone, to
    learn from the original model instead of from labels."""
    columns: dict[str, Text] | None = None
    """Columns of a table by what they hold (image, instances or objects, image_id), where they have other names."""
    train_split: Text = "train"
    """Split to train on; a slice such as "train[:90%]" is understood."""
    eval_split: Text = "validation"
    """Split to evaluate on; "val" and "validation" mean the same."""
    max_train_images: Count | None = None
    """Use only the first so many training images; none for all."""
    max_eval_images: Count | None = None
    """Use only the first so many evaluation images; none for all."""
    patch_size: Side | None = None
    """Cut images into square patches of so many px a side, without overlap; null: whole images."""
    merge_objects: bool = False
    """All objects of an image (or patch) as one mask."""
    on_error: OnError = "raise"
    """What an example that cannot be read does: end the run ("raise"), or be left out, counted and listed ("skip")."""
    streaming: bool = False
    """Read examples from their files as they are needed, nothing downloaded or converted beforehand; the first
    `holdout_images` are held out."""
    shuffle_buffer: Count = 1000
    """With `streaming`, training images are shuffled within blocks of so many that lie together."""
    prompt: Prompt = "box"
    """One box or one foreground point an object."""
    box_padding: Whole = 20
    """A box prompt is the tight box grown by 0 to this many px a side, px of the image or its crop."""
    max_objects: Count = 8
    """Objects an image (SuperSAM: 64 on SA-1B, 8 on COCO and ADE20K)."""
    min_area: Count = 25
    """Objects smaller than this many px of the image or its crop are left out."""
    crop_train: list[Side] | None = None
    """Smallest and largest side of the random square crop in training, px; none for the whole image."""
    crop_eval: Side | None = None
    """Side of the central square crop in evaluation, px; none for the whole image."""
    flip: bool = False
    """Random horizontal and vertical flips in training."""
    original: Place | None = None
    """With `format: images`, the SAM (Hub id or folder) whose embeddings and masks are the truth; null: the model that
    the run starts from."""
    prompts_per_side: Count = 8
    """With `format: images`, subnets are compared with the original at a grid of so many points a side."""
    min_predicted_iou: ClosedUnitInterval = 0.5
    """With `format: images`, masks of which the original predicts a smaller IoU are left out, and counted; 0: none."""
    embeddings_gb: NonNegative = 20.0
    """With `format: images`, most that the original's embeddings take on disk, GB (10^9 bytes); what does not fit, and
    all of them with crops or flips, is computed anew."""
    shapes_image_size: Side = 96
    """Side of the generated scenes, px."""
    shapes_train_images: Count = 500
    """Number of generated training scenes."""
    shapes_eval_images: Count = 100
    """Number of generated evaluation scenes."""
    shapes_seed: Seed = 0
    """Seed of the generated scenes, apart from `seed`, so that runs of other seeds see the same scenes."""
    batch_size: Count = 8
    """Images a training batch and process."""
    eval_batch_size: Count = 8
    """Images an evaluation batch and process."""
    num_workers: Whole = 0
    """Worker processes of each loader."""
    seed: Seed = 0
    """Seed of order, crops, flips, chosen objects and prompts."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_columns_field(self.columns, SEGMENTED)
        if self.streaming and "shapes" in (self.source, self.format):
            raise FieldError("streaming", "is for stored images; the shapes are generated in memory.")
        if self.format == "images":
            self._check_unlabelled()
        if self.crop_train is not None and not self._is_range(self.crop_train):
            raise FieldError(
                "crop_train", f"must be [smallest, largest] side in px, both at least 1, got {self.crop_train}."
            )

    @property
    def unlabelled(self) -> bool:
        """Whether there are pictures alone, and the original model takes the place of labels."""
        return self.format == "images"

    def _check_unlabelled(self) -> None:
        if self.source == "shapes":
            raise FieldError("format", "`images` needs pictures: give their folder as `source`.")
        if self.prompt != "point":
            raise FieldError("prompt", "must be `point` with `format: images`: without objects there are no boxes.")
        if self.merge_objects:
            raise FieldError("merge_objects", "has no meaning with `format: images`, which has no objects.")

    @staticmethod
    def _is_range(sides: list[int]) -> bool:
        return len(sides) == 2 and 1 <= sides[0] <= sides[1]
