"""Breaks configs, recipes, images, annotations and run folders in random ways, and tells how the package takes it.

    python benchmarks/fuzz.py --cases 10000 --seed 0 --output benchmarks/results/fuzz

Every case derives from (seed, kind, number), so that one can be run again alone: `--kinds recipes --only 17`. A case
ends as one of:

- right: taken, and what came of it is what should (another reading of the same truth, a type, a count);
- clear error: refused by a message that names the field or the file;
- traceback: any other exception, or a message that names nothing;
- silent nonsense: taken, and wrong;
- hang: longer than `--limit` seconds, or out of its memory;
- crash: the process died.

`cases.jsonl` in the output folder has a line a case; an interrupted run goes on after it. The table is in `fuzz.md`.
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
import signal
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fuzz_values import VERDICTS, Outcome


# Share of the cases.
KINDS = {"configs": 0.55, "recipes": 0.05, "images": 0.15, "annotations": 0.22, "folders": 0.03}
BAD = ("traceback", "silent nonsense", "hang", "crash")
MEMORY_BYTES = 16 * 2**30
SHOWN = 12


class Hang(BaseException):
    """A case that takes too long. No `Exception`: nothing may handle it as one of its own."""


def run_case(maker: Any, seed: int, kind: str, number: int, limit: float, scratch: Path) -> dict[str, Any]:
    """One case: its record."""
    rng = random.Random(f"{seed} {kind} {number}")
    record: dict[str, Any] = {"kind": kind, "number": number, "what": ""}
    began = time.perf_counter()
    try:
        signal.setitimer(signal.ITIMER_REAL, limit)
        case = maker.make(rng, scratch)
        record["what"] = case.what
        outcome = case.run()
    except Hang:
        outcome = Outcome("hang", f"longer than {limit:g} s")
    except MemoryError:
        outcome = Outcome("hang", "out of memory")
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        outcome = Outcome("traceback", f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return record | asdict(outcome) | {"seconds": round(time.perf_counter() - began, 3)}


def work(kind: str, seed: int, limit: float, scratch: Path, pipe: Connection) -> None:
    """A process that runs the cases it is told the numbers of, one after the other."""

    def too_long(*_: Any) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, too_long)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Read as the client of the Hub is imported: a name that is no folder is asked of nobody.
    os.environ["HF_HUB_OFFLINE"] = "1"
    scratch = scratch / str(os.getpid())
    scratch.mkdir()
    os.chdir(scratch)
    maker = maker_of(kind, scratch)
    pipe.send("ready")
    while (number := pipe.recv()) is not None:
        record = run_case(maker, seed, kind, number, limit, scratch)
        record["detail"] = record["detail"][:400]
        pipe.send(record)


def maker_of(kind: str, scratch: Path) -> Any:
    """What makes the cases of a kind; imported in the process that runs them."""
    if kind == "configs":
        from fuzz_configs import ConfigCases

        return ConfigCases()
    if kind == "recipes":
        from fuzz_configs import RecipeCases

        return RecipeCases(scratch)
    import fuzz_data

    return {
        "images": fuzz_data.ImageCases,
        "annotations": fuzz_data.AnnotationCases,
        "folders": fuzz_data.FolderCases,
    }[kind](scratch)


class Worker:
    """A process of one kind of cases, begun again when it dies."""

    def __init__(self, kind: str, seed: int, limit: float, scratch: Path) -> None:
        self.arguments = (kind, seed, limit, scratch)
        self.limit = limit
        self.begin()

    def begin(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(*self.arguments, theirs), daemon=True)
        self.process.start()
        theirs.close()
        try:
            self.pipe.recv()
        except EOFError:
            raise SystemExit(f"the cases of {self.arguments[0]} could not be begun") from None

    def run(self, number: int) -> dict[str, Any]:
        """The record of a case. One that the alarm cannot end, as inside a C library, is killed."""
        record = {"kind": self.arguments[0], "number": number, "what": "", "seconds": 2 * self.limit}
        self.pipe.send(number)
        try:
            if self.pipe.poll(2 * self.limit):
                return self.pipe.recv()
            self.process.kill()
            verdict, detail = "hang", f"longer than {2 * self.limit:g} s, not to be interrupted"
        except (EOFError, ConnectionResetError):
            self.process.join()
            verdict, detail = "crash", f"exit code {self.process.exitcode}"
        self.begin()
        return record | {"verdict": verdict, "detail": detail}

    def end(self) -> None:
        self.pipe.send(None)
        self.process.join(10)
        self.process.kill()


def records_of(path: Path) -> list[dict[str, Any]]:
    """The cases that are done."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def run_kind(args: argparse.Namespace, kind: str, total: int, done: set[int]) -> Iterator[dict[str, Any]]:
    """The records of a kind's cases that are not done yet."""
    numbers = [n for n in (range(total) if args.only is None else [args.only]) if n not in done]
    if not numbers:
        return
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        worker = Worker(kind, args.seed, args.limit, Path(scratch))
        for count, number in enumerate(numbers, 1):
            yield worker.run(number)
            if count % 100 == 0:
                print(f"{kind}: {count} of {len(numbers)}", flush=True)
        worker.end()


def table(records: list[dict[str, Any]], before: list[dict[str, Any]]) -> str:
    """Markdown: verdicts a kind, now and before, and the commonest faults."""
    lines = ["| kind | cases | " + " | ".join(VERDICTS) + " |", "|---|---|" + "---|" * len(VERDICTS)]
    kinds = [kind for kind in KINDS if any(record["kind"] == kind for record in records)]
    for name, found in (("before", before), ("now", records)):
        for kind in (*kinds, "all") if found else ():
            counts = Counter(r["verdict"] for r in found if kind in (r["kind"], "all"))
            cells = " | ".join(f"{counts[verdict]:,}" for verdict in VERDICTS)
            lines.append(f"| {kind}, {name} | {sum(counts.values()):,} | {cells} |")
    faults = defaultdict(list)
    for record in records:
        if record["verdict"] in BAD:
            faults[record["kind"], record["verdict"], record["detail"].split("\n")[0][:100]].append(record)
    lines += ["", f"Faults now: {sum(map(len, faults.values()))}", ""]
    for (kind, verdict, detail), found in sorted(faults.items(), key=lambda item: -len(item[1]))[: 4 * SHOWN]:
        lines.append(
            f"- {len(found)} × {kind}, {verdict}: `{detail}`, as number {found[0]['number']}: {found[0]['what']}"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs the cases and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000, help="of all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--only", type=int, help="this number alone, of each kind")
    parser.add_argument("--limit", type=float, default=20.0, help="seconds that a case may take")
    parser.add_argument("--before", type=Path, help="a `cases.jsonl` to compare with")
    parser.add_argument("--output", type=Path, default=Path("runs/fuzz"))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    path = (args.output / "cases.jsonl").resolve()
    done = records_of(path) if args.only is None else []
    for kind in args.kinds:
        known = {record["number"] for record in done if record["kind"] == kind}
        for record in run_kind(args, kind, round(args.cases * KINDS[kind]), known):
            done.append(record)
            if args.only is not None:
                print(json.dumps(record, indent=2))
                continue
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
    if args.only is None:
        before = [] if args.before is None else records_of(args.before)
        (args.output / "fuzz.md").write_text(table(done, before), encoding="utf-8")
        print(table(done, before))


if __name__ == "__main__":
    main()
