"""Whether a network lost too much to be used as it is, said where people look: card, page, results."""

from collections.abc import Mapping, Sequence
from typing import Any


# A model below this share of what it was made from is far below it.
FAR_BELOW = {"top1": 0.8, "miou": 0.9}
NAMES = {"top1": "top-1 accuracy", "miou": "mIoU"}
# What a found network is compared with, the best of those that there are; and the found ones, the furthest last.
WHOLE = ("original", "whole")
FOUND = ("searched", "pruned", "finetuned", "found", "found + recovery")


def quality_warning(rows: Sequence[Mapping[str, Any]], name: str | None = None) -> str | None:
    """One or two sentences about a found network that is at chance, or far below what it was made from; None about
    one that is not.

    Args:
        rows (`Sequence[dict]`): Of a run's results: `name`, and `top1` with `num_labels`, or `miou`.
        name (`str`, *optional*): Of the network's row; None: the one that is furthest along.
    """
    named = {row["name"]: row for row in rows}
    names = [one for one in FOUND if one in named] if name is None else [name]
    if not names or names[-1] not in named:
        return None
    found = named[names[-1]]
    key = "top1" if found.get("top1") is not None else "miou"
    value, labels = found[key], found.get("num_labels")
    if key == "top1" and labels and value <= at_chance(labels):
        return (
            f"Its top-1 accuracy of {value:.1%} is about that of guessing one of {labels:,} classes "
            f"({1 / labels:.1%}): it has to be trained further before it is of any use."
        )
    best = max((named[one][key] for one in WHOLE if one in named), default=0.0)
    if value >= FAR_BELOW[key] * best:
        return None
    written = "{:.1%}".format if key == "top1" else "{:.3f}".format
    return (
        f"Its {NAMES[key]} of {written(value)} is far below the {written(best)} of the network that it was made from: "
        "train it further, or allow it a larger budget."
    )


def at_chance(labels: int) -> float:
    """The accuracy up to which a classifier is at chance: twice that of guessing; of few classes, a quarter of the way
    from guessing to all right."""
    guessing = 1 / labels
    return min(2 * guessing, guessing + (1 - guessing) / 4)


__all__ = ["FOUND", "at_chance", "quality_warning"]
