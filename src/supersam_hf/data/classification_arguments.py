"""Which labelled images to search, fine-tune and evaluate a classifier on; the `data:` section of an OFB recipe."""

from dataclasses import dataclass

from .arguments import OnError
from .columns import LABELLED, check_columns_field


@dataclass
class ImageClassificationArguments:
    """Data source, labels, augmentation and loading.

    Raises:
        ValueError: If a value is out of its range, naming the field.
    """

    source: str = "shapes"
    """"shapes" (generated images), a local path (parquet, `save_to_disk`, a folder a class), or a dataset id on the
    Hub."""
    config_name: str | None = None
    """Configuration of a dataset on the Hub that has several."""
    revision: str | None = None
    """Branch, tag or commit of a dataset on the Hub; none for its main branch."""
    train_split: str = "train"
    """Split to train on; a slice such as "train[:90%]" is understood."""
    eval_split: str = "validation"
    """Split to evaluate on; "val" and "validation" mean the same. CIFAR has "test"."""
    columns: dict[str, str] | None = None
    """Columns of the table by what they hold (image, label), where they have other names."""
    image_column: str | None = None
    """The same as `columns.image`; none for the one image column that there is."""
    label_column: str | None = None
    """The same as `columns.label`; none for the one `ClassLabel` column that there is."""
    label_names: list[str] | None = None
    """Names of the classes in the order of their labels, where the label column holds plain integers or strings; none
    for the names of the dataset."""
    label_mapping: str | None = None
    """JSON file that says which label of the checkpoint each class of the dataset is (see `data.match_labels`), or
    "same-order"; none where their names agree."""
    max_train_images: int | None = None
    """Use only so many training images, taken evenly from all classes; none for all."""
    max_eval_images: int | None = None
    """Use only so many evaluation images, taken evenly from all classes; none for all."""
    on_error: OnError = "raise"
    """What an image that cannot be read does: end the run ("raise"), or be left out, counted and listed ("skip")."""
    streaming: bool = False
    """Read parquet files, here or on the Hub, as they are needed, nothing downloaded beforehand. The first
    `holdout_images` are held out and `max_*_images` take the first rows: store the images in random order."""
    shuffle_buffer: int = 1000
    """With `streaming`, training images are shuffled within blocks of so many that lie together."""
    min_scale: float = 0.08
    """Smallest share of an image's area that a random crop in training keeps; 1 for no random crop."""
    flip: bool = True
    """Random horizontal flips in training."""
    rand_augment: bool = False
    """RandAugment in training; needs kornia (`pip install supersam-hf[augment]`)."""
    rand_augment_num_ops: int = 2
    """Operations that RandAugment applies to an image."""
    rand_augment_magnitude: int = 9
    """Strength of the operations, 1 to 9 tenths of the largest (DeiT's "rand-m9": 9)."""
    color_jitter: float = 0.0
    """Random change of brightness, contrast and saturation by up to this factor in training; needs kornia. DeiT turns
    it off where RandAugment is on."""
    random_erasing: float = 0.0
    """Probability that a rectangle of a training image is replaced by noise (DeiT: 0.25)."""
    shapes_image_size: int = 32
    """Side of the generated images, px."""
    shapes_train_images: int = 4000
    """Number of generated training images."""
    shapes_eval_images: int = 1000
    """Number of generated evaluation images."""
    shapes_seed: int = 0
    """Seed of the generated images, apart from `seed`, so that runs of other seeds see the same images."""
    batch_size: int = 64
    """Images a training batch and process."""
    eval_batch_size: int = 64
    """Images an evaluation batch and process."""
    num_workers: int = 0
    """Worker processes of each loader."""
    seed: int = 0
    """Seed of order and augmentation."""

    def __post_init__(self) -> None:
        at_least = {"max_train_images": 1, "max_eval_images": 1, "rand_augment_num_ops": 1, "shapes_image_size": 16}
        at_least |= {"shapes_train_images": 1, "shapes_eval_images": 1, "shapes_seed": 0, "seed": 0}
        at_least |= {"batch_size": 1, "eval_batch_size": 1, "num_workers": 0, "shuffle_buffer": 1}
        for name, minimum in at_least.items():
            value = vars(self)[name]
            if value is not None and value < minimum:
                raise ValueError(f"`data.{name}` must be at least {minimum}, got {value}.")
        check_columns_field(self.columns, LABELLED)
        for name in LABELLED:
            field, column = vars(self)[f"{name}_column"], (self.columns or {}).get(name)
            if field is not None and column is not None and field != column:
                raise ValueError(f"`data.{name}_column` is {field!r} and `data.columns.{name}` {column!r}; give one.")
        if self.streaming and self.source == "shapes":
            raise ValueError("`data.streaming` is for stored images; the shapes are generated in memory.")
        between = {"color_jitter": (0, 1), "random_erasing": (0, 1), "rand_augment_magnitude": (1, 9)}
        for name, (low, high) in between.items():
            # "not" around it, so that NaN is refused too
            if not low <= vars(self)[name] <= high:
                raise ValueError(f"`data.{name}` must be between {low} and {high}, got {vars(self)[name]}.")
        if not 0 < self.min_scale <= 1:
            raise ValueError(f"`data.min_scale` must be above 0 and at most 1, got {self.min_scale}.")
        if self.on_error not in ("raise", "skip"):
            raise ValueError(f"`data.on_error` must be 'raise' or 'skip', got {self.on_error!r}.")
        if self.label_names is not None and len(set(self.label_names)) != len(self.label_names):
            raise ValueError("`data.label_names` names a class twice; each name must be unique.")
