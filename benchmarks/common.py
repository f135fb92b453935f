"""What every benchmark shares: its options, the floors that a machine sets, the table and the JSON it writes.

A benchmark has `arguments(parser)`, which adds its own options, and `measure(args)`, which returns
`{"rows": [{"name": ..., "ms": ..., "ratio": ..., ...}], "settings": {...}}` as plain JSON data.
"""

import argparse
import inspect
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

import supersam_hf
from supersam_hf.files import write_json
from supersam_hf.measure import hardware, measure_latency


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Side of the matrices: big enough that the rate no longer rises with it, small enough for a second or two.
MATMUL_SIDE = {"cpu": 2048, "cuda": 8192, "mps": 4096}
# Some ten times the last-level cache of a large server, so that nothing of a buffer is still there the next time.
COPY_BYTES = 512 * 2**20
SECONDS = 1.0  # a rate is the best of what fits into this


@dataclass(frozen=True)
class Rates:
    """What a machine reaches where one thing alone limits it.

    Args:
        macs (`float`): Multiply-accumulates a second of a large square matmul.
        bytes (`float`): Bytes a second that a copy of a large buffer reads and writes, both counted.
    """

    macs: float
    bytes: float


def measured_rates(device: torch.device | str, dtype: torch.dtype | str) -> Rates:
    """Matmul and copy rates of this machine, with the threads torch has now: best of several, in seconds.

    Args:
        device (`torch.device` or `str`): cpu, cuda or mps.
        dtype (`torch.dtype` or `str`): Of the matrices, or "fp32" or "bf16". On a GPU fp32 is as fast as
            `torch.backends.cuda.matmul` lets it be.
    """
    dtype = DTYPES[dtype] if isinstance(dtype, str) else dtype
    side = MATMUL_SIDE[torch.device(device).type]
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(left)
    multiply_s = _best_seconds(lambda: torch.mm(left, right, out=out), device)
    source = torch.ones(COPY_BYTES // 4, device=device)
    target = torch.zeros_like(source)
    copy_s = _best_seconds(lambda: target.copy_(source), device)
    return Rates(macs=side**3 / multiply_s, bytes=2 * COPY_BYTES / copy_s)


def floor_ms(macs: int, bytes: int, rates: Rates) -> float:
    """Milliseconds below which work cannot go that multiplies `macs` times and reads and writes `bytes` of memory."""
    return 1e3 * max(macs / rates.macs, bytes / rates.bytes)


def _best_seconds(call: Callable[[], Any], device: torch.device | str) -> float:
    call()
    end, best = time.perf_counter() + SECONDS, float("inf")
    for _ in range(3):
        best = min(best, measure_latency(call, warmup=0, repeats=1, device=device).min_ms / 1e3)
    while time.perf_counter() < end:
        best = min(best, measure_latency(call, warmup=0, repeats=1, device=device).min_ms / 1e3)
    return best


def main(
    doc: str,
    arguments: Callable[[argparse.ArgumentParser], None],
    measure: Callable[[argparse.Namespace], dict[str, Any]],
) -> None:
    """Parses the options, measures, prints a table of the rows and writes all of it as JSON where `--output` says.

    Args:
        doc (`str`): Docstring of the benchmark.
        arguments (`Callable`): Adds the benchmark's own options, all with defaults.
        measure (`Callable`): Gets the parsed options: `quick`, `output`, `dtype` ("fp32" or "bf16"), `device`,
            `threads` (already set) and its own.
    """
    args = _parser(doc, arguments).parse_args()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    result = {
        "benchmark": Path(inspect.getfile(measure)).stem,
        **measure(args),
        "hardware": hardware(args.device),
        "versions": versions(),
    }
    print(*table(result["rows"]), sep="\n")
    if args.output is not None:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.output, result)


def _parser(doc: str, arguments: Callable[[argparse.ArgumentParser], None]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--quick", action="store_true", help="tiny random models, few rounds: does it run at all?")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--dtype", choices=list(DTYPES), default="fp32", help="of the weights, or of autocast")
    parser.add_argument("--device", default=device, help=f"cpu, cuda or mps (default: {device})")
    parser.add_argument("--threads", type=int, help="that torch uses for one operation (default: its own choice)")
    arguments(parser)
    return parser


def versions() -> dict[str, str]:
    """Of what a measurement depends on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "supersam_hf": supersam_hf.__version__,
    }


def table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Lines of a Markdown table with a column for every key that a row has."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    yield "| " + " | ".join(keys) + " |"
    yield "|" + "---|" * len(keys)
    for row in rows:
        yield "| " + " | ".join(cell(row.get(key)) for key in keys) + " |"


def cell(value: Any) -> str:
    """A value as a table shows it: four digits of a number, nothing for none."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
