"""The card of a model that was made without labels: its qualities are agreements with the original, and called so."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ...hub.facts import CardFacts
from ..agreement import AGREEMENT, EXPLAINED
from .records import RunRecords


def renamed(facts: CardFacts, records: RunRecords) -> CardFacts:
    """The facts, of a run on pictures without labels under other names: nothing in them is a mIoU with labels, which
    the Hub would list as such."""
    if (records.trained_on or records.evaluated_on or {}).get("format") != "images":
        return facts
    rows = [replace(row, quality={_said(name): value for name, value in row.quality.items()}) for row in facts.rows]
    extra: dict[str, Any] = {
        name: _lines(value) if name in ("why", "quality_lines") else value for name, value in facts.extra.items()
    }
    if extra.get("warning"):
        extra["warning"] = _said(extra["warning"])
    return replace(
        facts,
        rows=rows,
        extra=extra,
        search_lines=_lines(facts.search_lines),
        training_lines=_lines(facts.training_lines),
        figures={name: _said(caption) for name, caption in facts.figures.items()},
        limits=[f"{EXPLAINED} Where this card speaks of mIoU, it is that agreement.", *facts.limits],
    )


def _said(text: str) -> str:
    return text.replace("mIoU", AGREEMENT)


def _lines(lines: Sequence[str]) -> list[str]:
    return [line.replace("mIoU", "agreement") for line in lines]


__all__ = ["renamed"]
