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
    tinca"), in upper or lower case, "_" or a space between words.

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
            another class, naming all such classes at once; if the mapping cannot be read or names a label that is not
            there.
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
    texts = {_plain(target) for target in wanted if isinstance(target, str)}
    found = [_find(name, target, checkpoint_names, texts) for name, target in zip(dataset_names, wanted)]
    doubts = [
        _doubt(name, target, labels, checkpoint_names)
        for name, target, labels in zip(dataset_names, wanted, found)
        if len(labels) != 1
    ]
    doubts += _shared(dataset_names, found, checkpoint_names)
    if doubts:
        sure = [labels for labels in found if len(labels) == 1 and found.count(labels) == 1]
        raise ValueError(_refusal(doubts, len(dataset_names) - len(sure), len(dataset_names)))
    return [label for (label,) in found]


# Of a long list of classes that do not fit, so many are named.
NAMED = 20


def _refusal(doubts: list[str], unmatched: int, classes: int) -> str:
    """One message of all classes that are not one label each."""
    more = [f"and {len(doubts) - NAMED} more"] if len(doubts) > NAMED else []
    return (
        f"of {classes} classes of the data {unmatched} cannot be matched to a label of the checkpoint each: "
        f"{'; '.join(doubts[:NAMED] + more)}. Rename them; or map their names to the checkpoint's names or indices by "
        "a JSON file given as `data.label_mapping`; or train a new head: `ofb finetune --model.new_labels true`."
    )


def _doubt(name: str, target: "str | int", labels: list[int], checkpoint_names: Sequence[str]) -> str:
    """What is wrong with a class that is no label, or could be several (`labels`)."""
    shown = repr(name if name == target else f"{name} ({target})")
    if labels:
        return f"{shown} could be {', '.join(f'{i} ({checkpoint_names[i]!r})' for i in labels)}"
    near = _near(str(target), checkpoint_names)
    return f"{shown} is none (near it: {', '.join(map(repr, near)) if near else 'nothing'})"


def _shared(names: Sequence[str], found: Sequence[list[int]], checkpoint_names: Sequence[str]) -> list[str]:
    """The labels that are those of several classes."""
    by_label: dict[int, list[str]] = {}
    for name, labels in zip(names, found):
        if len(labels) == 1:
            by_label.setdefault(labels[0], []).append(name)
    return [
        f"{' and '.join(map(repr, same))} are both label {label} ({checkpoint_names[label]!r})"
        for label, same in by_label.items()
        if len(same) > 1
    ]


def _find(name: str, target: "str | int", checkpoint_names: Sequence[str], wanted: set[str]) -> list[int]:
    """The labels that a class may be; `wanted` are the names of all classes."""
    if isinstance(target, int):
        if not 0 <= target < len(checkpoint_names):
            raise ValueError(
                f"`data.label_mapping` gives label {target} to {name!r}; the checkpoint has labels 0 to "
                f"{len(checkpoint_names) - 1}."
            )
        return [target]
    identical = [i for i, other in enumerate(checkpoint_names) if other == target]
    if len(identical) == 1:  # "Cardigan" is a dog, "cardigan" a garment
        return identical
    same = [i for i, other in enumerate(checkpoint_names) if _plain(other) == _plain(target)]
    if len(same) == 1:
        return same
    found = [i for i, other in enumerate(checkpoint_names) if _synonyms(other) & _synonyms(target)]
    # "maillot" is not "maillot, tank suit" where that is a class of its own.
    others = wanted - {_plain(target)}
    return [i for i in found if _plain(checkpoint_names[i]) not in others] if len(found) > 1 else found


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
    """At most five labels: those of which a synonym is spelt like the name, then those that share a word with it."""
    spelt = {synonym: label for label in checkpoint_names for synonym in sorted(_synonyms(label))}
    alike = [spelt[found] for found in difflib.get_close_matches(_plain(name), spelt, n=3, cutoff=0.7)]
    words = set(_plain(name).split())
    return list(dict.fromkeys([*alike, *(n for n in checkpoint_names if words & set(_plain(n).split()))]))[:5]


def _synonyms(name: str) -> set[str]:
    """ "tench, Tinca tinca" is called so, "tench", and "tinca tinca"."""
    return {_plain(name)} | {_plain(part) for part in name.split(",")} - {""}


def _plain(name: str) -> str:
    """A name as it is compared: "Sea_Slug" is "sea slug"."""
    return " ".join(name.casefold().replace("_", " ").split())


def _folded(names: Sequence[str]) -> list[str]:
    return [_plain(name) for name in names]
