"""The limit of a budget as people write it: 0.6, 60%, 60M, 60e6."""

import math
import re
from dataclasses import dataclass
from typing import Any

from .fields import FieldError, shown


# A limit above 1 counts parameters or operations. No model has fewer than this: 1.5 or 60 are meant as something else.
LEAST_COUNT = 1000
UNITS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9}
WRITTEN = re.compile(r"\s*([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(%|[kKMGB]?)\s*")
ACCEPTED = "a share above 0 and up to 1 (0.6 or 60%), or a count of at least 1,000 (60e6, 60M, 1.2G)"


def parse_limit(name: str, value: "float | str | None", whole: str = "the whole") -> float | None:
    """Return a limit as a number: up to 1 a share, above it a count. None is no limit.

    Args:
        name (`str`): What messages call it: the field of a recipe.
        value (`float` or `str`, *optional*): As it was written: 0.6, "0.6", "60%", 60e6, "60M" ("k", "M", "G" or "B"
            for thousands, millions and billions).
        whole (`str`): What a share is a share of, for messages.

    Raises:
        FieldError: If it is no such limit, with what is accepted.
    """
    if value is None:
        return None
    number = _number(value)
    if number is None or not (0 < number <= 1 or LEAST_COUNT <= number < math.inf):
        hint = f"; for {number:g} % of {whole} write {number:g}%" if number is not None and 1 < number <= 100 else ""
        raise FieldError(name, f"must be {ACCEPTED}{hint}, got {shown(value)}.")
    return number


@dataclass(frozen=True)
class LatencyLimit:
    """A longest run time, in milliseconds or as a share of another network's.

    Args:
        value (`float`): Milliseconds, or a share between 0 and 1.
        is_share (`bool`): Which of them.
    """

    value: float
    is_share: bool

    def share_of(self, whole_ms: float) -> float:
        """The limit as a share of a network that takes so many milliseconds."""
        return self.value if self.is_share else self.value / whole_ms

    def __str__(self) -> str:
        return f"{self.value:.4g}" if not self.is_share else f"{100 * self.value:.4g}%"


def parse_latency(name: str, value: "float | str | None") -> LatencyLimit | None:
    """Return a longest run time: 12.5 or "12.5" in milliseconds, "60%" of the original's. None is no limit.

    Raises:
        FieldError: If it is no such limit, with what is accepted.
    """
    if value is None:
        return None
    number = _number(value)
    is_share = isinstance(value, str) and value.strip().endswith("%")
    if number is None or not 0 < number < (1 if is_share else math.inf):
        accepted = "milliseconds above 0 (12.5), or a share of the original's time, above 0 % and below 100 % (60%)"
        raise FieldError(name, f"must be {accepted}, got {shown(value)}.")
    return LatencyLimit(number, is_share)


def check_limits(args: Any) -> None:
    """Raise `FieldError` where arguments state more than one of `max_macs`, `max_params` and `max_latency_ms`, or a
    latency that is none."""
    parse_latency("max_latency_ms", args.max_latency_ms)
    given = [name for name in ("max_macs", "max_params", "max_latency_ms") if getattr(args, name) is not None]
    if len(given) > 1:
        raise FieldError(given[-1], f"is given beside `{given[0]}`: give one budget.")


def _number(value: "float | str") -> float | None:
    """The number that is written; None where there is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if not isinstance(value, str):
        return float(value) if abs(value) < 10**300 else math.inf  # whole numbers may be beyond what a float holds
    written = WRITTEN.fullmatch(value)
    if written is None:
        return None
    number, unit = float(written[1]), written[2]
    if unit == "%":  # 150% is no share, and no count either
        return number / 100 if number <= 100 else math.nan
    return number * UNITS[unit]


__all__ = ["LatencyLimit", "check_limits", "parse_latency", "parse_limit"]
