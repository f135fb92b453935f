"""What the page of a run says, as plain text and rows, from the files of its folder: of a run that is still going, or
was killed, what there is."""

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..hub import tables
from ..training.milestone import milestone_line, read_milestone
from .agreement import AGREEMENT, EXPLAINED
from .costs import run_costs
from .page_stages import progress, stage_states
from .quality import FOUND, quality_warning
from .run_record import read_json, read_record


QUALITIES = {"miou": "mIoU", "top1": "top-1 accuracy", "top5": "top-5 accuracy"}


@dataclass(frozen=True)
class Number:
    """A big number: what it is, its value, and what it is beside the original's."""

    label: str
    value: str
    beside: str = ""


@dataclass(frozen=True)
class PageFacts:
    """Everything that the page says but for its figures."""

    name: str
    method: str
    headline: str
    numbers: list[Number]
    stages: list[dict[str, str]]
    results: list[dict[str, str]]
    notes: list[str]
    costs: list[dict[str, str]]
    cost_note: str
    provenance: dict[str, str]
    sittings: list[dict[str, str]]
    recipe: str
    command: str
    processes: int
    finished: bool
    versions: dict[str, str] = field(default_factory=dict)


def page_facts(folder: Path) -> PageFacts:
    """Reads a run's folder.

    Raises:
        ValueError: If it holds no run.
    """
    record = read_record(folder)
    if record is None:
        raise ValueError(f"{folder} is no run's folder: it has no run.json.")
    recipe = record["recipe"]
    method = "ofb" if "retrain" in recipe else "supersam"
    stages = stage_states(folder, method, recipe)
    rows = _read(folder / "results.json").get("rows", [])
    last = record["sittings"][-1]
    facts = PageFacts(
        name=folder.resolve().name,
        method={"ofb": "Once for Both", "supersam": "SuperSAM"}[method],
        headline=_headline(rows) or _adapted(folder) or progress(stages, last["outcome"]),
        numbers=_numbers(rows),
        stages=stages,
        results=_results(rows, _read(folder / "results.json").get("before", [])),
        notes=_notes(folder, recipe),
        costs=_costs(folder),
        cost_note=_cost_note(folder),
        provenance=_provenance(record),
        sittings=[_sitting(one) for one in record["sittings"]],
        recipe=json.dumps(recipe, indent=2),
        command=last["command"],
        processes=record["processes"],
        finished=last["outcome"] == "finished",
        versions=record["versions"],
    )
    return _without_labels(facts) if recipe["data"].get("format") == "images" else facts


def _without_labels(facts: PageFacts) -> PageFacts:
    """The facts of a run on pictures without labels, whose qualities are no mIoU with labels."""

    def said(text: str) -> str:
        return text.replace("mIoU", AGREEMENT)

    return replace(
        facts,
        headline=said(facts.headline),
        numbers=[replace(number, label=said(number.label)) for number in facts.numbers],
        results=[{said(name): value for name, value in row.items()} for row in facts.results],
        notes=[EXPLAINED, *map(said, facts.notes)],
    )


def _read(path: Path) -> Any:
    return read_json(path) or {}


def _adapted(folder: Path) -> str:
    """Of an adapter, what it is and what it brought."""
    adapt = _read(folder / "adapt.json")
    if not adapt:
        return ""
    kind = "(IA)³" if adapt["method"] == "ia3" else f"{'Elastic ' * adapt['elastic']}LoRA of rank {adapt['r']}"
    before, after = (_quality("miou", adapt[when]["miou"]) for when in ("before", "after"))
    size = tables.megabytes(adapt["adapter_bytes"])
    return f"An adapter of {size}, {kind}: mIoU {after} (without it {before})."


def _ends(rows: list[dict[str, Any]]) -> tuple[Any, Any]:
    """The original's row and that of what was found, or None for either."""
    named = {row["name"]: row for row in rows}
    found = next((named[name] for name in reversed(FOUND) if name in named), None)
    return named.get("original"), found


def _headline(rows: list[dict[str, Any]]) -> str:
    """What was found, in one sentence."""
    original, found = _ends(rows)
    if found is None:
        return ""
    if original is None:
        return f"A model of {_millions(found['params'])} parameters and {tables.giga(found['macs'])} GMACs."
    key = next(key for key in QUALITIES if found.get(key) is not None)
    text = (
        f"{_share(found['params'], original['params'])} of the parameters and "
        f"{_share(found['macs'], original['macs'])} of the multiply-accumulates of the original; "
        f"{QUALITIES[key]} {_quality(key, found[key])} (original {_quality(key, original[key])})"
    )
    if "latency" in found and "latency" in original:
        text += f"; {tables.speed(found['latency']['ratio'])} on this machine"
    return text + "."


def _numbers(rows: list[dict[str, Any]]) -> list[Number]:
    original, found = _ends(rows)
    if found is None:
        return []
    was = original or {}
    numbers = [
        Number("parameters", _millions(found["params"]), _of(found, was, "params", _millions)),
        Number("GMACs", tables.giga(found["macs"]), _of(found, was, "macs", tables.giga)),
    ]
    for key, label in QUALITIES.items():
        if found.get(key) is not None:
            numbers.append(
                Number(label, _quality(key, found[key]), _beside(was, key, lambda v, k=key: _quality(k, v)))
            )
    if "latency" in found:
        before = "" if "latency" not in was else f"original {_latency(was)}"
        numbers.append(Number("latency", _latency(found), before))
    return numbers


def _of(found: Mapping[str, Any], original: Mapping[str, Any], key: str, written: Any) -> str:
    return f"{_share(found[key], original[key])} of the original's {written(original[key])}" if original else ""


def _beside(original: Mapping[str, Any], key: str, written: Any) -> str:
    return f"original {written(original[key])}" if original.get(key) is not None else ""


def _results(rows: list[dict[str, Any]], before: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Named models one a line; sampled subnets as mean and standard deviation."""
    was = {row["name"]: row for row in before}
    table = []
    for row in rows:
        if row.get("kind") == "sampled":
            continue
        line = {"model": row["name"], "parameters": _millions(row["params"]), "GMACs": tables.giga(row["macs"])}
        for key, label in QUALITIES.items():
            line[label] = _quality(key, row[key]) if row.get(key) is not None else ""
        earlier = was.get(row["name"], {}).get("miou") if row["name"] != "original" else None
        line["before training"] = "" if earlier is None else _quality("miou", earlier)
        table.append({**line, "latency": _latency(row) if "latency" in row else ""})
    sampled = [row["miou"] for row in rows if row.get("kind") == "sampled"]
    if len(sampled) > 1:
        spread = f"{statistics.mean(sampled):.4f} ± {statistics.stdev(sampled):.4f}"
        table.append({**dict.fromkeys(table[0], ""), "model": f"{len(sampled)} sampled", "mIoU": spread})
    return without_empty(table)


def without_empty(table: list[dict[str, str]]) -> list[dict[str, str]]:
    """A table without the columns that say nothing."""
    kept = [key for key in (table[0] if table else {}) if any(row[key] for row in table)]
    return [{key: row[key] for key in kept} for row in table]


def _notes(folder: Path, recipe: dict[str, Any]) -> list[str]:
    milestone, search = read_milestone(folder / "milestone.json"), _read(folder / "search.json")
    warning = quality_warning(_read(folder / "results.json").get("rows", []))
    notes = [] if warning is None else [f"Warning: {warning}"]
    notes += [] if milestone is None else [milestone_line(milestone)]
    goal = recipe.get("train", {}).get("milestone")
    if milestone is None and goal is not None:
        notes.append(f"The {goal['subnet']} subnet has not reached the milestone, a mIoU of {goal['miou']:g}.")
    if "counts" in search:
        counts = search["counts"]
        notes.append(
            f"The search proposed {counts['asks']:,} subnets and ran {counts['trials']:,} of them on held-out images; "
            f"{counts['feasible']:,} kept the budget."
        )
    quality = "top-1" if "retrain" in recipe else "mIoU"
    # a report of an earlier version compares nothing
    return notes + [f"{quality}, {one['text']}." for one in _read(folder / "results.json").get("differences", [])]


def _costs(folder: Path) -> list[dict[str, str]]:
    table = []
    for name, cost in run_costs(folder).items():
        kwh, kg = cost["energy_kwh"], cost["emissions_kg"]
        row = {"stage": name, "time": tables.duration(cost["seconds"])}
        row |= {key: tables.count(cost[key]) if cost[key] else "" for key in ("iterations", "images")}
        row["energy"] = "" if kwh is None else tables.energy(kwh)
        table.append({**row, "CO₂ equivalent": "" if kg is None else tables.carbon(kg)})
    return without_empty(table)


def _cost_note(folder: Path) -> str:
    """How electricity and emissions were told, in sentences."""
    total = run_costs(folder)["total"]
    if total["energy_kwh"] is None:
        return "Energy: not recorded in all sittings."
    said = f"Energy: {total['method']}."
    if total["emissions_kg"] is None:
        return said
    whose = "a given factor" if total["country"] is None else f"the mean electricity of {total['country']}"
    factor = "" if total["kg_per_kwh"] is None else f" ({total['kg_per_kwh']:g} kg a kWh)"
    return f"{said} CO₂ equivalent: by {whose}{factor}. What was done twice after an interruption is counted."


def _provenance(record: dict[str, Any]) -> dict[str, str]:
    """Data, hardware and code, a line each."""
    data, hardware, git = record["data"], record["hardware"], record["git"]
    told = ", ".join(f"{key} {value}" for key, value in data.items() if value not in (None, True))
    images = ", ".join(f"{value:,} {key.replace('_', ' ')}" for key, value in record["images"].items())
    revision = "" if git is None else git["revision"][:12] + (" with changes" if git["dirty"] else "")
    seed, processes = record["recipe"]["seed"], record["processes"]
    return {
        "data": " · ".join(filter(None, (record["recipe"]["data"]["source"], told, images))),
        "hardware": f"{hardware['device']}, {hardware['cores']} cores, {processes} process{'es' * (processes != 1)}",
        "seed": "one a section" if seed is None else str(seed),
        **({"code": revision} if revision else {}),
    }


def _sitting(sitting: dict[str, Any]) -> dict[str, str]:
    return {
        "began": sitting["began"].replace("T", " ").removesuffix("+00:00"),
        "ended": (sitting["ended"] or "").replace("T", " ").removesuffix("+00:00"),
        "outcome": sitting["outcome"] or "not ended",
        "changed": ", ".join(sitting.get("changed", ())),
    }


def _millions(count: float) -> str:
    return f"{count / 1e6:.3g} M" if count >= 1e6 else f"{count / 1e3:.3g} K"


def _share(value: float, of: float) -> str:
    return f"{value / of:.0%}"


def _quality(key: str, value: float) -> str:
    return f"{value:.3f}" if key == "miou" else f"{value:.1%}"


def _latency(row: Mapping[str, Any]) -> str:
    return tables.milliseconds(row["latency"]["latency"]["median_ms"])


__all__ = ["Number", "PageFacts", "page_facts"]
