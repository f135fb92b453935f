"""`supersam-hf report`: a run on one page, also while it is going or after it was killed."""

import sys

from ..fields import place
from .parser import CommandParser


def parser() -> CommandParser:
    """Its arguments."""
    parser = CommandParser(
        prog="supersam-hf report",
        description="Write a run on one HTML page: what was found, figures, costs, versions; of either method.",
    )
    parser.add_argument("run", type=place, help="folder of a run, finished or not")
    parser.add_argument("--output", type=place, help="the file (default: report.html in that folder)")
    return parser


def main(argv: list[str]) -> int:
    """Writes the page; returns the exit code."""
    args = parser().parse_args(argv)
    from ..pipeline.page import write_page

    try:
        print(f"wrote {write_page(args.run, args.output)}")
    except (ValueError, OSError) as error:
        print(f"supersam-hf report: {error}", file=sys.stderr)
        return 2
    return 0
