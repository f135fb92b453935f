"""Which label of a checkpoint each class of a dataset is, by name."""

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


SAME_ORDER = "same-order"


def match_labels(
    dataset_names: Sequence[str],
    checkpoint_names: Sequence[str],
    mapping: "str | Path | Mapping[str, Any] | None" = None,
) -> list[int]:
    """For each class of a dataset the label of the checkpoint that means the same.

    Names agree if they are the same (which decides), or share one of their synonyms ("tench" and "tench, Tinca
    tinca"), in upper or lower case.

    Args:
        dataset_names (`Sequence[str]`): Names of the dataset's classes in the order of their labels.
        checkpoint_names (`Sequence[str]`): Names of the checkpoint's labels, as the values of `config.id2label`.
        mapping (`str`, `Path` or `Mapping`, *optional*): For classes that are called otherwise in the checkpoint: a
            dict, or a JSON file of one, from the dataset's name to the checkpoint's name or label. A table of ImageNet
            as `{"0": {"wnid": "n01440764", "name": "tench"}, ...}` is understood too, for datasets whose classes are
            WordNet ids. "same-order": the classes are the checkpoint's labels in the same order, whatever they are
            called.

    Returns:
        `list[int]`: One label of the checkpoint for each class, all different.

    Raises:
        ValueError: If a class is unknown to the checkpoint, could be several of its labels, or is the same label as
            another class; if the mapping cannot be read or names a label that is not there.
    """
    if mapping == SAME_ORDER:
        if len(dataset_names) != len(checkpoint_names):
            raise ValueError(
                f"`data.label_mapping: {SAME_ORDER}` needs as many classes as the checkpoint has labels, "
                f"{len(checkpoint_names)}; the dataset has {len(dataset_names)}."
            )
        return list(range(len(checkpoint_names)))
    # The same list of names needs no matching, and may then hold a name twice.
    folded = _folded(checkpoint_names)
    alike = _folded(dataset_names) == folded and len(set(folded)) == len(set(checkpoint_names))
    if mapping is None and alike:
        return list(range(len(checkpoint_names)))
    targets = _read_mapping(mapping, len(checkpoint_names))
    wanted = [targets.get(name, name) for name in dataset_names]
    texts = {target.casefold() for target in wanted if isinstance(target, str)}
    labels = [_find(name, target, checkpoint_names, texts) for name, target in zip(dataset_names, wanted)]
    for first, name in zip(labels, dataset_names):
        same = [other for other, label in zip(dataset_names, labels) if label == first and other != name]
        if same:
            raise ValueError(
                f"The classes {name!r} and {same[0]!r} are both the checkpoint's label {first} "
                f"({checkpoint_names[first]!r}); {_ADVICE}."
            )
    return labels


_ADVICE = "say which label is meant by its index in a JSON file given as `data.label_mapping`"


def _find(name: str, target: "str | int", checkpoint_names: Sequence[str], wanted: set[str]) -> int:
    """The label of one class; `wanted` are the names of all classes."""
    if isinstance(target, int):
        if not 0 <= target < len(checkpoint_names):
            raise ValueError(
                f"`data.label_mapping` gives label {target} to {name!r}; the checkpoint has labels 0 to "
                f"{len(checkpoint_names) - 1}."
            )
        return target
    identical = [i for i, other in enumerate(checkpoint_names) if other == target]
    if len(identical) == 1:  # "Cardigan" is a dog, "cardigan" a garment
        return identical[0]
    found = [i for i, other in enumerate(checkpoint_names) if _synonyms(other) & _synonyms(target)]
    # "maillot" is not "maillot, tank suit" where that is a class of its own.
    others = wanted - {target.casefold()}
    found = [i for i in found if checkpoint_names[i].casefold() not in others] if len(found) > 1 else found
    if len(found) == 1:
        return found[0]
    shown = name if name == target else f"{name} ({target})"
    if found:
        candidates = ", ".join(f"{i} ({checkpoint_names[i]!r})" for i in found)
        raise ValueError(f"The class {shown!r} could be the checkpoint's label {candidates}; {_ADVICE}.")
    near = _near(target, checkpoint_names)
    hint = f"; near it: {near}" if near else f"; its labels are {list(checkpoint_names[:5])}, ..."
    raise ValueError(
        f"The checkpoint has no label for the class {shown!r}{hint}. Map the names by a JSON file given as "
        "`data.label_mapping`, or train a new head for these classes."
    )


def _read_mapping(mapping: "str | Path | Mapping[str, Any] | None", num_labels: int) -> dict[str, str | int]:
    """The checkpoint's name or index for each name of the dataset that is mapped."""
    if mapping is None:
        return {}
    content = mapping if isinstance(mapping, Mapping) else _read_json(Path(mapping))
    if content and all(
        isinstance(v, Mapping) and {"wnid", "name"} <= set(v) and k.isdigit() for k, v in content.items()
    ):
        # Its indices are those of a checkpoint of as many classes; in a smaller one the names must tell.
        whole = len(content) == num_labels
        return {entry["wnid"]: int(index) if whole else entry["name"] for index, entry in content.items()}
    for name, target in content.items():
        if isinstance(target, bool) or not isinstance(target, (int, str)):
            raise ValueError(
                f"`data.label_mapping` gives {target!r} to {name!r}; it must be the name (string) or the index "
                "(integer) of a label of the checkpoint."
            )
    return dict(content)


def _read_json(file: Path) -> Mapping[str, Any]:
    if not file.is_file():
        raise ValueError(f"`data.label_mapping`: there is no file {str(file)!r}.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"`data.label_mapping`: {str(file)!r} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"`data.label_mapping`: {str(file)!r} must hold a JSON object, names to names or indices.")
    return content


def _near(name: str, checkpoint_names: Sequence[str]) -> list[str]:
    """Labels that are spelt alike or have a word in common with the name."""
    alike = difflib.get_close_matches(name.casefold(), [n.casefold() for n in checkpoint_names], n=3)
    words = set(name.casefold().split())
    return [n for n in checkpoint_names if n.casefold() in alike or words & set(n.casefold().split())][:5]


def _synonyms(name: str) -> set[str]:
    """ "tench, Tinca tinca" is called so, "tench", and "tinca tinca"."""
    return {name.casefold().strip()} | {part.strip() for part in name.casefold().split(",")} - {""}


def _folded(names: Sequence[str]) -> list[str]:
    return [name.casefold() for name in names]
