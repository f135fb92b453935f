"""The facts for the card of a classifier that OFB found, from the files of its run."""

from typing import Any

from ...bimask.extract import architecture
from ...elastic.cost import count_macs, count_parameters
from ...hub.facts import CardFacts, Row
from ...plots.ofb import stream_widths
from ..quality import quality_warning
from .lines import cost_note, data_lines, seed_limit, training_line
from .mask_search import budget, layers, original_architecture, search_lines, why
from .records import RunRecords


QUALITIES = {"top1": "top-1 accuracy", "top5": "top-5 accuracy"}


def classifier_facts(
    records: RunRecords,
    name: str,
    model: Any,
    *,
    repo: str,
    revision: str,
    weights: str | None = None,
) -> CardFacts:
    """Of a found classifier.

    Args:
        name (`str`): `subnet` or `searched`, as it came out of the search, or `finetuned`.
        model (`PreTrainedModel`): The model itself.
        weights (`str`, *optional*): Its fingerprint.
    """
    config: Any = model.config
    found = architecture(model)
    original, evaluated = original_architecture(records.folder / "search", records.search), records.evaluated_on
    finetuned, hardware = name == "finetuned", records.results.get("hardware")
    once = records.search is not None and "one_shot" in records.search
    trainings = ([] if records.search is None else ["prune" if once else "search"]) + (["finetune"] * finetuned)
    costs = records.costs(*trainings)
    named = f"{'OFB' if records.search is not None else 'Image'} classifier, {count_parameters(config):,} parameters"
    return CardFacts(
        kind="ofb_subnet",
        repo=repo,
        revision=revision,
        title=named if repo == "." else repo.split("/")[-1],
        origin=_origin(records, finetuned),
        base=records.base,
        data=records.data,
        evaluated=records.evaluated,
        data_lines=data_lines(records, objects=False),
        rows=rows(records, name, model, weights),
        budget=[] if records.search is None else [budget(records.search, config)],
        layers=[] if original is None else layers(original, found),
        embedding=None if original is None else (_streams(original), _streams(found)),
        search_lines=[] if records.search is None else search_lines(records.search, _pmim(records)),
        training_lines=_training_lines(records, finetuned),
        limits=_limits(records),
        costs=costs,
        costs_whole=records.costs_whole(*trainings),
        cost_note=cost_note(costs, hardware),
        hardware=hardware,
        cut=records.search is not None,
        versions=records.versions(config),
        figures={"architecture.png": "Heads and widths kept, layer by layer"} if original is not None else {},
        eval_split=None if evaluated is None else evaluated["eval_split"],
        extra={
            "num_labels": config.num_labels,
            "one_shot": once,
            "warning": quality_warning(list(records.rows.values()), _reported(records, name)),
            "why": [] if records.search is None else why(records.search),
        },
    )


def rows(records: RunRecords, name: str, model: Any, weights: str | None = None) -> list[Row]:
    """The original, what the search left where it was retrained, and the model itself, last."""
    config: Any = model.config
    params, macs = count_parameters(config), count_macs(config)
    table: list[Row] = []
    if "original" in records.rows:
        table.append(_row("original", records.rows["original"]))
    elif records.search is not None:
        table.append(Row("original", records.search["original"]["params"], records.search["original"]["macs"]))
    found = _reported(records, "subnet")
    if name == "finetuned" and found in records.rows:
        table.append(_row("found, before retraining", records.rows[found]))
    measured = records.measured(_reported(records, name), weights)
    if measured is None or measured["params"] != params:
        return [*table, Row("this model", params, macs, this=True)]
    return [*table, _row("this model", measured, this=True)]


def _reported(records: RunRecords, name: str) -> str:
    """The report's name of a model of the run."""
    return name if name == "finetuned" else "pruned" if "pruned" in records.rows else "searched"


def search_record(records: RunRecords) -> dict[str, Any]:
    """The part of `search.json` that only OFB has: its whole report, and the space."""
    values = records.stages.get("search", {}).get("values", {})
    return {**(records.search or {}), **({"space": values["space"]} if values else {})}


def seeds(records: RunRecords) -> dict[str, int]:
    """Every seed that decided something, by what it decided."""
    found = records.search or {}
    named = {"pruning": found["one_shot"]["seed"]} if "one_shot" in found else {}
    named |= {"search": found["seed"]} if "seed" in found else {}
    args = records.trained("finetune")
    named |= {} if args is None else {"retraining": args["seed"]}
    return named | ({} if records.trained_on is None else {"data": records.trained_on["seed"]})


def _row(name: str, measured: dict[str, Any], this: bool = False) -> Row:
    quality = {label: measured[key] for key, label in QUALITIES.items() if measured[key] is not None}
    timed = {key: measured.get(key) for key in ("latency", "throughput")}
    return Row(name, measured["params"], measured["macs"], quality, **timed, this=this)


def _origin(records: RunRecords, finetuned: bool) -> str:
    if records.search is None:
        return "fine-tuned" if finetuned else "a classifier"
    one = (
        "the network that was pruned at once" if "one_shot" in records.search else "the network that one search found"
    )
    return one + (", retrained" if finetuned else "")


def _streams(architecture: dict[str, Any]) -> str:
    return ", ".join(f"{width:d}" for width in stream_widths(architecture))


def _pmim(records: RunRecords) -> bool:
    args = records.trained("search")
    return args is not None and args["pmim"]


def _training_lines(records: RunRecords, finetuned: bool) -> list[str]:
    stages = {"pretrain": "Trained from nothing"}
    stages |= {} if "one_shot" in (records.search or {}) else {"search": "Search and training together"}
    stages |= {"finetune": "Retraining"} if finetuned else {}
    trainings = {what: records.trained(stage) for stage, what in stages.items()}
    return [training_line(what, args) for what, args in trainings.items() if args is not None]


def _limits(records: RunRecords) -> list[str]:
    data, tested = records.data, "on other images it was not tested"
    lines = [] if data is None else [f"Trained for the classes of {data.link('datasets/')}; {tested}."]
    if any("latency" in row for row in records.rows.values()):
        lines.append("Speed holds for the machine named above; gains differ on others.")
    return [*lines, seed_limit(seeds(records))]


__all__ = ["classifier_facts", "rows", "search_record", "seeds"]
