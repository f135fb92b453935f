"""What a card says of a bi-mask search, from its report, whatever was searched."""

import json
from pathlib import Path
from typing import Any

from ...elastic.cost import count_macs, count_parameters
from ...escape import code
from ...hub.facts import Layer, Limit
from ..mask_search import latency_line, one_shot_line


WIDTHS = {"heads": "num_attention_heads", "channels a head": "head_dim", "MLP": "intermediate_size"}


def original_architecture(search: Path, report: dict[str, Any] | None) -> dict[str, Any] | None:
    """Heads and widths before the search that ran in this folder, as its history begins; of what was pruned at once,
    as its report has them."""
    if report is not None and "one_shot" in report:
        return None if report["dropped_layers"] else report["original_architecture"]  # layers no longer correspond
    history = search / "history.jsonl"
    if not history.is_file():
        return None
    with history.open(encoding="utf-8") as file:
        return json.loads(file.readline())["architecture"]


def budget(search: dict[str, Any], config: Any) -> Limit:
    """What was asked for, and what the network has."""
    kind = search["budget_kind"]
    what = {"macs": "multiply-accumulates", "params": "parameters"}[kind]
    reached = {"macs": count_macs(config), "params": count_parameters(config)}[kind]
    return Limit(what, search["budget"], reached, search["original"][kind])


def layers(original: dict[str, Any], found: dict[str, Any]) -> list[Layer]:
    """Widths of every layer, before and after."""
    full = [dict(zip(WIDTHS, widths)) for widths in zip(*(original[key] for key in WIDTHS.values()))]
    kept = [dict(zip(WIDTHS, widths)) for widths in zip(*(found[key] for key in WIDTHS.values()))]
    return [Layer(i, before, after) for i, (before, after) in enumerate(zip(full, kept))]


def why(found: dict[str, Any]) -> list[str]:
    """How it came to these widths."""
    if "one_shot" in found:
        return [
            f"Why these: pruned at once by {one_shot_line(found['one_shot'])}. The least important units left, before "
            "any training, until the budget held.",
            *_latency(found),
        ]
    lines = [
        *_latency(found),
        "Why these: one training learned an importance for every channel, head and hidden unit, and how many of them "
        "each layer keeps; the least important left as it went.",
    ]
    if found["decided_by_search"]:
        return [*lines, "The search decided every layer itself and kept the budget."]
    if not found["enforced"]:
        return [*lines, "The search kept the budget; what it had not decided at its end keeps the size that it had."]
    cuts = len(found["enforced"])
    at_end = "one cut" if cuts == 1 else f"{cuts} cuts"
    return [
        *lines,
        f"The search alone did not meet the budget: {at_end} at its end did, each where the least bi-mask was lost "
        "for what it saves.",
    ]


def _latency(found: dict[str, Any]) -> list[str]:
    return [f"The budget was a time: {latency_line(found['latency'])}."] if "latency" in found else []


def search_lines(found: dict[str, Any], pmim: bool) -> list[str]:
    """How long the search was, and what it could have found."""
    if "one_shot" in found:
        how = found["one_shot"]
        return [f"Importance was measured on {how['num_images']:,} training images. Seed {how['seed']:d}."]
    steps = f"{found['search_steps']:,} of the {found['max_steps']:,} training steps searched"
    lines = [f"Bi-mask search, preset {code(found['preset'])}: {steps}. Seed {found['seed']:d}."]
    smallest = found["smallest"]
    lines.append(
        f"The smallest network of the space has {smallest['params']:,} parameters and {smallest['macs']:,} "
        "multiply-accumulates."
    )
    if pmim:
        lines.append("Masked patches were reconstructed beside the classification (PMIM).")
    return lines


__all__ = ["budget", "layers", "original_architecture", "search_lines", "why"]
