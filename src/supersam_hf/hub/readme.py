"""README.md on the Hub: the text that is there stays, its metadata is brought up to date."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import DatasetCard, DatasetCardData, EvalResult, ModelCard, ModelCardData

from ..escape import python
from ..files import read_json


# Where an exported folder's own card says what its snippet loads.
HERE = "  # this folder; on the Hub, the name of its repository"
AUTO_CLASSES = {
    "mask-generation": "AutoModelForMaskGeneration",
    "image-classification": "AutoModelForImageClassification",
    "image-segmentation": "AutoModelForSemanticSegmentation",
}
PYTHON_BLOCK = re.compile(r"^```python$.*?^```$", re.MULTILINE | re.DOTALL)
# Ends a card that an export wrote: while the text before it is the one that was written, it is nobody's own words.
SIGNATURE = re.compile(r"\s*<!-- supersam_hf card ([0-9a-f]{16}) -->\s*\Z")


def merged_readme(existing: str, new: str) -> str:
    """The existing text with the metadata of both: what the new card says holds, other entries stay.

    Tags, datasets, metrics and other lists are joined; results of the model-index are replaced where they are of the
    same metric on the same data, else added. Where the existing file is metadata only, or its text is an export's as
    it was written, the new text is taken, in the second case with the new results alone.

    Args:
        existing (`str`): README.md as it is in the repository.
        new (`str`): The model card to be published.

    Raises:
        ValueError: If the metadata of either cannot be read.
    """
    old, card = _parsed(existing, "the repository's README.md"), _parsed(new, "the new model card")
    kept = [] if _is_as_written(old.text) else old.data.eval_results or []
    results = _merged_results(kept, card.data.eval_results or [])
    model_name = card.data.model_name or old.data.model_name
    values = {**_entries(old.data), **_joined(_entries(old.data), _entries(card.data))}
    merged = ModelCardData(**values, eval_results=results or None, model_name=model_name if results else None)
    text = old.text if _is_kept(old.text) else card.text
    return f"---\n{merged.to_yaml()}\n---\n{text}"


def merged_dataset_readme(existing: str, new: str, own_part: tuple[str, str]) -> str:
    """The same of a dataset: the configurations that the new card describes are described as it does, others stay.

    Args:
        existing (`str`): README.md as it is in the repository.
        new (`str`): The card to be published.
        own_part (`tuple[str, str]`): What the part of the text that is written anew begins and ends with. A text
            without it stays as it is.

    Raises:
        ValueError: If the metadata of either cannot be read.
    """
    old = _parsed(existing, "the repository's README.md", DatasetCard)
    card = _parsed(new, "the new dataset card", DatasetCard)
    before, after = old.data.to_dict(), card.data.to_dict()
    values = {**before, **_joined(before, after)}
    # Of the data, not of its owner: the new ones hold.
    values |= {key: after[key] for key in ("size_categories",) if key in after}
    for key in ("configs", "dataset_info"):
        found = _merged_configs(before.get(key), after.get(key))
        values |= {key: found} if found else {}
    (begin, end), text = own_part, old.text if old.text.strip() else card.text
    first, last = old.text.find(begin), old.text.find(end)
    if 0 <= first < last:
        text = old.text[:first] + card.text.strip() + old.text[last + len(end) :]
    return f"---\n{DatasetCardData(**values).to_yaml()}\n---\n{text}"


def keeps_other_text(existing: str, new: str) -> bool:
    """Whether [`merged_readme`] leaves a text that is not the new card's."""
    old, card = _parsed(existing, "the repository's README.md"), _parsed(new, "the new model card")
    return _is_kept(old.text) and old.text.strip() != card.text.strip()


def signed(card: str) -> str:
    """The card with a comment at its end by which a later push knows whether somebody has edited its text."""
    card = SIGNATURE.sub("", card).rstrip()
    return f"{card}\n\n<!-- supersam_hf card {_digest(_parsed(card, 'the model card').text)} -->\n"


def addressed(card: str, repo_id: str, revision: str | None = None) -> str:
    """A card that an export wrote for the folder that it lies in, with snippets that load a repository instead; any
    other card as it is."""
    if not _is_as_written(_parsed(card, "the model card").text):
        return card
    there = python(repo_id) + ("" if revision is None else f", revision={python(revision)}")

    def loading_it(block: re.Match[str]) -> str:
        return block[0].replace(HERE, "").replace('("."', f"({there}").replace('model="."', f"model={there}")

    return signed(PYTHON_BLOCK.sub(loading_it, card))


def with_tags(readme: str, tags: Sequence[str]) -> str:
    """The same card with more tags in its metadata."""
    if not tags:
        return readme
    card = _parsed(readme, "the model card")
    card.data.tags = _union(card.data.tags or [], tags)
    return str(card)


def plain_readme(model: Any, repo_id: str | None = None, revision: str | None = None) -> str:
    """A short card of what can be told from the model alone: its class, its size, how to load it.

    Args:
        model (`PreTrainedModel`): The model.
        repo_id, revision (`str`, *optional*): What the snippet loads; the folder that the card lies in if left out.
    """
    stock = model.config.model_type == "sam"
    sam = stock or model.config.model_type == "supersam"
    segmenter = type(model).__name__.endswith("ForSemanticSegmentation")
    task = "mask-generation" if sam else "image-segmentation" if segmenter else "image-classification"
    auto_class = AUTO_CLASSES[task]
    processor = "AutoProcessor" if sam else "AutoImageProcessor"
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=task,
        tags=["supersam" if sam else "ofb", "pruning"],
    )
    pinned = "" if revision is None else f", revision={python(revision)}"
    arguments = f"{python(repo_id or '.')}{pinned}{'' if stock else ', trust_remote_code=True'}"
    here = "" if repo_id else HERE
    code = "" if stock else " Its code is in this repository: read it, and pin the `revision` that you have read."
    return f"""---
{data.to_yaml()}
---

# {type(model).__name__}, {model.num_parameters() / 1e6:.1f} M parameters

Written by `supersam_hf`.{code}

```python
from transformers import {auto_class}, {processor}

model = {auto_class}.from_pretrained({arguments}){here}
processor = {processor}.from_pretrained({arguments})
```
"""


def adapter_readme(folder: Path) -> str:
    """The metadata of an adapter that comes without a card: where it belongs, if its config says so."""
    base = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    data = ModelCardData(library_name="peft", base_model=base)
    return f"---\n{data.to_yaml()}\n---\n"


def _parsed(text: str, what: str, card: type[ModelCard] | type[DatasetCard] = ModelCard) -> Any:
    """A card of that class."""
    try:
        return card(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"The metadata (YAML) of {what} cannot be read; mend it first. {error}") from error


def _is_kept(text: str) -> bool:
    return bool(text.strip()) and not _is_as_written(text)


def _is_as_written(text: str) -> bool:
    found = SIGNATURE.search(text)
    return found is not None and found[1] == _digest(text[: found.start()])


def _digest(text: str) -> str:
    """Of a card's text, whatever its metadata, line ends and margins."""
    return hashlib.sha256("\n".join(text.strip().splitlines()).encode("utf-8")).hexdigest()[:16]


def _entries(data: ModelCardData) -> dict[str, Any]:
    """Everything but the model-index."""
    return {key: value for key, value in data.to_dict().items() if key not in ("model-index", "model_name")}


def _joined(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The new entries, lists joined to the old ones."""
    return {
        key: _union(old[key], value) if isinstance(value, list) and isinstance(old.get(key), list) else value
        for key, value in new.items()
    }


def _merged_configs(old: Any, new: Any) -> Any:
    """Entries by their `config_name` ("default" if they say none), the new one's in place of the old one's.

    The Hub takes a list of them or, of `dataset_info`, a single one by itself.
    """
    merged: dict[str, Any] = {}
    for entries in (old, new):
        for entry in entries if isinstance(entries, list) else [entries] if entries else []:
            merged[entry.get("config_name", "default")] = entry
    if len(merged) == 1 and not isinstance(new or old, list):
        return next(iter(merged.values()))
    # In a list each has to say its name.
    return [{"config_name": name, **entry} for name, entry in merged.items()]


def _union(one: Sequence[Any], other: Sequence[Any]) -> list[Any]:
    return [*one, *(value for value in other if value not in one)]


def _merged_results(old: Sequence[EvalResult], new: Sequence[EvalResult]) -> list[EvalResult]:
    kept = [result for result in old if not any(result.is_equal_except_value(other) for other in new)]
    return [*kept, *new]
