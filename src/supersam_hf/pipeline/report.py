"""Evaluation before and after training, and the report of a run: table, Pareto plot, overlays."""

import csv
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

import torch
from tqdm.auto import tqdm

from .. import __version__
from ..elastic.cost import count_macs, count_parameters
from ..evaluation import SubnetEvaluator, box_baseline
from ..files import fingerprint, read_json, write_json, write_whole
from ..hub import tables
from ..measure import compare_latency, example_inputs, hardware
from ..models.supersam import Subnet, SuperSamModel
from ..plots import plot_overlays, plot_pareto
from ..search.pareto import named_front
from ..training.milestone import read_milestone
from .agreement import AGREEMENT, EXPLAINED
from .budget import limits_of
from .comparisons import differences
from .context import Run, stands_alone
from .costs import run_costs
from .journal import TOGETHER, Journal
from .overlays import overlay_samples
from .quality import quality_warning
from .run_record import known_images
from .runner import on_main_process


Row = dict[str, Any]
Entry = tuple[SuperSamModel, Subnet | None]
# with or without the three-mask output
Asked = tuple[SuperSamModel, Subnet | None, bool]
RECOVERED = "found + recovery"
NAMED = ("original", "largest", "smallest", "found", RECOVERED)
PARETO = "pareto-"
# Each point that is timed makes every round longer, and all of them are in memory at once.
TIMED_PARETO = 8


def entries(run: Run, supernet: SuperSamModel) -> dict[str, Entry]:
    """What is evaluated: the original always, then the supernet's largest, smallest, sampled and listed subnets; of an
    extracted subnet, itself."""
    args = run.recipe.evaluate
    original = run.original() if args.original is None else run.load(args.original)
    rows: dict[str, Entry] = {"original": (original, None)}
    if stands_alone(supernet.config):
        # An extracted subnet has no subnets of its own.
        return rows if args.original is None else rows | {"found": (supernet, None)}
    space, generator = run.space(supernet), torch.Generator().manual_seed(args.seed)
    rows |= {"largest": (supernet, space.largest()), "smallest": (supernet, space.smallest())}
    limits = limits_of(supernet.config, space, run.recipe.search.budget)
    draw = space.sample if limits is None else limits.sample
    rows |= {f"sampled {i + 1}": (supernet, draw(generator)) for i in range(args.num_sampled)}
    return rows | {file: (supernet, run.subnet(file, space)) for file in args.subnets}


def pareto_entries(run: Run, supernet: SuperSamModel) -> dict[str, Entry]:
    """The search's Pareto front, `pareto-0` with the fewest parameters; none before a search or if switched off."""
    search_file = run.folder / "search.json"
    if not run.recipe.evaluate.pareto or stands_alone(supernet.config) or not search_file.exists():
        return {}
    front = read_json(search_file)["front"]
    return {name: (supernet, Subnet.from_dict(point["subnet"])) for name, point in named_front(front).items()}


def evaluated(run: Run, rows: Mapping[str, Entry], journal_name: str) -> list[Row]:
    """mIoU and cost of each entry on the evaluation split, entries a process; goes on where it was interrupted."""
    prints = {id(model): fingerprint(model) for model, _ in rows.values()}
    unlabelled = run.recipe.data.unlabelled
    if unlabelled:
        _ = run.eval_loader  # by all processes: the original's masks are made by all of them
    context = {**run.recipe.parts("data.eval"), "multimask": run.recipe.evaluate.multimask}
    journal = Journal(run.folder / "evaluation" / f"{journal_name}.jsonl", context, run.state)
    table, keys = [], []
    asked: dict[str, Asked] = {}
    for name, (model, subnet) in rows.items():
        # The truth of pictures without labels is the original's single mask.
        multimask = run.recipe.evaluate.multimask and not unlabelled and _kind(name) not in ("sampled", "pareto")
        keys.append(f"{prints[id(model)]} {'all' if subnet is None else subnet.to_json()} {multimask}")
        asked[keys[-1]] = (model, subnet, multimask)
    with tqdm(total=len(asked), desc=journal_name, unit="model", disable=not run.state.is_main_process) as bar:
        results = journal.get_groups(asked, _qualities(run), TOGETHER, bar.update)
    for key, (name, (model, subnet)) in zip(keys, rows.items()):
        table.append(
            {
                "name": name,
                "kind": _kind(name),
                "params": count_parameters(model.config, subnet),
                "params_weights_only": count_parameters(model.config, subnet, weights_only=True),
                "macs": count_macs(model.config, subnet),
                **results[key],
                "subnet": None if subnet is None else subnet.to_dict(),
                "weights": prints[id(model)],
            }
        )
    return table


def _qualities(run: Run) -> Callable[[Sequence[Asked]], list[Row]]:
    """Evaluates several entries, those of one model that lie together at once."""
    evaluator: SubnetEvaluator | None = None

    def qualities(group: Sequence[Asked]) -> list[Row]:
        nonlocal evaluator
        found: list[Row] = []
        for (_, multimask), same in groupby(group, key=lambda asked: (id(asked[0]), asked[2])):
            models, subnets, _ = zip(*same)
            # one at a time: what another keeps is dropped
            if evaluator is None or evaluator.model is not models[0]:
                evaluator = SubnetEvaluator(models[0], run.eval_loader, cache_gb=run.recipe.cache_gb)
            found += [asdict(result) for result in evaluator.results(subnets, multimask=multimask)]
        return found

    return qualities


def _kind(name: str) -> str:
    """How a row is shown; a subnet that the user listed is a trial of theirs, not one of the sampled."""
    if re.fullmatch(rf"{PARETO}\d+", name):
        return "pareto"
    return name if name in NAMED else "sampled" if re.fullmatch(r"sampled \d+", name) else "trial"


def evaluate_before(run: Run) -> None:
    """`evaluation_before.json`: the original, and the subnets of the reordered model before any training."""
    table = evaluated(run, entries(run, run.untrained()), "before")
    on_main_process(run, lambda run: write_json(run.folder / "evaluation_before.json", _without_images(table)))


def network(run: Run) -> SuperSamModel:
    """What the run evaluates beside the original: its supernet, or the network that it pruned at once."""
    once = run.recipe.method == "one-shot" and run.has_model("subnet")
    return run.found() if once else run.supernet()


def evaluate(run: Run) -> None:
    """`results.json`, `results.csv`, `results.md`, `pareto.png` of the supernet as it stands."""
    supernet = network(run)
    table = evaluated(run, entries(run, supernet) | pareto_entries(run, supernet), "evaluate")
    on_main_process(run, lambda run: _write(run, table, before=[]))


def report(run: Run) -> None:
    """As [`evaluate`], with the extracted subnet, what training changed, latencies, and overlays to look at."""
    before_file = run.folder / "evaluation_before.json"
    before = read_json(before_file) if before_file.exists() else []
    supernet, found = network(run), run.found()
    # The found one is loaded from its folder, as a stranger would, not taken from the supernet in memory.
    rows = entries(run, supernet) | pareto_entries(run, supernet) | {"found": (found, None)}
    if run.has_model("recovered"):
        rows[RECOVERED] = (run.load(run.folder / "recovered"), None)
    if before:
        config: Any = found.config
        untrained = (run.untrained(), Subnet.from_dict(config.subnet))
        before += evaluated(run, {"found": untrained}, "report")
    table = evaluated(run, rows, "report")
    on_main_process(run, lambda run: _report(run, table, before, rows))


def _report(run: Run, table: list[Row], before: list[Row], rows: Mapping[str, Entry]) -> None:
    if run.recipe.measure.enabled:
        _write_numbers(run, table, before)  # what timing ends, or kills, has cost more than it
        _add_latencies(run, table, rows)
    _write(run, table, before)
    models = {name: rows[name] for name in ("original", "found", RECOVERED) if name in rows}
    samples = overlay_samples(run.eval_loader.dataset, models, run.processor.image_processor, count=4)
    plot_overlays(samples, run.folder / "overlays.png", list(models))


def _add_latencies(run: Run, table: list[Row], rows: Mapping[str, Entry]) -> None:
    """Times the named models and at most 8 Pareto points, evenly chosen, side by side, extracted, in interleaved
    rounds."""
    args = run.recipe.measure

    def forward(model: SuperSamModel, subnet: Subnet | None) -> Any:
        model = model if subnet is None else model.extract(subnet).eval()
        inputs = example_inputs(model, args.batch_size)
        return torch.inference_mode()(lambda: model(**inputs))

    points = [name for name in rows if _kind(name) == "pareto"]
    chosen = torch.linspace(0, len(points) - 1, min(len(points), TIMED_PARETO)).round().int().tolist()
    names = [*(name for name in NAMED if name in rows), *(points[i] for i in chosen)]
    forwards = {name: forward(*rows[name]) for name in names}
    timed = compare_latency(forwards, args.repeats, warmup=args.warmup, device=run.state.device)
    for row in table:
        if row["name"] in timed:
            row["latency_ms"] = timed[row["name"]].latency.median_ms
            row["latency"] = {**asdict(timed[row["name"]]), "batch_size": args.batch_size}


def _write(run: Run, table: list[Row], before: list[Row]) -> None:
    """The numbers first, then what is made of them: nothing that was computed is lost where a figure fails."""
    _write_numbers(run, table, before)
    origin, unlabelled = "trained here" if run.recipe.pretrain.enabled else "", run.recipe.data.unlabelled
    text = results_table(table, before, origin, labelled=not unlabelled)
    warning = quality_warning(table)
    if warning is not None:
        text += f"\n**Warning.** {warning.replace('mIoU', AGREEMENT) if unlabelled else warning}\n"
    write_whole(run.folder / "results.md", text)
    if compared := differences(table):
        text += "\n" + "".join(f"- {one.text()}\n" for one in compared)
        write_whole(run.folder / "results.md", text)
    if run.recipe.data.prompt == "box":
        text += f"\nFilling the prompt box, for comparison: mIoU {box_baseline(run.eval_loader):.4f}.\n"
        write_whole(run.folder / "results.md", text)
    print(text)
    untrained = [{**row, "kind": "before"} for row in before if row["kind"] != "original"]
    drawn, quality = [*table, *untrained], "miou"
    if run.recipe.data.unlabelled:
        drawn, quality = [{**row, "agreement": row["miou"]} for row in drawn], "agreement"
    plot_pareto(drawn, run.folder / "pareto.png", y=quality)


def _write_numbers(run: Run, table: list[Row], before: list[Row]) -> None:
    """`results.json` and `results.csv`."""
    run.meter.flush()  # the costs below hold this stage's own, so far
    results: dict[str, Any] = {"recipe": asdict(run.recipe), "hardware": hardware(run.state.device)}
    results |= {"versions": {"supersam_hf": __version__}, "data": known_images(run)}
    results |= {"rows": _without_images(table), "before": _without_images(before)}
    results["differences"] = [asdict(one) | {"beyond": one.beyond, "text": one.text()} for one in differences(table)]
    results |= {"costs": run_costs(run.folder), "milestone": read_milestone(run.folder / "milestone.json")}
    write_json(run.folder / "results.json", results)
    keys = [key for key in table[0] if key not in ("latency", "subnet", "weights", "images")]
    with (run.folder / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, keys, extrasaction="ignore", restval="")
        writer.writeheader()
        writer.writerows(table)


def _without_images(table: list[Row]) -> list[Row]:
    """The rows without what each image had, which the journal of the evaluation keeps."""
    return [{key: value for key, value in row.items() if key != "images"} for row in table]


def results_table(table: list[Row], before: list[Row], origin: str = "", labelled: bool = True) -> str:
    """Markdown: the named rows, and the sampled ones as mean ± standard deviation over subnets. A column that is empty
    in every row is left out; what the others mean stands below them. Without labels qualities are agreements."""
    was = {row["name"]: row["miou"] for row in before if row["kind"] != "original"}
    original = next(row for row in table if row["kind"] == "original")
    rows = [_cells(row, was.get(row["name"]), original, origin) for row in table if row["kind"] != "sampled"]
    sampled = [row for row in table if row["kind"] == "sampled"]
    drawn = [row.get("subnet") for row in sampled]
    now = [row["miou"] for row in sampled]
    then = [row["miou"] for row in before if row["kind"] == "sampled" and row.get("subnet") in drawn]
    if len(now) > 1:
        rows.append(
            {"model": f"{len(now)} sampled (mean ± sd)", "mIoU": _spread(now), "before training": _spread(then)}
        )
    columns = {name: [row.get(name, "") for row in rows] for name in COLUMNS}
    shown = [f"*{name}*: {text}" for name, text in COLUMNS.items() if text and any(columns[name])]
    text = tables.table(columns) + "\n" + (f"\n{'; '.join(shown)}.\n" if shown else "")
    return text if labelled else f"{text.replace('mIoU', 'agreement')}\n{EXPLAINED}\n"


# What is not said by its name.
COLUMNS = {
    "model": "",
    "parameters": "",
    "GMACs (encoder)": "",
    "mIoU": "",
    "before training": "mIoU of the same subnet before the supernet was trained",
    "best of 3": "mIoU of the best of the three masks that SAM offers for a prompt",
    "predicted pick": "mIoU of the one of them that the model itself ranks highest",
    "latency": "median, in brackets the 10th to 90th percentile",
    "speed": "against the original",
}


def _cells(row: Row, was: float | None, original: Row, origin: str) -> dict[str, str]:
    """A row of the table by its columns."""
    numbers = {"mIoU": row["miou"], "before training": was}
    numbers |= {"best of 3": row["miou_oracle"], "predicted pick": row["miou_predicted"]}
    cells = {name: "" if value is None else f"{value:.4f}" for name, value in numbers.items()}
    cells["model"] = f"{row['name']} ({origin})" if origin and row["kind"] == "original" else row["name"]
    cells["parameters"] = f"{row['params']:,} ({row['params'] / original['params']:.0%})"
    cells["GMACs (encoder)"] = f"{row['macs'] / 1e9:.3f}"
    if "latency" in row:
        cells["latency"] = tables.latency(row["latency"])
        cells["speed"] = "" if row["kind"] == "original" else tables.speed(row["latency"]["ratio"])
    return cells


def _spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
