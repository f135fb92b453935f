"""Tries every way in that an outsider has, on the installed package, and tells what each came to.

    python benchmarks/attack.py --output benchmarks/results/attack     # all ways, a few minutes
    python benchmarks/attack.py --only push_folder report_output       # some
    PYTHONPATH=OTHER/src python benchmarks/attack.py                    # another version of the package

Each way is an input as a stranger could hand it over (a run's folder, a dataset, a model, a recipe) and the commands
that a user would run on it, in a scratch folder of its own. Beside it lie files that are nobody's business. The way
got in if one of these was changed, or read into what is written or sent, if code of the input was run, or if a command
went on past its time or its memory. Everything is made here, nothing is downloaded, and what is pushed goes to a Hub
on loopback. Ends with 1 if any way got in, with 2 if the package or a way does not work here.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "tests")]

from attack_place import Command, GotIn, Place, Skipped  # noqa: E402
from attack_ways import CONTROLS, WAYS  # noqa: E402


@dataclass
class Outcome:
    """What a way came to; `ok` is "yes" if it did not get in, "NO" if it did, "?" if it could not be tried."""

    name: str
    what: str
    outcome: str
    ok: str
    seconds: float


def attempt(name: str, way: Any, root: Path, *, in_process: bool = False, hub: Any = None) -> Outcome:
    """Tries a way in; whatever happens is told."""
    place, began = Place(root, in_process, hub), time.monotonic()
    got: str | None = None
    untried: str | None = None
    try:
        way(place)
    except GotIn as error:
        got = str(error)
    except Skipped as error:
        untried = f"not tried: {error}"
    except Exception as error:  # a way that breaks says so, and the others go on
        untried = f"the script failed: {type(error).__name__}: {error}"
    got = place.break_in() or got
    text = f"GOT IN: {got}" if got else untried or told(place.commands)
    ok = "NO" if got else "?" if untried else "yes"
    return Outcome(name, (way.__doc__ or "").strip().splitlines()[0], text, ok, round(time.monotonic() - began, 1))


def told(commands: list[Command]) -> str:
    """How the last command that did not succeed put it, in short."""
    failed = next((done for done in reversed(commands) if done.code), None)
    if failed is None:
        return "nothing touched"
    lines = [line for line in failed.err.strip().splitlines() if line.strip()] or ["no message"]
    if "Traceback (most recent call last)" in failed.err:
        return f"traceback: {lines[-1][:150]}"
    said = next((line for line in lines if line.startswith("supersam-hf")), lines[-1])
    return f"refused: {said[:200]}"


def table(outcomes: list[Outcome]) -> str:
    """Markdown: a line a way."""
    lines = ["| way | outcome | s | ok |", "|---|---|---|---|"]
    for each in outcomes:
        said = " ".join(each.outcome.split()).replace("|", "/").replace("<", "&lt;")
        lines.append(f"| {each.name}: {each.what} | {said} | {each.seconds:.0f} | {each.ok} |")
    counts = {ok: sum(each.ok == ok for each in outcomes) for ok in ("NO", "?")}
    summary = f"{len(outcomes)} ways, {counts['NO']} got in, {counts['?']} could not be tried."
    return "\n".join([*lines, "", summary]) + "\n"


def works(scratch: Path) -> bool:
    """Whether the package does here what the ways are tricks on: if not, all would be "refused"."""
    for name, way in CONTROLS.items():
        control = attempt(name, way, scratch / name)
        if control.outcome != "nothing touched":
            print(f"{control.what}: {control.outcome}. The package does not work here.", file=sys.stderr)
            return False
    return True


def tried(names: list[str], scratch: Path) -> list[Outcome]:
    """The ways of these names, one after the other."""
    outcomes = []
    for name in names:
        outcomes.append(attempt(name, WAYS[name], scratch / name))
        print(f"{outcomes[-1].ok:>3} {name}: {outcomes[-1].outcome}", file=sys.stderr, flush=True)
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="folder for attack.md and attack.json")
    parser.add_argument("--only", nargs="+", choices=sorted(WAYS), metavar="WAY", help=f"of: {', '.join(WAYS)}")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="scratch folder, which then stays")
    args = parser.parse_args()
    scratch = Path(args.keep or tempfile.mkdtemp(prefix="supersam-attack-")).resolve()
    try:
        if not works(scratch):
            return 2
        outcomes = tried(args.only or list(WAYS), scratch)
    finally:
        if args.keep is None:
            shutil.rmtree(scratch, ignore_errors=True)
    print(table(outcomes))
    if args.output is not None:
        args.output.mkdir(parents=True, exist_ok=True)
        (args.output / "attack.md").write_text(table(outcomes))
        (args.output / "attack.json").write_text(json.dumps([vars(each) for each in outcomes], indent=2) + "\n")
    found = {each.ok for each in outcomes}
    return 1 if "NO" in found else 2 if "?" in found else 0


if __name__ == "__main__":
    sys.exit(main())
