"""Real images for a check, and what a model gets right of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader

from ..data import (
    DataArguments,
    ImageClassificationArguments,
    ImageDataset,
    PromptDataset,
    build_loader,
    load_classification,
    load_source,
    match_labels,
)
from ..evaluation import NO_OBJECT, PROMPTS, Targets
from ..fields import Checked, Count, Place, Side, Text, Whole


# Images that the check runs.
CHECKED = 2


@dataclass
class SampleArguments(Checked):
    """Images to check and to evaluate on. Without a source, generated scenes, which check but do not evaluate.

    Args:
        source (`str`, *optional*): Local path, or dataset id on the Hub, with masks (SAM) or labels (classifier).
        eval_split (`str`): Its split.
        max_eval_images (`int`): The first so many; of a classifier, evenly over classes.
        crop_eval (`int`, *optional*): SAM: side of the central square crop, px.
        min_area (`int`): SAM: objects smaller than this are left out, px.
        box_padding (`int`): SAM: a box prompt is the tight box grown by 0 to this, px.
        label_mapping (`str`, *optional*): Classifier: JSON file from the dataset's names to the model's labels.
    """

    source: Place | None = None
    eval_split: Text = "validation"
    max_eval_images: Count = 20
    crop_eval: Side | None = None
    min_area: Count = 25
    box_padding: Whole = 20
    label_mapping: Place | None = None


class SamSamples:
    """Prompted images for a SAM; `quality` is the mIoU of its single masks."""

    metric = "mIoU"

    def __init__(self, args: SampleArguments, processor: Any, model: Any) -> None:
        data = DataArguments(
            source=args.source or "shapes",
            eval_split=args.eval_split,
            max_eval_images=args.max_eval_images,
            shapes_eval_images=args.max_eval_images,
            crop_eval=args.crop_eval,
            min_area=args.min_area,
            box_padding=args.box_padding,
            eval_batch_size=1,
        )
        dataset = PromptDataset(load_source(data, "eval"), processor.image_processor, data, training=False)
        self.loader = build_loader(dataset, data.eval_batch_size)

    def inputs(self) -> list[dict[str, Any]]:
        """Arguments of calls: the first images with boxes, and with a point in the middle of each."""
        calls = []
        for batch in first(self.loader):
            images, boxes = batch["pixel_values"], batch["input_boxes"]
            # (batch, prompts, 4) -> (batch, prompts, 1, 2)
            middles = boxes.unflatten(-1, (2, 2)).mean(2, keepdim=True)
            ones = torch.ones(middles.shape[:3], dtype=torch.long)
            calls.append({"pixel_values": images, "input_boxes": boxes, "multimask_output": False})
            calls.append({"pixel_values": images, "input_points": middles, "input_labels": ones})
        return calls

    @torch.inference_mode()
    def quality(self, model: Any) -> float:
        """Of any form of the model, called as `SamModel` is: [`evaluate`] takes PyTorch's apart.

        Raises:
            ValueError: If no image shows an object.
        """
        ious = []
        for batch in self.loader:
            prompts = {name: batch[name] for name in PROMPTS if name in batch}
            masks = model(pixel_values=batch["pixel_values"], multimask_output=False, **prompts).pred_masks
            ious.append(Targets.of(batch).ious(masks[batch["object_mask"]]))
        if not sum(map(len, ious)):
            raise ValueError(NO_OBJECT)
        return torch.cat(ious).double().mean().item()


class ClassifierSamples:
    """Labelled images for a classifier; `quality` is its top-1 among the dataset's classes."""

    metric = "top-1"

    def __init__(self, args: SampleArguments, processor: Any, model: Any) -> None:
        data = ImageClassificationArguments(
            source=args.source or "shapes",
            eval_split=args.eval_split,
            max_eval_images=args.max_eval_images,
            shapes_eval_images=args.max_eval_images,
            eval_batch_size=1,
        )
        images = load_classification(data, "eval")
        self.loader = build_loader(ImageDataset(images, processor, data, training=False), data.eval_batch_size)
        names = list(model.config.id2label.values())
        self.labels = None
        if args.source is not None:
            self.labels = match_labels(images.features["label"].names, names, args.label_mapping)

    def inputs(self) -> list[dict[str, Any]]:
        """Arguments of calls."""
        return [{"pixel_values": batch["pixel_values"]} for batch in first(self.loader)]

    @torch.inference_mode()
    def quality(self, model: Any) -> float:
        right = 0
        for batch in self.loader:
            logits = model(pixel_values=batch["pixel_values"]).logits[:, self.labels]
            right += int((logits.argmax(-1) == batch["labels"]).sum())
        return right / len(self.loader)


def first(loader: DataLoader) -> list[dict[str, torch.Tensor]]:
    """The batches, of one image each, that the check runs."""
    return [batch for _, batch in zip(range(CHECKED), loader)]


def samples_for(model: Any, processor: Any, args: SampleArguments) -> "SamSamples | ClassifierSamples":
    """What fits the model."""
    kind: Callable[..., Any] = SamSamples if "vision_config" in model.config.sub_configs else ClassifierSamples
    return kind(args, processor, model)
