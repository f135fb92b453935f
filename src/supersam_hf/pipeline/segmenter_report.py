"""What a trained segmenter is worth: metrics, latency, a picture, its model card."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..data.loader import build_loader
from ..data.semantic import SemanticDataset
from ..data.source import UnreadableError
from ..elastic.cost import count_macs
from ..files import fingerprint, write_json
from ..hub.card import model_card
from ..hub.readme import signed
from ..measure import hardware, measure_latency
from ..plots.segmentation import plot_segmentation
from ..segmentation import SegmentationResult, evaluate_segmenter, predict
from ..segmenter_recipe import SegmenterRecipe
from .cards.segmenter import segmenter_facts


SHOWN = 4


def report(recipe: SegmenterRecipe, model: Any, evaluation: SemanticDataset, folder: Path) -> dict[str, Any]:
    """Writes `results.json`, `results.md` and `overlays.png`, and the model's card; returns the results."""
    found = evaluate_segmenter(model, build_loader(evaluation, 1, recipe.data.num_workers), stride=recipe.stride)
    results: dict[str, Any] = {
        **asdict(found),
        "label_names": evaluation.label_names,
        "parameters": sum(p.numel() for p in model.parameters()),
        "backbone_macs": count_macs(_without_head(model.config)),
        "weights": fingerprint(model),
        "hardware": hardware(model.device),
        "versions": {"supersam_hf": __version__},
        "recipe": asdict(recipe),
    }
    if recipe.repeats:
        results["latency"] = asdict(_latency(model, recipe.repeats))
    write_json(folder / "results.json", results)
    text = table(results, found)
    (folder / "results.md").write_text(text)
    plot_segmentation(_samples(model, evaluation, recipe.stride), evaluation.label_names, folder / "overlays.png")
    shutil.copyfile(folder / "overlays.png", folder / "segmenter" / "overlays.png")
    card = model_card(segmenter_facts(recipe, results, model.config, folder))
    (folder / "segmenter" / "README.md").write_text(signed(card), encoding="utf-8")
    print(text)
    return results


def _latency(model: Any, repeats: int) -> Any:
    side = model.config.image_size
    window = torch.randn(1, model.config.num_channels, side, side, device=model.device)
    timed = torch.inference_mode()(lambda: model(window))
    return measure_latency(timed, repeats=repeats, device=model.device)


def _without_head(config: Any) -> Any:
    """The config of the backbone alone: a classifier of no labels."""
    values = {key: value for key, value in config.to_dict().items() if key not in ("id2label", "label2id")}
    return type(config)(**values, num_labels=0)


def _samples(model: Any, dataset: SemanticDataset, stride: float) -> list[dict[str, Any]]:
    """The first evaluation images that can be read, as they were, with labels and predictions."""
    samples: list[dict[str, Any]] = []
    for index in range(len(dataset)):
        if len(samples) == SHOWN:
            break
        try:
            sample, image = dataset[index], dataset.rows.read(index)["image"].convert("RGB")
        except UnreadableError:  # skipped, and told of, in the evaluation
            continue
        logits = predict(model, sample["pixel_values"][None].to(model.device), stride)
        predicted = logits.argmax(1)[0].cpu().numpy()
        samples.append({"image": np.asarray(image), "labels": sample["labels"].numpy(), "predicted": predicted})
    return samples


def table(results: dict[str, Any], found: SegmentationResult) -> str:
    """Markdown: sizes and metrics, then the IoU of each class."""
    latency = f"{results['latency']['median_ms']:.1f} ms" if "latency" in results else ""
    lines = [
        "| parameters | GMACs of the backbone | mIoU | mAcc | aAcc | one window |",
        "|---|---|---|---|---|---|",
        f"| {results['parameters']:,} | {results['backbone_macs'] / 1e9:.4g} | {found.miou:.2%} | {found.macc:.2%} | "
        f"{found.aacc:.2%} | {latency} |",
        "",
        "| class | IoU |",
        "|---|---|",
    ]
    ious = zip(results["label_names"], found.class_ious)
    lines += [f"| {name} | {'' if iou is None else f'{iou:.2%}'} |" for name, iou in ious]
    return "\n".join(lines) + "\n"


__all__ = ["report", "table"]
