"""What to train and evaluate on, and how images become prompted samples; the `data:` section of a recipe."""

from dataclasses import dataclass
from typing import Literal


Prompt = Literal["point", "box"]
SourceFormat = Literal["auto", "shapes", "instances", "folder", "coco", "canonical"]


@dataclass
class DataArguments:
    """Data source, prompts and loading.

    Raises:
        ValueError: If a value is out of its range, naming the field.
    """

    source: str = "shapes"
    """"shapes" (generated scenes), a local path, or a dataset id on the Hub."""
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
    streaming: bool = False
    """Read parquet files or a dataset on the Hub as they are needed, nothing downloaded or converted beforehand. The
    first `holdout_images` are held out, the evaluation split is held in memory, `max_*_images` count rows."""
    shuffle_buffer: int = 1000
    """With `streaming`, training images are drawn from a buffer of so many, in memory as they are stored."""
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
        for name, minimum in at_least.items():
            value = vars(self)[name]
            if value is not None and value < minimum:
                raise ValueError(f"`data.{name}` must be at least {minimum}, got {value}.")
        if self.prompt not in ("point", "box"):
            raise ValueError(f"`data.prompt` must be 'point' or 'box', got {self.prompt!r}.")
        if self.streaming:
            check_streamed(self.source, self.train_split, self.eval_split)
            if self.format not in ("auto", "instances", "canonical"):
                raise ValueError(
                    f"`data.format` {self.format!r} cannot be streamed; parquet of the formats 'instances' and "
                    "'canonical' can. Turn it into that by `supersam-hf prepare`, or set `data.streaming: false`."
                )
        if self.crop_train is not None and not self._is_range(self.crop_train):
            raise ValueError(
                f"`data.crop_train` must be [smallest, largest] side in px, both at least 1, got {self.crop_train}."
            )

    @staticmethod
    def _is_range(sides: list[int]) -> bool:
        return len(sides) == 2 and 1 <= sides[0] <= sides[1]


def check_streamed(source: str, *splits: str) -> None:
    """Raises `ValueError` where a source or its splits cannot be streamed."""
    if source == "shapes":
        raise ValueError("`data.streaming` is for stored datasets; `data.source: shapes` is generated in memory.")
    for split in splits:
        if "[" in split:
            raise ValueError(
                f"`data.streaming` does not know how long a split is, so it cannot take the slice {split!r}; name "
                "whole splits, with `data.max_train_images` and `holdout_images`."
            )
