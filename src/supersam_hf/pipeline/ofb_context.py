"""What the stages of an OFB run share: its folder, its data, its models, and whose labels they have."""

from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import AutoImageProcessor
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from ..data import ImageStream, build_loader
from ..data.classification import ImageDataset, load_classification, stream_classification
from ..data.labels import match_labels
from ..data.ranges import RowRange
from ..models.classifiers import load_classifier
from ..ofb_recipe import OfbRecipe
from .folder import RunFolder, check_holdout


class OfbRun(RunFolder):
    """An OFB run: one output folder and the recipe that fills it."""

    recipe: OfbRecipe

    def __init__(self, recipe: OfbRecipe) -> None:
        # the method, so that a SuperSAM run's folder is not taken for one of its own
        start = {"pretrain": True, "method": "ofb"} if recipe.pretrain.enabled else asdict(recipe.model)
        start.pop("attn_implementation", None)
        super().__init__(recipe, start)

    @cached_property
    def _train_data(self) -> tuple[Any, list[str]]:
        """All training images, a dataset or a source of a stream, and the names of their classes."""
        found = self._read("train")
        check_holdout(len(found[0]), self.recipe.holdout_images)
        return found

    @cached_property
    def _eval_data(self) -> tuple[Any, list[str]]:
        """All evaluation images, and the names of their classes."""
        return self._read("eval")

    def _read(self, part: Literal["train", "eval"]) -> tuple[Any, list[str]]:
        if self.recipe.data.streaming:
            return stream_classification(self.recipe.data, part)
        data = load_classification(self.recipe.data, part, self.skip_log)
        return data, data.features["label"].names

    @property
    def label_names(self) -> list[str]:
        """The classes of the training images, in the order of their labels."""
        return self._train_data[1]

    @property
    def eval_label_names(self) -> list[str]:
        """The classes of the evaluation split, in the order of their labels; the training images are left alone."""
        return self._eval_data[1]

    def _part(self, held_out: bool) -> Any:
        """The training images that are held out, or the others: of a stream the first are, else a random choice, since
        datasets come sorted by class."""
        images, count = self._train_data[0], self.recipe.holdout_images
        if self.recipe.data.streaming:
            return RowRange(images, 0, count) if held_out else RowRange(images, count, len(images))
        if not count:
            return images
        order = np.random.default_rng(self.recipe.data.seed).permutation(len(images))
        return images.select(sorted((order[:count] if held_out else order[count:]).tolist()))

    @cached_property
    def train_loader(self) -> DataLoader:
        """Training images without the holdout."""
        return self._loader(self._part(held_out=False), self.label_names, True)

    def calibration_loader(self) -> DataLoader:
        """Training images as a process alone takes them: the same on each of any number of processes."""
        return self._loader(self._part(held_out=False), self.label_names, True, alone=True)

    @cached_property
    def watch_loader(self) -> DataLoader:
        """What `eval_steps` evaluates on: the holdout, or the evaluation split where nothing is held out.

        Raises:
            ValueError: If the evaluation split has other classes than the training images.
        """
        if self.recipe.holdout_images:
            return self._loader(self._part(held_out=True), self.label_names, False)
        if self.eval_label_names != self.label_names:
            raise ValueError(
                "`data.train_split` and `data.eval_split` have different classes "
                f"({len(self.label_names)} and {len(self.eval_label_names)}, or in another order)."
            )
        return self.eval_loader

    @cached_property
    def eval_loader(self) -> DataLoader:
        """The evaluation split: reported; nothing is chosen by it."""
        return self._loader(*self._eval_data, False)

    def _loader(self, source: Any, label_names: list[str], training: bool, alone: bool = False) -> DataLoader:
        data = self.recipe.data
        options: dict[str, Any] = {"training": training, "skip_log": self.skip_log}
        dataset: Any
        if data.streaming:
            dataset = ImageStream(source, self.processor, data, label_names, **options)
        else:
            dataset = ImageDataset(source, self.processor, data, **options)
        batch_size = data.batch_size if training else data.eval_batch_size
        rank, world = (0, 1) if alone else (self.state.process_index, self.state.num_processes)
        return build_loader(dataset, batch_size, data.num_workers, data.seed, rank, world)

    @cached_property
    def processor(self) -> Any:
        """The image processor of the model that the run starts from, at the recipe's image size."""
        if self.recipe.pretrain.enabled:
            side = self.recipe.pretrain.image_size
            return ViTImageProcessorPil(size={"height": side, "width": side})
        args = self.recipe.model
        processor: Any = AutoImageProcessor.from_pretrained(args.name, trust_remote_code=False, **self._hub)
        return processor if args.image_size is None else resized_processor(processor, args.image_size)

    @property
    def _hub(self) -> dict[str, str]:
        revision = self.recipe.model.revision
        return {} if revision is None else {"revision": revision}

    def load(self, name: str | Path, **kwargs: Any) -> Any:
        """A model in eval mode on this process's device."""
        implementation = self.recipe.model.attn_implementation
        model = load_classifier(name, attn_implementation=implementation, **kwargs)
        return model.to(self.state.device).eval()

    def original(self, names: list[str] | None = None) -> Any:
        """The model that the run starts from, with a head for the dataset's classes.

        Args:
            names (`list[str]`, *optional*): These classes; None: those of the training images.
        """
        if self.recipe.pretrain.enabled:
            return self.load(self.folder / "pretrained")
        model = self.checkpoint()
        if not self.recipe.model.new_labels:
            return self.with_labels(model, names)
        torch.manual_seed(self.recipe.finetune.seed)
        return model.reset_classifier(self.label_names if names is None else names)

    def checkpoint(self) -> Any:
        """The checkpoint of the recipe, with all its labels, at the recipe's image size."""
        args = self.recipe.model
        size = {} if args.image_size is None else {"image_size": args.image_size}
        return self.load(str(args.name), **size, **self._hub)

    def with_labels(self, model: Any, names: list[str] | None = None) -> Any:
        """The model with the rows of its head that are the dataset's classes, found by name.

        Args:
            names (`list[str]`, *optional*): These classes; None: those of the training images.

        Raises:
            ValueError: If a class of the dataset is unknown to the model, or could be several of its labels.
        """
        config: Any = model.config
        known = [config.id2label[i] for i in range(config.num_labels)]
        wanted = self.label_names if names is None else names
        indices = match_labels(wanted, known, self.recipe.data.label_mapping)
        return model if indices == list(range(len(known))) else model.select_labels(indices)

    def saved(self, *names: str) -> Any | None:
        """The first of these models that the run has, as anyone would load it."""
        return next((self.load(self.folder / name) for name in names if self.has_model(name)), None)


def resized_processor(processor: Any, image_size: int) -> Any:
    """The image processor for square inputs of `image_size` px; the margin that a centre crop leaves off stays in
    proportion."""
    square = {"height": image_size, "width": image_size}
    if not getattr(processor, "do_center_crop", False):
        processor.size = type(processor.size)(**square)
        return processor
    before = processor.crop_size["height"]
    sides = {key: round(side * image_size / before) for key, side in dict(processor.size).items() if side is not None}
    processor.size = type(processor.size)(**sides)
    processor.crop_size = type(processor.crop_size)(**square)
    return processor


__all__ = ["OfbRun", "resized_processor"]
