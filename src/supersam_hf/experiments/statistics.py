"""Numbers over seeds, in words and as data."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..escape import table_row
from ..search.pareto import pareto_front


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of one number over seeds.

    Args:
        mean (`float`): Their mean.
        sd (`float` or None): None of a single value.
        values (`tuple[float, ...]`): In the order of the seeds.
    """

    mean: float
    sd: float | None
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """`ValueError` without any value."""
        if not values:
            raise ValueError("`values` is empty; there is no mean of nothing.")
        sd = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.mean(values), sd, tuple(values))

    def text(self, form: Callable[[float], str]) -> str:
        """`mean ± sd`, each written by `form`."""
        return form(self.mean) if self.sd is None else f"{form(self.mean)} ± {form(self.sd)}"


def over_seeds(seeds: Sequence[int]) -> str:
    """What the numbers of a table are."""
    return f"mean ± sd over {len(seeds)} seeds" if len(seeds) > 1 else "one seed"


def area_under_front(rows: Sequence[Mapping[str, Any]], low: float, high: float) -> float:
    """Mean height of the Pareto frontier from `low` to `high` parameters: the area under the step line of the best
    mIoU to be had with at most so many, over the width of the range. In [0, 1].

    Args:
        rows (`Sequence[Mapping]`): One a subnet: `params` and `miou`.

    Raises:
        ValueError: If the range is empty, or no subnet is as small as `low`.
    """
    if not low < high:
        raise ValueError(f"`low` must be less than `high`, got {low} and {high}.")
    front = pareto_front(rows, cost=lambda row: row["params"], quality=lambda row: row["miou"])
    within = [row for row in front if row["params"] <= low][-1:]
    if not within:
        raise ValueError(f"No subnet has {low:,} parameters or fewer.")
    within += [row for row in front if low < row["params"] < high]
    edges = [low, *(row["params"] for row in within[1:]), high]
    return sum(row["miou"] * (b - a) for row, a, b in zip(within, edges, edges[1:])) / (high - low)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"{table_row(line)}\n" for line in lines)


__all__ = ["Spread", "area_under_front", "markdown", "over_seeds"]
