"""SuperSAM, Table I: what the smallest subnet costs to reach a target mIoU, by reordering."""

import json
from functools import partial
from typing import Any

from ..escape import figure, prose
from ..files import whole_lines
from ..plots.experiments import plot_milestones
from ..recipe import Recipe
from ..training.milestone import read_milestone
from .comparison import Comparison
from .runs import ExperimentRuns
from .statistics import Spread, markdown, over_seeds


# Columns: key in the record of a milestone, the table's unit in that of the record, title, format.
COSTS = (
    ("iterations", 1.0, "iterations", "{:,.0f}"),
    ("images", 1.0, "images", "{:,.0f}"),
    ("energy_kwh", 1.0, "energy (kWh)", "{:.3g}"),
    ("seconds", 3600.0, "time (h)", "{:.3g}"),
    ("emissions_kg", 1.0, "carbon (kg CO2e)", "{:.3g}"),
)
TITLES = {key: title for key, _, title, _ in COSTS}


def check_table1(recipe: Recipe) -> None:
    """Raises `ValueError` where nothing says what is to be reached, or training would end there."""
    milestone = recipe.train.milestone
    if milestone is None:
        raise ValueError(
            "`train.milestone` is null: Table I compares what it takes to reach one. Give for example "
            "`--set train.milestone.miou=0.7 train.eval_steps=50`."
        )


def compare_table1(runs: ExperimentRuns) -> Comparison:
    """Iterations, images, electricity, time and carbon until the milestone, over seeds; what never reached it is
    said, and left out of the means."""
    args = runs.args
    recipe = runs.recipe(next(iter(args.variants)), args.seeds[0])
    milestone = recipe.train.milestone
    assert milestone is not None
    reached = {
        variant: [_reached(runs, variant, seed, milestone.subnet) for seed in args.seeds] for variant in args.variants
    }
    summary = {variant: _summary(records) for variant, records in reached.items()}
    rows = [record for records in reached.values() for record in records]
    header = ["reordering", f"reached {milestone.miou:g}", *(title for _, _, title, _ in COSTS), "best mIoU"]
    lines = [[prose(args.label(v)), *_line(reached[v], summary[v], recipe.train.max_steps)] for v in args.variants]
    title = f"The {milestone.subnet} subnet to a mIoU of {milestone.miou:g} on the holdout, evaluated every "
    title += f"{recipe.train.eval_steps} of {recipe.train.max_steps} steps; {over_seeds(args.seeds)}.\n\n"
    results: dict[str, Any] = {
        "target": milestone.miou,
        "subnet": milestone.subnet,
        "max_steps": recipe.train.max_steps,
    }
    results |= {"runs": rows, "summary": {v: {k: vars(s) for k, s in summary[v].items()} for v in summary}}
    names = {variant: _bar_name(figure(args.label(variant)), records) for variant, records in reached.items()}
    bars = {names[variant]: {TITLES[k]: s for k, s in summary[variant].items()} for variant in summary}
    return Comparison(results, rows, title + markdown(header, lines), partial(plot_milestones, bars))


def _reached(runs: ExperimentRuns, variant: str, seed: int, subnet: str) -> dict[str, Any]:
    """One run: the record of its milestone, empty where it was not reached, and the best mIoU that it came to."""
    folder = runs.path(variant, seed)
    record = read_milestone(folder / "milestone.json")
    log = [json.loads(line) for line in whole_lines(folder / "train" / "log.jsonl")]
    mious = [line[f"miou_{subnet}"] for line in log if f"miou_{subnet}" in line]
    found: dict[str, Any] = {"variant": variant, "seed": seed, "reached": record is not None, "best_miou": max(mious)}
    for key, unit, _, _ in COSTS:
        known = record is not None and record[key] is not None
        found[key] = record[key] / unit if known else None
    if record is not None:
        # What a killed run did twice is in its cost, but not in the count of iterations that the table is about.
        found["iterations"] = record["step"]
    return found


def _summary(records: list[dict[str, Any]]) -> dict[str, Spread]:
    """Over the seeds that reached it, where the number is known for all of these."""
    found = [record for record in records if record["reached"]]
    keys = [key for key, *_ in COSTS if found and all(record[key] is not None for record in found)]
    return {key: Spread.of([record[key] for record in found]) for key in keys}


def _bar_name(label: str, records: list[dict[str, Any]]) -> str:
    """With how many seeds are in the bar, where it is not all."""
    count = sum(record["reached"] for record in records)
    return label if count in (0, len(records)) else f"{label}\n({count} of {len(records)})"


def _line(records: list[dict[str, Any]], summary: dict[str, Spread], max_steps: int) -> list[str]:
    count = sum(record["reached"] for record in records)
    costs = [summary[key].text(form.format) if key in summary else "" for key, _, _, form in COSTS]
    if count == 0:
        costs[0] = f"not reached in {max_steps}"
    best = Spread.of([record["best_miou"] for record in records]).text("{:.4f}".format)
    return [f"{count} of {len(records)}", *costs, best]


__all__ = ["check_table1", "compare_table1"]
