"""Runs the benchmarks, each in a process of its own, and puts what they found into one table and one figure.

    python benchmarks/run.py [--only encoder train_step] [--quick] [--dtype fp32 bf16] [--output FOLDER]

Writes `NAME_DTYPE.json` each (`NAME.json` where no dtype matters), and `bench.md` and `bench.png` of all that lie in
the folder. One that fails is named there with its error, the others go on, and the exit code is 1.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common import DTYPES, cell

from supersam_hf.files import write_json, write_whole
from supersam_hf.plots import plot_benchmarks


SCRIPTS = Path(__file__).parent
RESULTS, QUICK_RESULTS = Path("benchmarks/results/bench"), Path("runs/bench-quick")
# Those of models run once a dtype, and are in the figure.
MODELS = ("encoder", "decoder", "train_step", "search", "ofb_step", "subnet_latency")
OTHERS = ("loader", "import_time")
HEADER = "| benchmark | dtype | what | ms | ratio (p10 to p90) | floor, ms | floor ÷ time | more |\n|" + "---|" * 8
TOLD = ("name", "ms", "ratio", "ratio_p10", "ratio_p90", "floor_ms")


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    folder = args.output or (QUICK_RESULTS if args.quick else RESULTS)
    folder.mkdir(parents=True, exist_ok=True)
    failed = False
    for name in args.only:
        for dtype in args.dtype if name in MODELS else [None]:
            print(f"\n{name} {dtype or ''}".rstrip(), flush=True)
            path = folder / (f"{name}_{dtype}.json" if dtype else f"{name}.json")
            error = run(name, _options(args, dtype), path, args.threads)
            if error is not None:
                failed = True
                write_json(path, {"benchmark": name, "dtype": dtype or "", "error": error})
            report(folder)
    return int(failed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = (*MODELS, *OTHERS)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--quick", action="store_true", help="tiny random models, few rounds: do they run at all?")
    parser.add_argument("--output", type=Path, help=f"folder (default: {RESULTS}; with --quick {QUICK_RESULTS})")
    parser.add_argument("--device", help="cpu, cuda or mps (default: a GPU where there is one)")
    parser.add_argument("--dtype", nargs="+", choices=list(DTYPES), default=list(DTYPES), help="default: both")
    parser.add_argument("--threads", type=int, help="that torch uses for one operation (default: its own choice)")
    return parser


def _options(args: argparse.Namespace, dtype: str | None) -> list[str]:
    values = {"--dtype": dtype, "--device": args.device, "--threads": args.threads}
    given = [text for name, value in values.items() if value is not None for text in (name, str(value))]
    return [*given, "--quick"] if args.quick else given


def run(name: str, options: Sequence[str], path: Path, threads: int | None) -> str | None:
    """Runs a benchmark, which writes `path`; returns its error if it did not."""
    script = SCRIPTS / f"{name}.py"
    path.unlink(missing_ok=True)  # of an earlier run
    if not script.exists():
        return f"there is no {script.name}"
    # before torch is imported: pools of other libraries do not ask torch
    env = os.environ if threads is None else {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, str(script), *options, "--output", str(path)]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=env)
    print(ended.stderr, file=sys.stderr, end="")
    if ended.returncode < 0:
        return f"ended by {signal.Signals(-ended.returncode).name}"
    if ended.returncode:
        said = ended.stderr.strip().splitlines()
        return said[-1] if said else f"exit code {ended.returncode}"
    return None if path.exists() else "wrote no result"


def report(folder: Path) -> None:
    """Writes `bench.md` and `bench.png` of the results that lie in the folder."""
    results = [json.loads(path.read_text()) for path in _result_files(folder)]
    write_whole(folder / "bench.md", "\n".join(markdown(results)) + "\n")
    compared = [
        result
        for result in results
        if result["benchmark"] in MODELS and any(row.get("ratio") is not None for row in result.get("rows", []))
    ]
    if compared:
        plot_benchmarks(compared, folder / "bench.png")


def _result_files(folder: Path) -> Iterator[Path]:
    for name in (*MODELS, *OTHERS):
        for stem in (*(f"{name}_{dtype}" for dtype in DTYPES), name):
            if (folder / f"{stem}.json").exists():
                yield folder / f"{stem}.json"


def markdown(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Lines of a page: a table for each machine, and what failed."""
    measured = [result for result in results if "error" not in result]
    for machine in dict.fromkeys(map(_machine, measured)):
        yield from (machine, "", HEADER)
        for result in measured:
            if _machine(result) == machine:
                yield from (_line(result, row) for row in result["rows"])
        yield ""
    for result in results:
        if "error" in result:
            yield f"- **{' '.join([result['benchmark'], result['dtype']]).strip()} failed**: {result['error']}"


def _machine(result: Mapping[str, Any]) -> str:
    hardware, versions = result["hardware"], result["versions"]
    quick = " Quick: tiny random models, which say nothing about speed." if result["quick"] else ""
    return (
        f"{hardware['device']}, {hardware['threads']} threads, {hardware['os']}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f".{quick}"
    )


def _line(result: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    ms, floor, ratio = row.get("ms"), row.get("floor_ms"), cell(row.get("ratio"))
    if "ratio_p10" in row:
        ratio += f" ({cell(row['ratio_p10'])} to {cell(row['ratio_p90'])})"
    share = f"{floor / ms:.0%}" if floor is not None and ms else ""
    more = ", ".join(f"{key} {cell(value)}" for key, value in row.items() if key not in TOLD and value is not None)
    dtype = result["dtype"] if result["benchmark"] in MODELS else ""
    cells = (result["benchmark"], dtype, row["name"], cell(ms), ratio, cell(floor), share, more)
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
