"""The numbers and tables of a model card: each kind of number is written in one way, and only here."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..escape import prose, table_row
from .facts import CardFacts, Layer, Limit, StageCost


# What is counted of a model that is no SAM.
MACS = {"ofb_subnet": "GMACs", "segmenter": "GMACs (backbone)"}


def count(value: float) -> str:
    """A whole number: 6,058,000; a limit of 206,290.8 allows 206,290."""
    return f"{math.floor(value):,}"


def share(value: float, of: float) -> str:
    return f"{value / of:.1%}"


def giga(value: float) -> str:
    return f"{value / 1e9:.4g}"


def quality(value: float) -> str:
    """In [0, 1]; the metadata holds the same digits."""
    return f"{value:.4f}"


def milliseconds(value: float) -> str:
    return f"{value:.1f} ms"


def speed(ratio: float) -> str:
    """How fast a model is against another that took 1 / `ratio` of its time: "1.29× as fast", below 1 if slower."""
    return f"{1 / ratio:.2f}× as fast"


def megabytes(value: float) -> str:
    return f"{value / 1e6:.2f} MB"


def duration(seconds: float) -> str:
    """In the two units that matter: `3 days 4 h`, `2 h 05 min`, `3 min 20 s`, `42 s`, `1.5 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 48 else f"{hours // 24:,} days {hours % 24} h"


def energy(kwh: float) -> str:
    return f"{kwh:.3g} kWh" if kwh >= 1 else f"{kwh * 1e3:.3g} Wh"


def carbon(kg: float) -> str:
    return f"{kg:.3g} kg" if kg >= 1 else f"{kg * 1e3:.3g} g"


def table(columns: Mapping[str, Sequence[str]]) -> str:
    """Markdown: cells by headline; a column that says nothing is left out."""
    shown = {head: cells for head, cells in columns.items() if any(cells)}
    if not shown:
        return ""
    rows = [list(shown), ["---"] * len(shown), *(list(cells) for cells in zip(*shown.values()))]
    return "\n".join(map(table_row, rows))


def results(facts: CardFacts) -> str:
    """Size, work, quality and speed of the original, of what came before, and of the model itself."""
    rows = facts.rows
    # alone in its table, a model is no share of another
    first = rows[0].params if rows and not rows[0].this else None
    metrics = list(dict.fromkeys(name for row in rows for name in row.quality))
    macs = MACS.get(facts.kind, "GMACs (image encoder)")
    columns = {"model": [f"**{row.name}**" if row.this else row.name for row in rows]}
    columns["parameters"] = ["" if row.params is None else count(row.params) for row in rows]
    columns["of the original"] = [_share(row.params, first) for row in rows]
    columns[macs] = ["" if row.macs is None else giga(row.macs) for row in rows]
    for name in metrics:
        columns[name] = [quality(row.quality[name]) if name in row.quality else "" for row in rows]
    columns["latency"] = ["" if row.latency is None else latency(row.latency) for row in rows]
    if _to_the_original(facts):
        columns["speed"] = [
            "" if row.latency is None or row.name == "original" else speed(row.latency["ratio"]) for row in rows
        ]
    columns["images per second"] = ["" if row.throughput is None else _rate(row.throughput) for row in rows]
    return table(columns)


def measured_on(facts: CardFacts) -> str:
    """What the latencies of the table mean, in a sentence; nothing where none was measured."""
    timed = next((row for row in facts.rows if row.latency is not None), None)
    if timed is None or timed.latency is None or not facts.hardware:
        return ""
    batch, timing, ran_on = timed.latency["batch_size"], timed.latency["latency"], facts.hardware
    what = f"{batch:d} image{'s' * (batch != 1)}" + ("" if facts.kind in MACS else " with one box prompt each")
    several = sum(row.latency is not None for row in facts.rows) > 1
    rounds = "rounds, all models timed in turn in each" if several else "runs"
    text = (
        f"Latency: median of {timing['repeats']:d} {rounds}, {what}, on "
        f"{prose(ran_on['device'])} ({ran_on['threads']:d} thread{'s' * (ran_on['threads'] != 1)}, "
        f"torch {prose(ran_on['torch'])}); "
        "in brackets the 10th to 90th percentile."
    )
    if _to_the_original(facts):
        text += " *Speed* is against the original, by the median over the rounds of the ratio of both times."
    batches = next((row.throughput["batch_size"] for row in facts.rows if row.throughput), None)
    return text if batches is None else f"{text} Images per second: in batches of {batches}."


def _to_the_original(facts: CardFacts) -> bool:
    """Whether ratios are to the original's time: they are to that of the first model that was timed."""
    timed = next((row for row in facts.rows if row.latency is not None), None)
    return timed is not None and timed.name == "original"


def layers(rows: Sequence[Layer]) -> str:
    """What is left of each layer of the original: kept of full, by width."""
    names = list(rows[0].full) if rows else []
    columns = {"layer": [f"{row.index:d}" for row in rows]}
    for name in names:
        columns[name] = [_kept(row, name) for row in rows]
    columns["mIoU without this layer"] = ["" if r.miou_without is None else quality(r.miou_without) for r in rows]
    return table(columns)


def ranking(rows: Sequence[Layer]) -> str:
    """What the removal of each layer costs."""
    without = ["" if row.miou_without is None else quality(row.miou_without) for row in rows]
    return table({"layer": [f"{row.index:d}" for row in rows], "mIoU without this layer": without})


def classes(ious: Sequence[tuple[str, float | None]]) -> str:
    """The IoU of each class, by name."""
    shown = ["" if iou is None else quality(iou) for _, iou in ious]
    return table({"class": [prose(name) for name, _ in ious], "IoU": shown})


def budget(limits: Sequence[Limit]) -> list[str]:
    """Each limit, asked and met, as a sentence."""
    return [_limit(limit) for limit in limits]


def costs(stages: Sequence[StageCost], whole: bool = True) -> str:
    """Time and energy of each stage, and their sums, unless some stages are missing (`whole` is False)."""
    if not stages:
        return ""
    total = list(stages)
    if whole:
        kwh, kg = _sum(stages, "energy_kwh"), _sum(stages, "emissions_kg")
        seconds = sum(stage.seconds for stage in stages)
        iterations, images = sum(stage.iterations for stage in stages), sum(stage.images for stage in stages)
        total.append(StageCost("total", seconds, iterations, images, kwh, kg))
    return table(
        {
            "stage": [stage.name for stage in total],
            "time": [duration(stage.seconds) for stage in total],
            "iterations": [count(stage.iterations) if stage.iterations else "" for stage in total],
            "images": [count(stage.images) if stage.images else "" for stage in total],
            "energy": ["" if stage.energy_kwh is None else energy(stage.energy_kwh) for stage in total],
            "CO₂ equivalent": ["" if s.emissions_kg is None else carbon(s.emissions_kg) for s in total],
        }
    )


def _sum(stages: Sequence[StageCost], name: str) -> float | None:
    values = [vars(stage)[name] for stage in stages]
    # A sum over some of the stages would look like one over all.
    return sum(values) if all(value is not None for value in values) else None


def _share(value: int | None, of: int | None) -> str:
    return "" if value is None or of is None else share(value, of)


def latency(timed: Mapping[str, Any]) -> str:
    """A measured time with its spread: `57.1 ms (55.0 to 60.2)`."""
    timing = timed["latency"]
    return f"{milliseconds(timing['median_ms'])} ({timing['p10_ms']:.1f} to {timing['p90_ms']:.1f})"


def _rate(timed: Mapping[str, Any]) -> str:
    return f"{timed['images_per_second']:,.1f}"


def _kept(layer: Layer, name: str) -> str:
    if layer.kept is None:
        return "removed"
    return f"{layer.kept[name]:d} of {layer.full[name]:d}"


def _limit(limit: Limit) -> str:
    whole = limit.what in ("parameters", "multiply-accumulates")

    def said(value: float) -> str:
        if not whole:
            return milliseconds(value) if limit.what == "milliseconds" else quality(value)
        return f"{count(value)} {limit.what}" + ("" if limit.of is None else f" ({share(value, limit.of)})")

    asked = f"at most {said(limit.asked)}"
    if limit.what == "mIoU":
        asked = f"mIoU of at least {said(limit.asked)} on the images of the search"
    text = f"Asked for {asked}"
    if limit.reached is None:
        return f"{text}."
    return f"{text}; {'met' if limit.met else 'not met'} with {said(limit.reached)}."


__all__ = [
    "budget",
    "carbon",
    "classes",
    "costs",
    "count",
    "duration",
    "energy",
    "giga",
    "latency",
    "layers",
    "measured_on",
    "megabytes",
    "quality",
    "ranking",
    "results",
    "share",
    "speed",
    "table",
]
