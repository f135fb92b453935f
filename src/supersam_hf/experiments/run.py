"""An experiment from end to end: its runs, then what they show."""

from collections.abc import Callable
from pathlib import Path

from accelerate import PartialState

from .arguments import ExperimentArguments
from .comparison import Comparison, write_comparison
from .fig3 import compare_fig3
from .runs import ExperimentRuns
from .supernets import compare_fig4, compare_fig5
from .table1 import check_table1, compare_table1


COMPARE: dict[str, Callable[[ExperimentRuns], Comparison]] = {
    "table1_reordering": compare_table1,
    "fig3_layers": compare_fig3,
    "fig4_pareto": compare_fig4,
    "fig5_structured_vs_windows": compare_fig5,
}


def run_experiment(args: ExperimentArguments, output_dir: Path | str) -> Path:
    """Runs what is not done yet, and writes table, figure and numbers to `output_dir/<kind>`; returns that folder.

    Raises:
        ValueError: If a value is wrong, or a run in the folder was made with other values.
    """
    runs = ExperimentRuns(args, Path(output_dir))
    if args.kind == "table1_reordering":
        check_table1(runs.recipe(next(iter(args.variants)), args.seeds[0]))
    if args.kind == "fig3_layers" and len(args.variants) != 1:
        raise ValueError(f"`variants` of fig3_layers must be one, got {[*args.variants]}.")
    runs.run_all()
    state = PartialState()
    folder = runs.folder / args.kind
    if state.is_main_process:
        comparison = COMPARE[args.kind](runs)
        folder = write_comparison(runs, comparison, state.device)
        print(f"{comparison.table}\n{folder}: table.md, table.csv, figure.png, experiment.json")
    state.wait_for_everyone()
    return folder


__all__ = ["run_experiment"]
