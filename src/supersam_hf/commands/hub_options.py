"""Options of every verb that pushes to the Hub."""

import argparse


def add_hub_options(parser: argparse._ActionsContainer) -> None:
    """Adds `--private`, `--revision`, `--create_pr` and `--token` to a parser, or to a group of one."""
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--revision", help="branch to commit to, made if need be (main)")
    parser.add_argument("--create_pr", action="store_true", help="open a pull request instead")
    parser.add_argument("--token", help="with write access (that of `hf auth login`, or HF_TOKEN)")


def add_include(parser: argparse._ActionsContainer) -> None:
    """Adds `--include`."""
    help_text = "more files of the folder to send; hidden ones and pickles never are"
    parser.add_argument("--include", nargs="+", default=[], metavar="FILE", help=help_text)
