"""What to train and evaluate on, and how images become prompted samples; the `data:` section of a recipe."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args


Prompt = Literal["point", "box"]
# Layouts of files; the other formats are those of datasets' rows.
FileLayout = Literal["folder", "coco", "sa1b", "ade20k", "ade20k_instances", "stacks"]
SourceFormat = Literal["auto", "shapes", "instances", "canonical", FileLayout]
OnError = Literal["raise", "skip"]
# What reads a `data:` section: training, an evaluation on held-out training images, one on the evaluation split.
DataPart = Literal["train", "holdout", "eval"]
HOW_FAST = ("num_workers", "eval_batch_size")
TRAIN_SPLIT = ("train_split", "max_train_images", "shapes_train_images")
EVAL_SPLIT = ("eval_split", "max_eval_images", "shapes_eval_images")
EVAL_SAMPLES = ("crop_eval",)
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
class DataArguments:
    """Data source, prompts and loading.

    Raises:
        ValueError: If a value is out of its range, naming the field.
    """

    source: str = "shapes"
    """"shapes" (generated scenes), a local path, or a dataset id on the Hub."""
    config_name: str | None = None
    """Configuration of a dataset on the Hub that has several."""
    revision: str | None = None
    """Branch, tag or commit of a dataset on the Hub."""
    format: SourceFormat = "auto"
    """Layout of the source; "auto" finds it from the files or columns that are there."""
    train_split: str = "train"
    """Split to train on; a slice such as "train[:90%]" is understood."""
    eval_split: str = "validation"
    """Split to evaluate on; "val" and "validation" mean the same."""
    max_train_images: int | None = None
    """Use only the first so many training images; none for all."""
    max_eval_images: int | None = None
    """Use only the first so many evaluation images; none for all."""
    patch_size: int | None = None
    """Cut images into square patches of so many px a side, without overlap; null: whole images."""
    merge_objects: bool = False
    """All objects of an image (or patch) as one mask."""
    on_error: OnError = "raise"
    """What an example that cannot be read does: end the run ("raise"), or be left out, counted and listed ("skip")."""
    streaming: bool = False
    """Read examples from their files as they are needed, nothing downloaded or converted beforehand; the first
    `holdout_images` are held out."""
    shuffle_buffer: int = 1000
    """With `streaming`, training images are shuffled within blocks of so many that lie together."""
    prompt: Prompt = "box"
    """One box or one foreground point an object."""
    box_padding: int = 20
    """A box prompt is the tight box grown by 0 to this many px a side, px of the image or its crop."""
    max_objects: int = 8
    """Objects an image (SuperSAM: 64 on SA-1B, 8 on COCO and ADE20K)."""
    min_area: int = 25
    """Objects smaller than this many px of the image or its crop are left out."""
    crop_train: list[int] | None = None
    """Smallest and largest side of the random square crop in training, px; none for the whole image."""
    crop_eval: int | None = None
    """Side of the central square crop in evaluation, px; none for the whole image."""
    flip: bool = False
    """Random horizontal and vertical flips in training."""
    shapes_image_size: int = 96
    """Side of the generated scenes, px."""
    shapes_train_images: int = 500
    """Number of generated training scenes."""
    shapes_eval_images: int = 100
    """Number of generated evaluation scenes."""
    shapes_seed: int = 0
    """Seed of the generated scenes, apart from `seed`, so that runs of other seeds see the same scenes."""
    batch_size: int = 8
    """Images a training batch and process."""
    eval_batch_size: int = 8
    """Images an evaluation batch and process."""
    num_workers: int = 0
    """Worker processes of each loader."""
    seed: int = 0
    """Seed of order, crops, flips, chosen objects and prompts."""

    def __post_init__(self) -> None:
        at_least = {"box_padding": 0, "max_objects": 1, "min_area": 1, "batch_size": 1, "eval_batch_size": 1}
        at_least |= {"num_workers": 0, "seed": 0, "shapes_seed": 0, "shapes_train_images": 1, "shapes_eval_images": 1}
        at_least |= {"max_train_images": 1, "max_eval_images": 1, "crop_eval": 1, "shuffle_buffer": 1}
        at_least |= {"patch_size": 1}
        for name, minimum in at_least.items():
            value = vars(self)[name]
            if value is not None and value < minimum:
                raise ValueError(f"`data.{name}` must be at least {minimum}, got {value}.")
        if self.prompt not in ("point", "box"):
            raise ValueError(f"`data.prompt` must be 'point' or 'box', got {self.prompt!r}.")
        if self.format not in get_args(SourceFormat):
            raise ValueError(f"`data.format` must be one of {list(get_args(SourceFormat))}, got {self.format!r}.")
        if self.on_error not in get_args(OnError):
            raise ValueError(f"`data.on_error` must be 'raise' or 'skip', got {self.on_error!r}.")
        if self.streaming and "shapes" in (self.source, self.format):
            raise ValueError("`data.streaming` is for stored images; the shapes are generated in memory.")
        if self.crop_train is not None and not self._is_range(self.crop_train):
            raise ValueError(
                f"`data.crop_train` must be [smallest, largest] side in px, both at least 1, got {self.crop_train}."
            )

    @staticmethod
    def _is_range(sides: list[int]) -> bool:
        return len(sides) == 2 and 1 <= sides[0] <= sides[1]
