"""Seconds until one can begin: `import supersam_hf` on top of stock models, and the help of `supersam-hf`.

    python benchmarks/import_time.py [--quick] [--rounds 5] [--output import_time.json]

Everything runs in fresh interpreters, in interleaved rounds. `ms` is wall time, `cpu_ms` user and system time of the
process, which a busy machine disturbs less; medians. Ratios are of CPU time, to the import of the stock models in the
same round. What `import supersam_hf` adds is timed inside the process that has just imported those; the help, from
the start of the interpreter to its end. Limits are ours. Unix only.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections import defaultdict
from typing import Any

import numpy as np
from common import main


STOCK = "from transformers import SamModel, ViTForImageClassification, SwinForImageClassification"
IMPORTS = f"""
import json, time
def now():
    return [1e3 * time.perf_counter(), 1e3 * time.process_time()]
times = [now()]
{STOCK}
times.append(now())
import supersam_hf
times.append(now())
print(json.dumps(times))
"""
FIRST, ADDED = "stock import", "import supersam_hf adds"
HELP, HELP_OF_A_VERB = "supersam-hf --help", "supersam-hf train --help"
LIMITS_MS = {ADDED: 300, HELP: 1500}


def import_times() -> dict[str, tuple[float, float]]:
    """Wall and CPU time of the stock import and of what ours adds to it, ms."""
    printed = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True).stdout
    start, stock, ours = json.loads(printed)
    return {
        name: (after[0] - before[0], after[1] - before[1])
        for name, before, after in ((FIRST, start, stock), (ADDED, stock, ours))
    }


def command_times(command: str) -> tuple[float, float]:
    """Wall and CPU time of a whole `supersam-hf ...`, ms."""
    words = command.split()[1:]
    before, start = _children_cpu_s(), time.perf_counter()
    subprocess.run([sys.executable, "-m", "supersam_hf_cli", *words], capture_output=True, check=True)
    return 1e3 * (time.perf_counter() - start), 1e3 * (_children_cpu_s() - before)


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds of fresh interpreters")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    rounds, commands = (1, [HELP]) if args.quick else (args.rounds, [HELP, HELP_OF_A_VERB])
    if not args.quick:
        import_times()  # files are read and compiled once
    times: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for _ in range(rounds):
        for name, taken in {**import_times(), **{command: command_times(command) for command in commands}}.items():
            times[name].append(taken)
    return {"rows": [_row(name, times) for name in times], "settings": {"rounds": rounds, "stock": STOCK}}


def _row(name: str, times: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    wall, cpu = np.asarray(times[name]).T
    p10, ratio, p90 = np.percentile(cpu / np.asarray(times[FIRST])[:, 1], [10, 50, 90]).tolist()
    return {
        "name": name,
        "ms": float(np.median(wall)),
        "cpu_ms": float(np.median(cpu)),
        "ratio": ratio,
        "ratio_p10": p10,
        "ratio_p90": p90,
        "limit_ms": LIMITS_MS.get(name),
    }


if __name__ == "__main__":
    main(__doc__, arguments, measure)
