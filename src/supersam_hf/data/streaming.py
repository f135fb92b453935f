"""Samples of sources that are read as they are needed: nothing is downloaded, converted or held beforehand.

Which rows a process and each of its loader workers read, and when, follows from (seed, epoch): see `plan`. So there is
no state to save, and a training goes on at any batch of any epoch without reading what came before it.
"""

from typing import TYPE_CHECKING

from .arguments import DataArguments
from .classification_arguments import ImageClassificationArguments
from .dataset import PromptSamples
from .image_dataset import ImageSamples
from .rows import SourceRows
from .skipped import SkipLog
from .source import Source


if TYPE_CHECKING:
    from transformers import BaseImageProcessor
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil


class PromptStream(PromptSamples):
    """Prompted samples of the rows of a source, by index.

    In training a row without an object of `args.min_area` gives way to the next one that has some; in evaluation its
    sample has none.

    Args:
        source ([`Source`]): Canonical examples, from `open_source`.
        image_processor (`SamImageProcessorPil`): Image processor of the model.
        args (`DataArguments`): Prompts, crops, limits and seed.
        training (`bool`): Random crops, flips and prompts anew each epoch, or fixed ones.
        skip_log ([`SkipLog`], *optional*): Where to list examples that cannot be read, with `args.on_error: skip`.

    Raises:
        ValueError: If the source has no rows, or the processor does not pad to squares of its size.
    """

    def __init__(
        self,
        source: Source,
        image_processor: "SamImageProcessorPil",
        args: DataArguments,
        *,
        training: bool,
        skip_log: SkipLog | None = None,
    ) -> None:
        super().__init__(_rows(source), image_processor, args, training=training, skip_log=skip_log)
        self.source = source


class ImageStream(ImageSamples):
    """Samples of the labelled images of a source, by index.

    Args:
        source ([`Source`]): Images and labels, from [`stream_classification`].
        image_processor (`BaseImageProcessor`): Image processor of the model.
        args (`ImageClassificationArguments`): Augmentation and seed.
        label_names (`list[str]`): Names of the classes in the order of their labels.
        training (`bool`): Random changes anew each epoch, or none.
        skip_log ([`SkipLog`], *optional*): Where to list images that cannot be read, with `args.on_error: skip`.

    Raises:
        ValueError: If the source has no rows, the processor's images are not squares of one size, or kornia is needed
            and missing.
    """

    def __init__(
        self,
        source: Source,
        image_processor: "BaseImageProcessor",
        args: ImageClassificationArguments,
        label_names: list[str],
        *,
        training: bool,
        skip_log: SkipLog | None = None,
    ) -> None:
        super().__init__(_rows(source), image_processor, args, label_names, training=training, skip_log=skip_log)
        self.source = source


def _rows(source: Source) -> SourceRows:
    if not len(source):
        raise ValueError("The stream has no images: its split is empty, or all that there are were held out.")
    return SourceRows(source)
