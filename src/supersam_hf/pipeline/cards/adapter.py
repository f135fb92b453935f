"""The facts for the card of an adapter, from the files of its run."""

from typing import Any

from ...hub import tables
from ...hub.facts import CardFacts, Row, Source
from .lines import cost_note, data_lines, seed_limit
from .records import RunRecords, source


METHODS = {"lora": "LoRA", "ia3": "(IA)³"}
# What adapt.json has of a supernet.
EVALUATED = {"miou": "largest", "miou_smallest": "smallest", "miou_sampled": "mean of sampled"}


def adapter_facts(records: RunRecords, *, repo: str, revision: str) -> CardFacts:
    """Of what `supersam-hf adapt` left in `adapter/` and `adapt.json`."""
    adapt = records.read("adapt.json")
    method = ("elastic " if adapt["elastic"] else "") + METHODS[adapt["method"]]
    data = records.data or source(adapt["data"], records.folder)
    base = records.base if adapt["base"] is None else source(adapt["base"], records.folder)
    evaluated = records.evaluated_on
    return CardFacts(
        kind="adapter",
        repo=repo,
        revision=revision,
        title=f"{method} adapter of a SAM" if repo == "." else repo.split("/")[-1],
        origin=method,
        base=base,
        data=data,
        data_lines=data_lines(records, objects=True) or [f"Trained on {data.link('datasets/')}."],
        rows=rows(adapt),
        training_lines=[_training_line(adapt)],
        costs=records.costs,
        cost_note=cost_note(records),
        limits=_limits(adapt, data),
        eval_split=None if evaluated is None else evaluated["eval_split"],
        extra={"elastic": adapt["elastic"], "lines": _lines(adapt), "tags": [adapt["method"], "peft"]},
    )


def rows(adapt: dict[str, Any]) -> list[Row]:
    """Each model that was evaluated, without and with the adapter; the first, or largest, stands for the adapter."""
    table = []
    for name, after in adapt["after"].items():
        which = EVALUATED[name] if adapt["elastic"] else "model"
        table.append(Row(f"{which}, without the adapter", quality={"mIoU": adapt["before"][name]}))
        table.append(Row(f"{which}, with it", quality={"mIoU": after}, this=name == "miou"))
    return table


def _lines(adapt: dict[str, Any]) -> list[str]:
    share = f"{adapt['trainable_share']:.2%}"
    lines = [
        f"{adapt['trainable_params']:,} of {adapt['total_params']:,} parameters were trained ({share}); the adapter "
        f"takes {tables.megabytes(adapt['adapter_bytes'])}."
    ]
    if adapt["method"] == "lora":
        lines.append(f"Rank {adapt['r']}, alpha {adapt['alpha']}, dropout {adapt['dropout']:g}.")
    if adapt["elastic"]:
        lines.append("One adapter for every subnet: its matrices are sliced with the supernet's windows.")
    return lines


def _training_line(adapt: dict[str, Any]) -> str:
    return (
        f"{adapt['steps']:,} steps in {tables.duration(adapt['seconds'])}; the weights under the adapter were frozen."
    )


def _limits(adapt: dict[str, Any], data: Source) -> list[str]:
    lines = [f"Trained for {data.link('datasets/')}; on other images it was not tested."]
    if adapt["elastic"]:
        lines.append("Plain peft gives the same outputs, but runs the adapted layers whole, whatever the subnet.")
    return [*lines, seed_limit({"training": adapt["seed"]})]


__all__ = ["adapter_facts", "rows"]
