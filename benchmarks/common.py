"""What every benchmark shares: its options, the floors that a machine sets, the table and the JSON it writes.

A benchmark has `arguments(parser)`, which adds its own options, and `measure(args)`, which returns
`{"rows": [{"name": ..., "ms": ..., "ratio": ..., ...}], "settings": {...}}` as plain JSON data.
"""

import argparse
import inspect
import platform
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.profiler import ProfilerActivity, profile

import supersam_hf
from supersam_hf import SuperSamConfig, SuperSamModel
from supersam_hf.files import write_json
from supersam_hf.measure import compare_latency, hardware, measure_latency


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Of a random SAM's vision config. SAM's own default, 1e-10, gives denormal numbers, which CPUs multiply very slowly.
NORMAL_WEIGHTS = {"initializer_range": 0.02}
# Several times the last-level cache of a large server, so that nothing of a buffer is still there the next time.
COPY_BYTES = 256 * 2**20
# Sides of square matrices, from those that fit into a cache; no more once a product takes LONG_MS.
MATMUL_SIDES = (512, 1024, 2048, 4096, 8192)
LONG_MS = 50


def sam_tiny(layers: int = 12, image_size: int = 256) -> SuperSamModel:
    """A SAM of 10 million random weights: 192 channels, MLPs of 768."""
    vision = {"hidden_size": 192, "num_hidden_layers": layers, "num_attention_heads": 3, "mlp_dim": 768}
    vision |= {"image_size": image_size, "window_size": 8, "scale": 1.0, **NORMAL_WEIGHTS}
    vision["global_attn_indexes"] = list(range(2, layers, 3)) or [layers - 1]
    return SuperSamModel(SuperSamConfig(vision_config=vision, prompt_encoder_config={"image_size": image_size}))


@dataclass(frozen=True)
class Rates:
    """What a machine reaches where one thing alone limits it.

    Args:
        macs (`float`): Multiply-accumulates a second of the fastest square matmul.
        bytes (`float`): Bytes a second that a copy of a large buffer reads and writes, both counted.
    """

    macs: float
    bytes: float


def measured_rates(device: torch.device | str, dtype: torch.dtype | str) -> Rates:
    """Matmul and copy rates of this machine, with the threads torch has now: the best of several sizes and repeats.

    Args:
        device (`torch.device` or `str`): cpu, cuda or mps.
        dtype (`torch.dtype` or `str`): Of the matrices, or "fp32" or "bf16". On a GPU fp32 is as fast as
            `torch.backends.cuda.matmul` lets it be.
    """
    dtype = DTYPES[dtype] if isinstance(dtype, str) else dtype
    source = torch.ones(COPY_BYTES // 4, device=device)
    target = torch.zeros_like(source)
    copy_ms = measure_latency(lambda: target.copy_(source), warmup=1, repeats=5, device=device).min_ms
    return Rates(macs=_matmul_rate(device, dtype), bytes=1e3 * 2 * COPY_BYTES / copy_ms)


def _matmul_rate(device: torch.device | str, dtype: torch.dtype) -> float:
    """Multiply-accumulates a second of the fastest square matmul."""
    best = 0.0
    for side in MATMUL_SIDES:
        left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(left)
        multiply = partial(torch.mm, left, right, out=out)
        multiply_ms = measure_latency(multiply, warmup=1, repeats=5, device=device).min_ms
        best = max(best, 1e3 * side**3 / multiply_ms)
        if multiply_ms > LONG_MS:
            break
    return best


def floor_ms(macs: int, bytes: int, rates: Rates) -> float:
    """Milliseconds below which work cannot go that multiplies `macs` times and reads and writes `bytes` of memory."""
    return 1e3 * max(macs / rates.macs, bytes / rates.bytes)


def latency_ratios(forwards: Mapping[str, Callable[[Any], Any]], inputs: Any, rounds: int) -> dict[str, float]:
    """Time of each forward of these inputs over the first's, by name, in interleaved rounds."""
    runs = {name: partial(forward, inputs) for name, forward in forwards.items()}
    with torch.inference_mode():
        return {name: timed.ratio for name, timed in compare_latency(runs, rounds).items()}


def spread(values: Sequence[float], digits: int, scale: float = 100) -> str:
    """Mean and standard deviation, in percent, or times another `scale`."""
    deviation = f" ± {scale * statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{scale * statistics.mean(values):.{digits}f}{deviation}"


def operations(run: Callable[[], Any], repeats: int = 5) -> dict[str, float]:
    """Own milliseconds of each operation in a call, on the GPU where there is one: medians over the repeats."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    run()
    found: dict[str, list[float]] = {}
    for _ in range(repeats):
        with profile(activities=activities) as record:
            run()
        for event in record.key_averages():
            own = max(event.self_cpu_time_total, event.self_device_time_total)  # microseconds
            found.setdefault(event.key, []).append(own / 1e3)
    return {name: statistics.median(times) for name, times in found.items()}


def most_of(times: Mapping[str, float], count: int = 10) -> dict[str, float]:
    """The operations that take most, and the rest together."""
    first = sorted(times, key=lambda name: times[name], reverse=True)[:count]
    rest = sum(times.values()) - sum(times[name] for name in first)
    return {**{name: round(times[name], 1) for name in first}, "the rest": round(rest, 1)}


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
        "dtype": args.dtype,
        "quick": args.quick,
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
    """A value as a table shows it: three or four digits of a number, nothing for none."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "" if value is None else str(value)
