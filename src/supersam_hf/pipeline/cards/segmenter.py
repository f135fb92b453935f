"""The facts for the card of a segmenter, from its recipe and its report."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...escape import code, prose
from ...hub.facts import CardFacts, Row
from ...segmenter_recipe import SegmenterRecipe
from .lines import seed_limit, training_line
from .records import data_source, source


def segmenter_facts(recipe: SegmenterRecipe, results: dict[str, Any], config: Any, folder: Path) -> CardFacts:
    """Of a trained segmenter, in the folder that it lies in.

    Args:
        recipe ([`SegmenterRecipe`]): What it was trained by.
        results (`dict`): As `results.json` has them.
        config (`OfbViTConfig`): The model's.
        folder (`Path`): The run's.
    """
    base, data = source(str(recipe.model.name), folder), data_source(asdict(recipe.data), folder)
    pruned = bool(config.is_heterogeneous)
    timed, same = results.get("latency"), recipe.data.train_split == recipe.data.eval_split
    row = Row(
        "this model",
        results["parameters"],
        results["backbone_macs"],
        {"mIoU over classes": results["miou"], "mAcc": results["macc"], "aAcc": results["aacc"]},
        latency=None if timed is None else {"latency": timed, "ratio": 1.0, "batch_size": 1},
        this=True,
    )
    trained = {**asdict(recipe.train), "batch_size": recipe.data.batch_size}
    ran_on = results["hardware"]
    versions = {"supersam_hf": results["versions"]["supersam_hf"], "transformers": config.transformers_version}
    versions |= {name: ran_on[name] for name in ("torch", "python")}
    return CardFacts(
        kind="segmenter",
        repo=".",
        revision="main",
        title=f"SETR-{recipe.model.segmentation_head} segmenter, {results['parameters']:,} parameters",
        origin="a network that OFB found" if pruned else "a ViT",
        base=base,
        data=data,
        evaluated=data,
        data_lines=[
            f"Trained on {data.link('datasets/')}, split {code(recipe.data.train_split)}.",
            f"Evaluated on {results['num_images']:,} images, split {code(recipe.data.eval_split)}, in their own size.",
        ],
        rows=[row],
        training_lines=[training_line("Fine-tuned", trained)],
        limits=[
            f"Tells {len(results['label_names'])} classes apart: {', '.join(map(prose, results['label_names'][:20]))}"
            f"{', …' if len(results['label_names']) > 20 else ''}.",
            f"Evaluated by windows of {config.image_size} px at the images' own size, averaged where they overlap "
            "(`supersam_hf.segmentation.predict`); the pipeline resizes the whole image to one window.",
            *(["Evaluated on the images that it was trained on."] if same else []),
            seed_limit({"training": recipe.train.seed, "data": recipe.data.seed}),
        ],
        hardware=ran_on,
        versions={name: str(version) for name, version in versions.items() if version is not None},
        eval_split=recipe.data.eval_split,
        figures={"overlays.png": "Evaluation images, their labels and the predictions"},
        extra={"classes": list(zip(results["label_names"], results["class_ious"]))},
        cut=pruned,
    )


__all__ = ["segmenter_facts"]
