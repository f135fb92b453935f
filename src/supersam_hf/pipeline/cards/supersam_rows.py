"""The rows, layers and limits in the card of a SuperSAM model, from the files of its run."""

from typing import Any

from ...elastic.cost import count_macs, count_parameters
from ...hub.facts import Layer, Limit, Row
from ...models.supersam import ElasticSpace, Subnet, SuperSamModel
from ...search.pareto import named_front
from .records import RunRecords


# The report's name of each model that has a row of its own.
ROWS = {
    "subnet": "found",
    "recovered": "found + recovery",
    "supernet": "largest",
    "largest": "largest",
    "smallest": "smallest",
}
QUALITIES = {"miou": "mIoU", "miou_oracle": "best of 3 masks", "miou_predicted": "predicted best of 3"}


def subnet_rows(records: RunRecords, name: str, model: SuperSamModel, weights: str | None) -> list[Row]:
    """The original, the same subnet before training (or before fine-tuning), and the subnet itself, last.

    Args:
        weights (`str`, *optional*): Fingerprint of the model, or of the supernet that it was taken out of just now.
    """
    config: Any = model.config
    params, macs = count_parameters(config), count_macs(config)
    rows = _original_rows(records)
    report_name = ROWS.get(name, name)
    found = records.rows.get("found")
    if name in ("finetuned", "recovered") and found is not None and found["params"] == params:
        before = "fine-tuning" if name == "finetuned" else "recovery"
        rows.append(Row(f"the same before {before}", quality=_quality(found)))
    if name == "finetuned":
        return [*rows, Row("this model", params, macs, this=True)]
    if report_name in records.before:
        rows.append(Row("the same before training", quality=_quality(records.before[report_name])))
    measured = records.measured(report_name, weights)
    # A report made before another subnet was extracted is not about this one.
    if measured is None or not _same(measured, config):
        return [*rows, Row("this model", params, macs, this=True)]
    return [*rows, Row("this model", params, macs, _quality(measured), measured.get("latency"), this=True)]


def supernet_rows(
    records: RunRecords, model: SuperSamModel, points: list[dict[str, Any]], weights: str | None
) -> list[Row]:
    """Original, largest, smallest, and the points of the front with what the search saw of them."""
    rows = _original_rows(records)
    for name in ("largest", "smallest"):
        measured = records.measured(name, weights)
        if measured is None:
            continue
        if name in records.before:
            rows.append(Row(f"{name}, before training", quality=_quality(records.before[name])))
        rows.append(_row(name, measured, this=name == "largest"))
    for name, point in named_front(points).items():
        measured = records.measured(name, weights) or {}
        seen = {"mIoU in the search": point["quality"]}
        quality = seen if measured.get("subnet") != point["subnet"] else {**_quality(measured), **seen}
        timed = measured.get("latency") if quality is not seen else None
        rows.append(Row(f"`{name}`", point["params"], point["macs"], quality, timed))
    if not any(row.this for row in rows):
        config: Any = model.config
        rows.insert(
            len(_original_rows(records)), Row("largest", count_parameters(config), count_macs(config), this=True)
        )
    return rows


def layers(records: RunRecords, space: ElasticSpace, subnet: Subnet) -> list[Layer]:
    ranking = records.read("ranking.json")
    without = {} if ranking is None else {one["layers"][0]: one["quality"] for one in ranking["single"]}
    kept = dict(zip(subnet.layers, zip(subnet.mlp_dim, subnet.head_dim)))
    full = {"MLP": space.mlp_dim, "channels a head": space.head_dim}
    return [
        Layer(i, full, dict(zip(full, kept[i])) if i in kept else None, without.get(i))
        for i in range(space.num_hidden_layers)
    ]


def budget(records: RunRecords, name: str, subnet: Subnet | None) -> list[Limit]:
    """What the search was asked for; a subnet that it did not choose has no budget to keep."""
    found = records.search
    if found is None or subnet is None:
        return []
    tried = [point for point in [found["best"], *found["front"]] if point and point["subnet"] == subnet.to_dict()]
    if not tried or name in ("largest", "smallest"):
        return []
    limits, largest, point = found["limits"], found["largest"], tried[0]
    known = [
        Limit("parameters", limits["max_params"], point["params"], largest["params"]),
        Limit("multiply-accumulates", limits["max_macs"], point["macs"], largest["macs"]),
        Limit("milliseconds", limits["max_latency_ms"], point["latency_ms"]),
        Limit("mIoU", limits["min_quality"], point["quality"]),
    ]
    # Fine-tuning changes what was measured, and nothing that was counted.
    known = known[:2] if name in ("finetuned", "recovered") else known
    return [limit for limit in known if limit.asked is not None]


def _original_rows(records: RunRecords) -> list[Row]:
    """The original as it was evaluated; without a report, its size as the search has it."""
    if "original" in records.rows:
        return [_row("original", records.rows["original"])]
    if records.search is None:
        return []
    largest = records.search["largest"]
    return [Row("original", largest["params"], largest["macs"])]


def _row(name: str, measured: dict[str, Any], this: bool = False) -> Row:
    return Row(name, measured["params"], measured["macs"], _quality(measured), measured.get("latency"), this=this)


def _quality(row: dict[str, Any]) -> dict[str, float]:
    return {label: row[key] for key, label in QUALITIES.items() if row[key] is not None}


def _same(row: dict[str, Any], config: Any) -> bool:
    """Whether a line of the report is about this model; that of the extracted subnet names no subnet."""
    return row["params"] == count_parameters(config) and row["subnet"] in (None, config.subnet)


__all__ = ["budget", "layers", "subnet_rows", "supernet_rows"]
