"""What an experiment ends in: its numbers, its table, its figure."""

import csv
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..files import write_json, write_whole
from ..measure import hardware
from .arguments import ExperimentArguments
from .runs import ExperimentRuns


@dataclass(frozen=True)
class Comparison:
    """What a table or figure of the paper was made into.

    Args:
        results (`dict`): All numbers, as plain data.
        rows (`list[dict]`): Those of the single runs, flat: the lines of `table.csv`.
        table (`str`): Markdown.
        draw (`Callable`): Writes the figure to a path.
    """

    results: dict[str, Any]
    rows: list[dict[str, Any]]
    table: str
    draw: Callable[[Path], Path]


def write_comparison(runs: ExperimentRuns, comparison: Comparison, device: Any) -> Path:
    """`table.md`, `table.csv`, `figure.png` and `experiment.json`, in a folder named after the kind."""
    args = runs.args
    folder = runs.folder / args.kind
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "table.md", comparison.table)
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(comparison.rows[0]), restval="")
        writer.writeheader()
        writer.writerows(comparison.rows)
    comparison.draw(folder / "figure.png")
    written = {"experiment": asdict(args), "recipes": _recipes(runs, args), "hardware": hardware(device)}
    written |= {"versions": {"supersam_hf": __version__}, "results": comparison.results}
    write_json(folder / "experiment.json", written)
    return folder


def _recipes(runs: ExperimentRuns, args: ExperimentArguments) -> dict[str, Any]:
    """Every value of every variant, as run with the first seed."""
    return {variant: asdict(runs.recipe(variant, args.seeds[0])) for variant in args.variants}


__all__ = ["Comparison", "write_comparison"]
