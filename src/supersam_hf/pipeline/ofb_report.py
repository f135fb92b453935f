"""The report of an OFB run: accuracy and cost of original, searched and retrained model, and how fast they are."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from tqdm.auto import tqdm

from .. import __version__
from ..classification import evaluate_classifier
from ..elastic.cost import count_macs, count_parameters
from ..files import fingerprint, read_json, write_json, write_whole
from ..hub import tables
from ..measure import compare_latency, example_inputs, hardware
from .comparisons import classifier_differences
from .costs import run_costs
from .journal import Journal
from .mask_search import latency_line, one_shot_line
from .ofb_context import OfbRun
from .quality import quality_warning
from .run_record import known_images
from .runner import on_main_process


Row = dict[str, Any]
Models = Mapping[str, Any]


def models_of(run: OfbRun) -> dict[str, Any]:
    """What is evaluated: the original, the model as it came out of search or pruning, the retrained one, if there.

    Raises:
        ValueError: If there is none, or one of the run's own has other classes than the evaluation split.
    """
    args, names = run.recipe.evaluate, run.eval_label_names
    models = {}
    if args.original is not None:
        models["original"] = run.with_labels(run.load(args.original), names)
    elif not run.recipe.model.new_labels:  # an untrained head has no accuracy to speak of
        models["original"] = run.original(names)
    # What the run's models call these classes: the checkpoint has names of its own for them, a new head has theirs.
    if not run.recipe.model.new_labels:
        names = _labels(models["original"] if args.original is None else run.original(names))
    for name in ("whole", "searched", "pruned", "finetuned"):
        if run.has_model(name):
            models[name] = run.load(run.folder / name)
            _check_classes(run, name, models[name], names)
    if not models:
        raise ValueError(f"There is nothing to evaluate in {run.folder} yet: `model.new_labels` needs `ofb finetune`.")
    return models


def _labels(model: Any) -> list[str]:
    """The names of a model's classes, in the order of its outputs."""
    return [model.config.id2label[i] for i in range(model.config.num_labels)]


def _check_classes(run: OfbRun, name: str, model: Any, names: list[str]) -> None:
    """Raises `ValueError` unless a model of the run has the classes of the evaluation split, in their order."""
    own = _labels(model)
    if own != names:
        raise ValueError(
            f"`data.eval_split` has other classes than {run.folder / name} was trained for ({len(names)} and "
            f"{len(own)}, or in another order); give a split of the same dataset."
        )


def evaluated(run: OfbRun, models: Models, journal_name: str) -> list[Row]:
    """Accuracy and cost of each model on the evaluation split, a model a process; goes on where it was interrupted."""
    journal = Journal(run.folder / "evaluation" / f"{journal_name}.jsonl", run.recipe.parts("data.eval"), run.state)
    prints = {name: fingerprint(model) for name, model in models.items()}
    keys = {name: f"{prints[name]} {model.config.image_size}" for name, model in models.items()}
    asked = {keys[name]: model for name, model in models.items()}
    with tqdm(total=len(asked), desc=journal_name, unit="model", disable=not run.state.is_main_process) as bar:
        results = journal.get_all(asked, partial(_accuracy, run), bar.update)
    table = []
    for name, model in models.items():
        cost = {"params": count_parameters(model.config), "macs": count_macs(model.config)}
        labels = {"num_labels": model.config.num_labels}
        table.append({"name": name, **cost, **results[keys[name]], **labels, "weights": prints[name]})
    return table


def _accuracy(run: OfbRun, model: Any) -> dict[str, Any]:
    return asdict(evaluate_classifier(model, run.eval_loader))


def evaluate(run: OfbRun) -> None:
    """`results.json`, `results.md`: accuracy and cost of what the run has so far."""
    table = evaluated(run, models_of(run), "evaluate")
    on_main_process(run, lambda run: print(_write(run, table)))


def report(run: OfbRun) -> None:
    """As [`evaluate`], with latency and throughput."""
    models = models_of(run)
    table = evaluated(run, models, "report")
    on_main_process(run, lambda run: _report(run, table, models))


def _report(run: OfbRun, table: list[Row], models: Models) -> None:
    text = _write(run, table)  # what timing ends, or kills, has cost more than it
    if run.recipe.measure.enabled:
        add_speed(run, table, models)
        text = _write(run, table)
    print(text)


def add_speed(run: OfbRun, table: list[Row], models: Models) -> None:
    """Times the first and the last model side by side in interleaved rounds (OFB, Table 6): `latency` of one image,
    `throughput` of a batch."""
    args, ends = run.recipe.measure, [table[0]["name"], table[-1]["name"]]
    for key, batch_size in (("latency", 1), ("throughput", args.batch_size)):
        forwards = {name: _forward(models[name], batch_size) for name in ends}
        timed = compare_latency(forwards, args.repeats, warmup=args.warmup, device=run.state.device)
        for row in table:
            if row["name"] in timed:
                measured = timed[row["name"]]
                row[key] = {**asdict(measured), "batch_size": batch_size}
                row[key]["images_per_second"] = batch_size / (measured.latency.median_ms / 1e3)


def _forward(model: Any, batch_size: int) -> Any:
    inputs = example_inputs(model, batch_size)
    return torch.inference_mode()(lambda: model(**inputs))


def _write(run: OfbRun, table: list[Row]) -> str:
    """Writes `results.json` and `results.md`; returns the latter."""
    run.meter.flush()  # the costs below hold this stage's own, so far
    found = run.folder / "search.json"
    compared = classifier_differences(table)
    results: dict[str, Any] = {
        "recipe": asdict(run.recipe),
        "hardware": hardware(run.state.device),
        "versions": {"supersam_hf": __version__},
        "data": known_images(run),
        "rows": [{key: value for key, value in row.items() if key != "right"} for row in table],
        "differences": [asdict(one) | {"beyond": one.beyond, "text": one.text()} for one in compared],
        "costs": run_costs(run.folder),
        "search": read_json(found) if found.exists() else None,
    }
    write_json(run.folder / "results.json", results)
    text = results_table(table, "trained here" if run.recipe.pretrain.enabled else "")
    text += speed_line(table) + budget_line(results["search"])
    text += "\n" * bool(compared) + "".join(f"- top-1, {one.text()}\n" for one in compared)
    warning = quality_warning(table)
    text += "" if warning is None else f"\n**Warning.** {warning}\n"
    write_whole(run.folder / "results.md", text)
    return text


def results_table(table: list[Row], origin: str = "") -> str:
    """Markdown: one row per model, costs also as shares of the first row's. A column that is empty in every row is
    left out.

    Args:
        table (`list[dict]`): `name`, `params`, `macs`, `top1`, `top5` (or None) each; `latency` and `throughput` where
            they were measured.
        origin (`str`): Said of the original, if it is no published checkpoint.
    """
    batch = next((row["throughput"]["batch_size"] for row in table if "throughput" in row), None)
    columns = {
        "model": [
            f"{row['name']} ({origin})" if origin and row["name"] == "original" else row["name"] for row in table
        ],
        "parameters": [f"{row['params']:,} ({row['params'] / table[0]['params']:.0%})" for row in table],
        "GMACs": [f"{row['macs'] / 1e9:.4g} ({row['macs'] / table[0]['macs']:.0%})" for row in table],
    }
    for head, key in (("top-1", "top1"), ("top-5", "top5")):
        columns[head] = ["" if row[key] is None else f"{row[key]:.2%}" for row in table]
    columns["latency (1 image)"] = [tables.latency(row["latency"]) if "latency" in row else "" for row in table]
    columns[f"throughput ({batch} images)"] = [_throughput(row) for row in table]
    return tables.table(columns) + "\n"


def _throughput(row: Row) -> str:
    return f"{row['throughput']['images_per_second']:.0f} images/s" if "throughput" in row else ""


def speed_line(table: list[Row]) -> str:
    """What the cut is worth on this machine: the share of MACs that is left, and the speed, alone and in batches."""
    first, last = table[0], table[-1]
    if first is last or "latency" not in last:
        return ""
    return (
        f"\n{last['name']} against {first['name']}: {last['macs'] / first['macs']:.0%} of the MACs; "
        f"{tables.speed(last['latency']['ratio'])} on one image, "
        f"{tables.speed(last['throughput']['ratio'])} in batches of {last['throughput']['batch_size']}.\n"
    )


def budget_line(search: Mapping[str, Any] | None) -> str:
    """How the budget was met: by the search, or by cuts after it."""
    if search is None:
        return ""
    unit = {"macs": "MACs", "params": "parameters"}[search["budget_kind"]]
    line = f"\nBudget: {search['budget']:,} {unit}; found: {search[search['budget_kind']]:,}. "
    if "latency" in search:
        line += f"In time: {latency_line(search['latency'])}. "
    if "one_shot" in search:
        return line + f"Pruned at once: {one_shot_line(search['one_shot'])}.\n"
    if search["decided_by_search"]:
        return line + "The search decided every submodule and kept the budget.\n"
    if not search["enforced"]:
        return line + "The search kept it; submodules that were undecided at its end keep the size that they had.\n"
    return line + f"The search alone did not meet it: {len(search['enforced'])} cuts at its end did.\n"
