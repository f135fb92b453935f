"""How many images a recipe would train and evaluate on: counted, or by what it asks for of data that are not here."""

from collections.abc import Mapping
from typing import Any

from ..data.load import Part
from ..data.splits import split_slice
from .preflight_data import Split


# Stands for the length of a split that is not here: longer than any absolute slice asks for.
ENDLESS = 10**12


def rows_of(splits: Mapping[Part, Split], part: Part, args: Any) -> int | None:
    """Images of a split: those that are there, else what its slice asks for; None where neither tells.

    Args:
        args: The `data` section of a recipe.
    """
    if part in splits and splits[part].rows is not None:
        return splits[part].rows
    if part == "train":
        return asked_for(args.train_split, args.max_train_images)
    return asked_for(args.eval_split, args.max_eval_images)


def rows_left(splits: Mapping[Part, Split], args: Any, held_out: int) -> int | None:
    """Training images without those that are held out."""
    rows = rows_of(splits, "train", args)
    return None if rows is None else max(0, rows - held_out)


def asked_for(split: str, limit: int | None) -> int | None:
    """Rows that a split such as "train[100:200]" asks for; None where it does not say.

    Args:
        limit (`int`, *optional*): Of the recipe, as well.
    """
    from datasets import ReadInstruction

    _, part = split_slice(split)
    if not part or "%" in part:
        return limit
    (rows,) = ReadInstruction.from_spec("rows" + part).to_absolute({"rows": ENDLESS})
    if rows.to is None or rows.to == ENDLESS:
        return limit
    length = rows.to - (rows.from_ or 0)
    return length if limit is None else min(length, limit)


__all__ = ["asked_for", "rows_left", "rows_of"]
