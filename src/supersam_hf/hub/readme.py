"""README.md on the Hub: the text that is there stays, its metadata is brought up to date."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData


def merged_readme(existing: str, new: str) -> str:
    """The existing text with the metadata of both: what the new card says holds, other entries stay.

    Tags, datasets, metrics and other lists are joined; results of the model-index are replaced where they are of the
    same metric on the same data, else added. Where the existing file is metadata only, the new text is taken.

    Args:
        existing (`str`): README.md as it is in the repository.
        new (`str`): The model card to be published.

    Raises:
        ValueError: If the metadata of either cannot be read.
    """
    old, card = _parsed(existing, "the repository's README.md"), _parsed(new, "the new model card")
    results = _merged_results(old.data.eval_results or [], card.data.eval_results or [])
    model_name = card.data.model_name or old.data.model_name
    values = {**_entries(old.data), **_joined(_entries(old.data), _entries(card.data))}
    merged = ModelCardData(**values, eval_results=results or None, model_name=model_name if results else None)
    text = old.text if old.text.strip() else card.text
    return f"---\n{merged.to_yaml()}\n---\n{text}"


def with_tags(readme: str, tags: Sequence[str]) -> str:
    """The same card with more tags in its metadata."""
    if not tags:
        return readme
    card = _parsed(readme, "the model card")
    card.data.tags = _union(card.data.tags or [], tags)
    return str(card)


def plain_readme(model: Any) -> str:
    """A short card of what can be told from the model alone: its class, its size, how to load it."""
    stock = model.config.model_type == "sam"
    sam = stock or model.config.model_type == "supersam"
    auto_class = "AutoModelForMaskGeneration" if sam else "AutoModelForImageClassification"
    processor = "AutoProcessor" if sam else "AutoImageProcessor"
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="mask-generation" if sam else "image-classification",
        tags=["supersam" if sam else "ofb", "pruning"],
    )
    trust = "" if stock else ", trust_remote_code=True"
    code = "" if stock else " Its code is in this repository: read it, and pin the `revision` that you have read."
    return f"""---
{data.to_yaml()}
---

# {type(model).__name__}, {model.num_parameters() / 1e6:.1f} M parameters

Written by `supersam_hf`.{code}

```python
from transformers import {auto_class}, {processor}

model = {auto_class}.from_pretrained(repo_id{trust})  # this repository, or a folder
processor = {processor}.from_pretrained(repo_id{trust})
```
"""


def adapter_readme(folder: Path) -> str:
    """The metadata of an adapter that comes without a card: where it belongs, if its config says so."""
    base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")).get("base_model_name_or_path")
    data = ModelCardData(library_name="peft", base_model=base)
    return f"---\n{data.to_yaml()}\n---\n"


def _parsed(text: str, what: str) -> Any:
    """A `ModelCard`."""
    try:
        return ModelCard(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"The metadata (YAML) of {what} cannot be read; mend it first. {error}") from error


def _entries(data: ModelCardData) -> dict[str, Any]:
    """Everything but the model-index."""
    return {key: value for key, value in data.to_dict().items() if key not in ("model-index", "model_name")}


def _joined(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The new entries, lists joined to the old ones."""
    return {
        key: _union(old[key], value) if isinstance(value, list) and isinstance(old.get(key), list) else value
        for key, value in new.items()
    }


def _union(one: Sequence[Any], other: Sequence[Any]) -> list[Any]:
    return [*one, *(value for value in other if value not in one)]


def _merged_results(old: Sequence[EvalResult], new: Sequence[EvalResult]) -> list[EvalResult]:
    kept = [result for result in old if not any(result.is_equal_except_value(other) for other in new)]
    return [*kept, *new]
