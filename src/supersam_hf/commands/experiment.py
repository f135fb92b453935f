"""`supersam-hf experiment`: a table or figure of the paper, from any data and checkpoint."""

import sys
from pathlib import Path

from ..fields import place
from .parser import CommandParser


def parser() -> CommandParser:
    """Its arguments."""
    parser = CommandParser(
        prog="supersam-hf experiment",
        description="Run every variant of an experiment with every seed, each an ordinary run that goes on where it "
        "was interrupted, and make the paper's table or figure of them.",
    )
    parser.add_argument("--config", type=place, required=True, metavar="FILE", help="recipe of the experiment (YAML)")
    parser.add_argument("--base", type=place, metavar="FILE", help="recipe that all runs share (YAML)")
    parser.add_argument(
        "--output_dir", type=place, required=True, metavar="DIR", help="folder of the runs and their results"
    )
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="in place of the experiment's own")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="values of the base in all runs (data.source=DIR), or in one variant (wanda:reorder.num_images=32)",
    )
    return parser


def main(argv: list[str]) -> int:
    """Runs the experiment; what is wrong with it is told without a traceback, by exit code 2."""
    values = parser().parse_args(argv)
    from ..experiments.arguments import ExperimentArguments
    from ..experiments.run import run_experiment
    from ..training.errors import TrainingError, explained

    try:
        args = ExperimentArguments.read(values.config)
        args.base = values.base or args.base
        args.seeds = values.seeds or args.seeds
        args.use(values.set)
        args.__post_init__()
        with explained():
            run_experiment(args, Path(values.output_dir))
    except (ValueError, OSError, TrainingError) as error:
        print(f"supersam-hf experiment: {error}", file=sys.stderr)
        return 2
    return 0
