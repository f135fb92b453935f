"""How a SuperSAM model was found, as data: the seeds, search.json and pareto.json of what is published."""

from typing import Any

from ...search.pareto import named_front
from .records import RunRecords


# What search.json holds that is no list of trials and names no path.
RECORDED = ("space", "goal", "budget", "limits", "largest", "engine", "stopped", "counts")


def search_record(records: RunRecords, subnet: dict[str, Any] | None, name: str) -> dict[str, Any]:
    """The part of `search.json` that only SuperSAM has; `subnet` is None of a supernet."""
    found = records.search or {}
    best = found.get("best")
    said = {"subnet": subnet, "name": name}
    said |= {key: found[key] for key in RECORDED if key in found}
    if best is not None and best["subnet"] == subnet:
        said["found"] = {"params": best["params"], "macs": best["macs"], "holdout_miou": best["quality"]}
    if "context" in found:
        said["holdout_images"] = found["context"]["holdout_images"]
    return said


def seeds(records: RunRecords) -> dict[str, int]:
    """Every seed that decided something, by what it decided."""
    named = {} if records.search is None else {"search": records.search["seed"]}
    for label, stage in (
        ("training", "train"),
        ("bi-mask", "bimask"),
        ("recovery", "recover"),
        ("fine-tuning", "finetune"),
    ):
        args = records.trained(stage)
        named |= {} if args is None else {label: args["seed"]}
    return named | ({} if records.trained_on is None else {"data": records.trained_on["seed"]})


def pareto(records: RunRecords, weights: str | None = None) -> dict[str, Any] | None:
    """`pareto.json`: the front that the search found, ascending in parameters, with what the report measured of the
    supernet whose fingerprint is `weights`."""
    if records.search is None:
        return None
    points = []
    for name, point in named_front(records.search["front"]).items():
        entry = {"name": name, "subnet": point["subnet"], "params": point["params"], "macs": point["macs"]}
        entry["holdout_miou"] = point["quality"]
        measured = records.measured(name, weights) or {}
        if measured.get("subnet") == point["subnet"]:
            entry["miou"] = measured["miou"]
            if "latency_ms" in measured:
                entry["latency_ms"] = measured["latency_ms"]
        points.append(entry)
    front = {"format_version": 1, "largest": records.search["largest"], "points": points}
    ran_on = records.results.get("hardware")
    if ran_on is not None and any("latency_ms" in point for point in points):
        front["hardware"] = {"device": ran_on["device"], "threads": ran_on["threads"]}
    return front


__all__ = ["pareto", "search_record", "seeds"]
