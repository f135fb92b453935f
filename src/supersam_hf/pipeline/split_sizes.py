"""How many images a recipe would train and evaluate on, without reading or converting them."""

from collections.abc import Callable
from typing import Any, Literal

from ..data import open_source
from ..data.arguments import DataArguments
from ..data.splits import split_slice
from .plan_lines import Images


Part = Literal["train", "eval"]
# Stands for the length of a split that is not here: longer than any absolute slice asks for.
ENDLESS = 10**12


def prompted_images(args: DataArguments) -> Images:
    """Images of the segmentation splits: by listing where the data is here, else by what their slices ask for."""
    if "shapes" in (args.source, args.format):
        counts = (args.shapes_train_images, args.max_train_images), (args.shapes_eval_images, args.max_eval_images)
        train, evaluation = (count if limit is None else min(count, limit) for count, limit in counts)
        return Images(train, evaluation)
    return counted(args, lambda part: len(open_source(args, part)))


def counted(args: Any, count: Callable[[Part], int]) -> Images:
    """Images of both splits, each by `count` or, where that says that there is nothing, by its slice."""
    found: dict[Part, int | None] = {}
    missing: list[str] = []
    for part in ("train", "eval"):
        try:
            found[part] = count(part)
        except (OSError, ValueError) as error:  # not here, or of another layout: a dry run goes on
            missing.append(str(error).splitlines()[0])
            split = args.train_split if part == "train" else args.eval_split
            found[part] = asked_for(split, args.max_train_images if part == "train" else args.max_eval_images)
    by = "by the recipe, not counted: " if any(found.values()) else "not counted: "
    return Images(found["train"], found["eval"], by + missing[0] if missing else "")


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


__all__ = ["asked_for", "counted", "prompted_images"]
