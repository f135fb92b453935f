"""What a search found: the best subnet, the Pareto front, and how near it came where nothing kept the budget."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..files import write_json
from ..models.supersam.elastic_supersam import Subnet
from .log import Ask
from .objective import Evaluation, Objective
from .pareto import pareto_front


@dataclass(frozen=True)
class Shortfall:
    """The subnet that came nearest to a budget, and what it lacks.

    Args:
        evaluation (`Evaluation`): How it did.
        limit (`str`): The limit it does not keep.
        allowed (`float`): That limit.
        reached (`float`): The subnet's value.
    """

    evaluation: Evaluation
    limit: str
    allowed: float
    reached: float

    @property
    def lack(self) -> float:
        """How far the value is from the limit, in the limit's unit."""
        return abs(self.reached - self.allowed)

    def to_dict(self) -> dict[str, Any]:
        outcome = {"limit": self.limit, "allowed": self.allowed, "reached": self.reached, "lack": self.lack}
        return {**outcome, **self.evaluation.to_dict()}


class SearchResult:
    """Outcome of a search.

    Args:
        objective (`Objective`): What was searched for.
        asks (`Sequence[Ask]`): Every ask, in order.
        stopped (`str`): Why it ended: `"trials"` (all were run), `"max_asks"` (too few asks kept the budget), or
            `"exhausted"` (no subnet is left that keeps the closed-form limits and was not asked for).
        settings (`dict`): What the search was started with, for the record.
    """

    def __init__(self, objective: Objective, asks: Sequence[Ask], stopped: str, settings: dict[str, Any]) -> None:
        self.objective = objective
        self.asks = list(asks)
        self.stopped = stopped
        self.settings = settings

    @property
    def trials(self) -> list[Evaluation]:
        """Every distinct subnet whose quality was run, in order."""
        return [ask.evaluation for ask in self.asks if ask.trial is not None]

    @property
    def best(self) -> Evaluation | None:
        """The feasible subnet of the highest score, the smaller of equals; None if nothing kept the budget."""
        feasible = [trial for trial in self.trials if trial.feasible and trial.score is not None]
        return max(feasible, key=lambda trial: (trial.score, -trial.params), default=None)

    def front(self, cost: Literal["params", "macs"] = "params") -> list[Evaluation]:
        """The trials that no other trial beats in both this cost and quality, by ascending cost."""
        return pareto_front(
            self.trials,
            cost=lambda trial: trial.params if cost == "params" else trial.macs,
            quality=lambda trial: -float("inf") if trial.quality is None else trial.quality,
        )

    @property
    def nearest(self) -> Shortfall | None:
        """Where nothing kept the budget, the subnet that came nearest; None otherwise.

        The smallest subnet keeps every closed-form limit, so what lacks is quality or, if none got that far, speed.
        """
        if self.best is not None:
            return None
        limits = self.objective.limits
        tried = [ask.evaluation for ask in self.asks]
        shortfalls = [
            Shortfall(one, "min_quality", limits.min_quality, one.quality)
            for one in tried
            if one.exceeded == "min_quality" and one.quality is not None and limits.min_quality is not None
        ] or [
            Shortfall(one, "max_latency_ms", limits.max_latency_ms, one.latency_ms)
            for one in tried
            if one.exceeded == "max_latency_ms" and one.latency_ms is not None and limits.max_latency_ms is not None
        ]
        return min(shortfalls, key=lambda shortfall: (shortfall.lack, shortfall.evaluation.params), default=None)

    @property
    def rejected(self) -> dict[str, int]:
        """How many distinct subnets broke each limit before an image was run."""
        return dict(Counter(str(ask.evaluation.exceeded) for ask in self.asks if ask.trial is None and not ask.cached))

    def summary(self) -> str:
        """What became of the candidates, and why the search ended if not all trials were run; in one line."""
        rejected, repeated = self.rejected, sum(ask.cached for ask in self.asks)
        feasible = sum(trial.feasible for trial in self.trials)
        parts = [f"{len(self.trials)} run on images ({feasible} of them within the budget)"]
        parts += [f"{count} rejected by `{limit}`" for limit, count in sorted(rejected.items())]
        parts += [f"{repeated} tried before"] if repeated else []
        why = {
            "trials": "",
            "max_asks": "; ended early, by `max_asks`",
            "exhausted": "; ended early: no other subnet of this space keeps the budget",
        }
        return f"{len(self.asks)} candidates: {', '.join(parts)}{why[self.stopped]}"

    def subnet(self) -> Subnet:
        """The best subnet; raises `ValueError`, saying what came nearest, if nothing kept the budget."""
        if self.best is not None:
            return self.best.subnet
        near = self.nearest
        if near is None:
            raise ValueError("The search ended before any subnet was tried.")
        raise ValueError(
            f"No subnet that was tried keeps the budget. The nearest has {near.reached:,.6g} where `{near.limit}` is "
            f"{near.allowed:,.6g}; loosen that limit or search longer."
        )

    def to_dict(self) -> dict[str, Any]:
        best, nearest = self.best, self.nearest
        counts = {"asks": len(self.asks), "trials": len(self.trials), "rejected": sum(self.rejected.values())}
        counts |= {"repeated": sum(ask.cached for ask in self.asks)}
        counts |= {"feasible": sum(trial.feasible for trial in self.trials)}
        return {
            **self.settings,
            "limits": self.objective.limits.to_dict(),
            "largest": {"params": self.objective.largest.params, "macs": self.objective.largest.macs},
            "counts": counts,
            "stopped": self.stopped,
            "best": best.to_dict() if best else None,
            "nearest": nearest.to_dict() if nearest else None,
            "front": [trial.to_dict() for trial in self.front()],
        }

    def save(self, path: str | Path) -> None:
        """Writes `to_dict()` as JSON, whole or not at all."""
        write_json(Path(path), self.to_dict())
