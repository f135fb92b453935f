"""The report of an OFB run: accuracy and cost of original, searched and retrained model, and how fast they are."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from tqdm.auto import tqdm

from .. import __version__
from ..classification import evaluate_classifier
from ..elastic.cost import count_macs, count_parameters
from ..files import fingerprint, write_json
from ..measure import compare_latency, example_inputs, hardware
from .costs import run_costs
from .folder import image_counts
from .journal import Journal
from .ofb_context import OfbRun
from .runner import on_main_process


Row = dict[str, Any]
Models = Mapping[str, Any]


def models_of(run: OfbRun) -> dict[str, Any]:
    """What is evaluated: the original, the model as it came out of the search, and the retrained one, if there."""
    args, models = run.recipe.evaluate, {}
    if args.original is not None:
        models["original"] = run.with_labels(run.load(args.original))
    elif not run.recipe.model.new_labels:  # an untrained head has no accuracy to speak of
        models["original"] = run.original()
    for name in ("searched", "finetuned"):
        if run.has_model(name):
            models[name] = run.load(run.folder / name)
    if not models:
        raise ValueError(f"There is nothing to evaluate in {run.folder} yet: `model.new_labels` needs `ofb finetune`.")
    return models


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
        table.append({"name": name, **cost, **results[keys[name]], "weights": prints[name]})
    return table


def _accuracy(run: OfbRun, model: Any) -> dict[str, Any]:
    return asdict(evaluate_classifier(model, run.eval_loader))


def evaluate(run: OfbRun) -> None:
    """`results.json`, `results.md`: accuracy and cost of what the run has so far."""
    table = evaluated(run, models_of(run), "evaluate")
    on_main_process(run, lambda run: _write(run, table))


def report(run: OfbRun) -> None:
    """As [`evaluate`], with latency and throughput."""
    models = models_of(run)
    table = evaluated(run, models, "report")
    on_main_process(run, lambda run: _report(run, table, models))


def _report(run: OfbRun, table: list[Row], models: Models) -> None:
    if run.recipe.measure.enabled:
        add_speed(run, table, models)
    _write(run, table)


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


def _write(run: OfbRun, table: list[Row]) -> None:
    run.meter.flush()  # the costs below hold this stage's own, so far
    found = run.folder / "search.json"
    results: dict[str, Any] = {
        "recipe": asdict(run.recipe),
        "hardware": hardware(run.state.device),
        "versions": {"supersam_hf": __version__},
        "data": image_counts(run.train_loader.dataset, run.eval_loader.dataset),
        "rows": table,
        "costs": run_costs(run.folder),
        "search": json.loads(found.read_text()) if found.exists() else None,
    }
    write_json(run.folder / "results.json", results)
    text = results_table(table, "trained here" if run.recipe.pretrain.enabled else "")
    text += speed_line(table) + budget_line(results["search"])
    (run.folder / "results.md").write_text(text)
    print(text)


def results_table(table: list[Row], origin: str = "") -> str:
    """Markdown: one row a model, costs and speeds also as shares of the first row's.

    Args:
        table (`list[dict]`): `name`, `params`, `macs`, `top1`, `top5` (or None) each; `latency` and `throughput` where
            they were measured.
        origin (`str`): Said of the original, if it is no published checkpoint.
    """
    batch = next((row["throughput"]["batch_size"] for row in table if "throughput" in row), None)
    lines = [
        "| model | parameters | GMACs | top-1 | top-5 | latency (1 image) | throughput"
        + (" |" if batch is None else f" ({batch} images) |"),
        "|---|---|---|---|---|---|---|",
        *(_line(row, table[0], origin) for row in table),
    ]
    return "\n".join(lines) + "\n"


def _line(row: Row, first: Row, origin: str) -> str:
    name = f"{row['name']} ({origin})" if origin and row["name"] == "original" else row["name"]
    costs = [f"{row['params']:,} ({row['params'] / first['params']:.0%})"]
    costs += [f"{row['macs'] / 1e9:.4g} ({row['macs'] / first['macs']:.0%})"]
    accuracies = ["" if row[key] is None else f"{row[key]:.2%}" for key in ("top1", "top5")]
    return "| " + " | ".join([name, *costs, *accuracies, _latency(row), _throughput(row)]) + " |"


def _latency(row: Row) -> str:
    if "latency" not in row:
        return ""
    timing = row["latency"]["latency"]
    return f"{timing['median_ms']:.1f} ms ({timing['p10_ms']:.1f} to {timing['p90_ms']:.1f})"


def _throughput(row: Row) -> str:
    return f"{row['throughput']['images_per_second']:.0f} images/s" if "throughput" in row else ""


def speed_line(table: list[Row]) -> str:
    """What the cut is worth on this machine: MACs, latency and throughput, each as how many times less or more."""
    first, last = table[0], table[-1]
    if first is last or "latency" not in last:
        return ""
    return (
        f"\n{last['name']} beside {first['name']}: {first['macs'] / last['macs']:.2f}× fewer MACs, "
        f"{1 / last['latency']['ratio']:.2f}× the speed on one image, "
        f"{1 / last['throughput']['ratio']:.2f}× the throughput at {last['throughput']['batch_size']} images.\n"
    )


def budget_line(search: Mapping[str, Any] | None) -> str:
    """How the budget was met: by the search, or by cuts after it."""
    if search is None:
        return ""
    unit = {"macs": "MACs", "params": "parameters"}[search["budget_kind"]]
    line = f"\nBudget: {search['budget']:,} {unit}; found: {search[search['budget_kind']]:,}. "
    if search["decided_by_search"]:
        return line + "The search decided every submodule and kept the budget.\n"
    if not search["enforced"]:
        return line + "The search kept it; submodules that were undecided at its end keep the size that they had.\n"
    return line + f"The search alone did not meet it: {len(search['enforced'])} cuts at its end did.\n"
