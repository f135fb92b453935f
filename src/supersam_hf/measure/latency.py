"""Wall-clock latency: of one thing, and of several side by side on a machine that is not quiet."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Latency:
    """Repeated timings of one thing, in milliseconds.

    Args:
        median_ms (`float`): Half of the repeats were faster.
        p10_ms (`float`): 10th percentile.
        p90_ms (`float`): 90th percentile; p10 to p90 is the spread.
        min_ms (`float`): The fastest repeat.
        repeats (`int`): How many were timed.
    """

    median_ms: float
    p10_ms: float
    p90_ms: float
    min_ms: float
    repeats: int

    @classmethod
    def of(cls, times_ms: list[float]) -> "Latency":
        p10, median, p90 = np.percentile(times_ms, [10, 50, 90]).tolist()
        return cls(median, p10, p90, min(times_ms), len(times_ms))


@dataclass(frozen=True)
class ComparedLatency:
    """One of several things timed side by side.

    Args:
        latency ([`Latency`]): Its own timings.
        ratio (`float`): Median over the rounds of its time by the first thing's time in the same round: 0.5 is twice
            as fast. Slow spells of the machine last longer than a round and cancel.
        ratio_p10 (`float`): 10th percentile of that.
        ratio_p90 (`float`): 90th percentile of that.
    """

    latency: Latency
    ratio: float
    ratio_p10: float
    ratio_p90: float


def measure_latency(
    forward: Callable[[], Any], *, warmup: int = 3, repeats: int = 10, device: torch.device | str = "cpu"
) -> Latency:
    """Times `forward()`, waiting for the device before and after each call.

    Args:
        forward (`Callable[[], Any]`): What to time. Put it under `torch.inference_mode()` yourself.
        warmup (`int`): Calls that are not timed, 0 or more.
        repeats (`int`): Calls that are timed, 1 or more.
        device (`torch.device` or `str`): Where `forward` runs: cpu, cuda or mps.

    Raises:
        ValueError: For a negative `warmup`, no `repeats` or another kind of device.
    """
    _check(warmup, "repeats", repeats, device)
    for _ in range(warmup):
        forward()
    return Latency.of([_time_ms(forward, device) for _ in range(repeats)])


def compare_latency(
    forwards: Mapping[str, Callable[[], Any]],
    rounds: int = 10,
    *,
    warmup: int = 1,
    device: torch.device | str = "cpu",
    until: float | None = None,
) -> dict[str, ComparedLatency]:
    """Times several things in interleaved rounds, so that their ratios are fair on a machine that is not quiet.

    Every round times each once, starting one further along than the round before, so that none always runs behind
    the same other.

    Args:
        forwards (`Mapping[str, Callable[[], Any]]`): What to time, by name. Ratios are to the first.
        rounds (`int`): 1 or more.
        warmup (`int`): Rounds before that are not timed, 0 or more.
        device (`torch.device` or `str`): Where they run: cpu, cuda or mps.
        until (`float`, *optional*): No more rounds, once there were ten, when every ratio's standard error is below
            this share of it.

    Returns:
        `dict[str, ComparedLatency]`: By name, in the order given.

    Raises:
        ValueError: If there is nothing to time, for a negative `warmup`, no `rounds` or another kind of device.
    """
    _check(warmup, "rounds", rounds, device)
    if not forwards:
        raise ValueError("`forwards` is empty; give at least one thing to time.")
    for _ in range(warmup):
        for forward in forwards.values():
            forward()
    names = list(forwards)
    times: dict[str, list[float]] = {name: [] for name in names}
    for i in range(rounds):
        start = i % len(names)
        for name in names[start:] + names[:start]:
            times[name].append(_time_ms(forwards[name], device))
        if until is not None and i >= 9 and all(_error(times[name], times[names[0]]) < until for name in names[1:]):
            break
    return {name: _compared(times[name], times[names[0]]) for name in names}


def _compared(times_ms: list[float], first_ms: list[float]) -> ComparedLatency:
    p10, median, p90 = np.percentile(np.divide(times_ms, first_ms), [10, 50, 90]).tolist()
    return ComparedLatency(Latency.of(times_ms), ratio=median, ratio_p10=p10, ratio_p90=p90)


def _error(times_ms: list[float], first_ms: list[float]) -> float:
    """Standard error of the median ratio, as a share of it; of quantiles, so that a hiccup does not count."""
    low, high = np.quantile(np.log(np.divide(times_ms, first_ms)), [0.16, 0.84])
    return float((math.pi / 2) ** 0.5 * (high - low) / 2 / len(times_ms) ** 0.5)


def _time_ms(forward: Callable[[], Any], device: torch.device | str) -> float:
    _synchronize(device)
    start = time.perf_counter()
    forward()
    _synchronize(device)
    return (time.perf_counter() - start) * 1e3


def _synchronize(device: torch.device | str) -> None:
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _check(warmup: int, name: str, repeats: int, device: torch.device | str) -> None:
    if warmup < 0:
        raise ValueError(f"`warmup` must be 0 or more, got {warmup}.")
    if repeats < 1:
        raise ValueError(f"`{name}` must be 1 or more, got {repeats}.")
    if torch.device(device).type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"`device` must be cpu, cuda or mps, got {device}.")


__all__ = ["ComparedLatency", "Latency", "compare_latency", "measure_latency"]
