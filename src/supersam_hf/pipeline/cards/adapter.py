"""The facts for the card of an adapter, from the files of its run."""

from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from ...escape import code, python
from ...files import read_json
from ...hub import tables
from ...hub.facts import CardFacts, Row, Source
from .lines import cost_note, prompt_lines, seed_limit
from .records import RunRecords, data_source, source


METHODS = {"lora": "LoRA", "ia3": "(IA)³"}
# What adapt.json has of a supernet.
EVALUATED = {"miou": "largest", "miou_smallest": "smallest", "miou_sampled": "mean of sampled"}


def adapter_facts(records: RunRecords, *, repo: str, revision: str) -> CardFacts:
    """Of what `supersam-hf adapt` left in `adapter/` and `adapt.json`."""
    adapt = records.read("adapt.json")
    method = ("elastic " if adapt["elastic"] else "") + METHODS[adapt["method"]]
    trained = records.trained("adapt")
    data = source(adapt["data"], records.folder) if trained is None else data_source(trained["data"], records.folder)
    base = records.base if adapt["base"] is None else source(adapt["base"], records.folder)
    costs, hardware = records.costs("adapt"), adapt.get("hardware") or records.results.get("hardware")
    return CardFacts(
        kind="adapter",
        repo=repo,
        revision=revision,
        title=f"{method} adapter of a SAM" if repo == "." else repo.split("/")[-1],
        origin=method,
        base=base,
        data=data,
        data_lines=_data_lines(trained, data, adapt.get("eval_split")),
        rows=rows(adapt),
        training_lines=[_training_line(adapt)],
        costs=costs,
        costs_whole=records.costs_whole("adapt"),
        cost_note=cost_note(costs, hardware),
        hardware=hardware,
        limits=_limits(adapt, data),
        eval_split=None if trained is None else adapt.get("eval_split", trained["data"]["eval_split"]),
        extra={
            "elastic": adapt["elastic"],
            "lines": _lines(adapt),
            "tags": [adapt["method"], "peft"],
            **_base_facts(records, adapt, base),
        },
    )


def rows(adapt: dict[str, Any]) -> list[Row]:
    """Each model that was evaluated, without and with the adapter; the first, or largest, stands for the adapter."""
    table = []
    for name, after in adapt["after"].items():
        which = EVALUATED[name] if adapt["elastic"] else "model"
        table.append(Row(f"{which}, without the adapter", quality={"mIoU": adapt["before"][name]}))
        table.append(Row(f"{which}, with it", quality={"mIoU": after}, this=name == "miou"))
    return table


def _data_lines(trained: dict[str, Any] | None, data: Source, eval_split: str | None) -> list[str]:
    """What was trained and evaluated on: one dataset, by the training's last checkpoint; `eval_split` if it was
    evaluated on another split than that says."""
    name = data.link("datasets/")
    if trained is None:
        return [f"Trained on {name}."]
    args, images = trained["data"], trained.get("images")
    counted = "" if images is None else f"{images:,} images, "
    return [
        f"Trained on {name}: {counted}split {code(args['train_split'])}.",
        f"Evaluated on {name}: split {code(eval_split or args['eval_split'])}.",
        *prompt_lines(args),
    ]


def _base_facts(records: RunRecords, adapt: dict[str, Any], base: Source | None) -> dict[str, Any]:
    """What `from_pretrained` of the base is given, and whether it has code of its own; nothing where others cannot
    load it."""
    if base is None or base.hub_id is None:
        return {}
    start = records.read("start.json")
    revision = start.get("revision") if start.get("name") == base.hub_id else None
    given = [python(base.hub_id), *([] if revision is None else [f"revision={python(revision)}"])]
    own_code = adapt["elastic"] or _model_type(base.hub_id, revision) == "supersam"
    return {"base_arguments": ", ".join(given), "own_code": own_code}


def _model_type(hub_id: str, revision: str | None) -> str | None:
    """As the config says that the run loaded, if the cache still has it."""
    config = try_to_load_from_cache(hub_id, "config.json", revision=revision)
    return read_json(Path(config))["model_type"] if isinstance(config, str) else None


def _lines(adapt: dict[str, Any]) -> list[str]:
    share = f"{adapt['trainable_share']:.2%}"
    lines = [
        f"{adapt['trainable_params']:,} of {adapt['total_params']:,} parameters were trained ({share}); the adapter "
        f"takes {tables.megabytes(adapt['adapter_bytes'])}."
    ]
    if adapt["method"] == "lora":
        lines.append(f"Rank {adapt['r']:d}, alpha {adapt['alpha']:g}, dropout {adapt['dropout']:g}.")
    if adapt["elastic"]:
        lines.append("One adapter for every subnet: its matrices are sliced with the supernet's windows.")
    return lines


def _training_line(adapt: dict[str, Any]) -> str:
    took = tables.duration(adapt["cost"]["seconds"])
    return f"{adapt['steps']:,} steps in {took}; the weights under the adapter were frozen."


def _limits(adapt: dict[str, Any], data: Source) -> list[str]:
    lines = [f"Trained for {data.link('datasets/')}; on other images it was not tested."]
    if adapt["elastic"]:
        lines.append("Plain peft gives the same outputs, but runs the adapted layers whole, whatever the subnet.")
    return [*lines, seed_limit({"training": adapt["seed"]})]


__all__ = ["adapter_facts", "rows"]
