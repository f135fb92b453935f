"""Model cards: metadata through huggingface_hub's own classes, text from the templates in `model_cards/`."""

import importlib.resources
import re
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .. import escape
from . import tables
from .facts import CardFacts


PAPERS = {"supersam": "https://huggingface.co/papers/2501.08504", "ofb": "https://huggingface.co/papers/2403.15835"}
TAGS = {
    "supersam_subnet": ["supersam", "segment-anything", "neural-architecture-search", "pruning", "supersam_hf"],
    "supersam_supernet": ["supersam", "segment-anything", "neural-architecture-search", "supernet", "supersam_hf"],
    "ofb_subnet": ["ofb", "neural-architecture-search", "pruning", "supersam_hf"],
    "segmenter": ["setr", "semantic-segmentation", "ofb", "pruning", "supersam_hf"],
    "adapter": ["supersam", "segment-anything", "supersam_hf"],
}
# Others are of SAMs.
TASKS = {"ofb_subnet": "image-classification", "segmenter": "image-segmentation"}
# Said only of a model that is smaller than what it came from.
CUT_TAGS = ("neural-architecture-search", "pruning", "ofb")
# The Hub's metric and its name for each quality of a row; others (such as the best of three masks) stay in the text.
METRICS = {
    "mIoU": ("mean_iou", "mIoU over objects"),
    "mIoU over classes": ("mean_iou", "mIoU over classes"),
    "aAcc": ("accuracy", "accuracy over pixels"),
    "top-1 accuracy": ("accuracy", "top-1 accuracy"),
    "top-5 accuracy": ("accuracy", "top-5 accuracy"),
}


def model_card(facts: CardFacts) -> str:
    """README.md: the metadata that the Hub reads, and the text. What `facts` does not know has no place in it.

    Args:
        facts ([`CardFacts`]): What is known of the model.
    """
    card = ModelCard.from_template(
        card_data(facts),
        template_str=_template(f"{facts.kind}.md"),
        f=facts,
        tables=tables,
        escape=escape,
        papers=PAPERS,
        arguments=_arguments(facts),
        pin=_pin(facts),
        citation=_template("citation.md"),
    )
    return re.sub(r"\n{3,}", "\n\n", str(card)).rstrip() + "\n"


def card_data(facts: CardFacts) -> ModelCardData:
    """The metadata: origin, task, data, and the model's own quality as a model-index."""
    adapter = facts.kind == "adapter"
    results = eval_results(facts)
    optional: dict[str, Any] = {}
    if facts.base is not None and facts.base.hub_id is not None:
        optional |= {"base_model": facts.base.hub_id, "base_model_relation": "adapter" if adapter else "finetune"}
    if facts.base is not None and facts.base.license is not None:
        optional["license"] = facts.base.license
    if facts.data is not None and facts.data.hub_id is not None:
        optional["datasets"] = [facts.data.hub_id]
    if results:
        metrics = list(dict.fromkeys(result.metric_type for result in results))
        optional |= {"eval_results": results, "model_name": facts.title, "metrics": metrics}
    emitted = [stage.emissions_kg for stage in facts.costs]
    if emitted and None not in emitted and facts.costs_whole:
        optional["co2_eq_emissions"] = _emissions(facts)
    return ModelCardData(
        library_name="peft" if adapter else "transformers",
        pipeline_tag=TASKS.get(facts.kind, "mask-generation"),
        tags=[*(tag for tag in TAGS[facts.kind] if facts.cut or tag not in CUT_TAGS), *facts.extra.get("tags", ())],
        **optional,
    )


def eval_results(facts: CardFacts) -> list[EvalResult]:
    """The model's own quality on the evaluation split, with the digits of the text; none where either is not known."""
    data = facts.evaluated or facts.data
    if facts.row is None or data is None:
        return []
    return [
        EvalResult(
            task_type=TASKS.get(facts.kind, "mask-generation"),
            dataset_type=data.hub_id or data.name.replace(" ", "-"),
            dataset_name=data.name,
            dataset_split=facts.eval_split,
            metric_type=METRICS[name][0],
            metric_name=METRICS[name][1],
            metric_value=float(tables.quality(value)),
        )
        for name, value in facts.row.quality.items()
        if name in METRICS
    ]


def _emissions(facts: CardFacts) -> dict[str, Any]:
    """The Hub's own field, in grams."""
    grams = sum(stage.emissions_kg or 0.0 for stage in facts.costs) * 1e3
    said: dict[str, Any] = {"emissions": float(f"{grams:.3g}"), "source": "codecarbon"}
    return said if not facts.hardware else said | {"hardware_used": str(facts.hardware["device"])}


def _template(name: str) -> str:
    return (importlib.resources.files("supersam_hf.model_cards") / name).read_text(encoding="utf-8")


def _arguments(facts: CardFacts) -> str:
    """What every `from_pretrained` of the snippets is given."""
    given = [escape.python(facts.repo)]
    if facts.repo != ".":
        given.append(f"revision={escape.python(facts.revision)}")
    if not facts.stock and facts.kind != "adapter":
        given.append("trust_remote_code=True")
    return ", ".join(given)


def _pin(facts: CardFacts) -> str:
    """What the reader should know of the revision."""
    own_code = not facts.stock and facts.kind != "adapter"
    code = "`trust_remote_code` runs the Python files of this repository: read them first. " if own_code else ""
    if facts.repo == ".":
        return code.strip()
    if facts.revision.startswith("weights-"):
        return f"{code}The tag {escape.code(facts.revision)} stays with these weights, whatever is pushed here later."
    if facts.revision != "main":
        return f"{code}{escape.code(facts.revision)} is the revision that this card was written for."
    return f"{code}To stay at what you have read, put its commit (under *Files and versions*) in place of `main`."


__all__ = ["CardFacts", "card_data", "eval_results", "model_card"]
