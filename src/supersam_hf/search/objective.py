"""What a search is for: a budget of hard limits, and what to maximise or minimise within it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from numbers import Real
from typing import Any, Literal

from ..fields import ClosedUnitInterval, Positive, check_fields
from ..models.supersam.elastic_supersam import ElasticSpace, Subnet


Goal = Literal["quality", "params", "macs"]
GOALS = ("quality", "params", "macs")
LIMITS = ("max_params", "max_macs", "max_latency_ms", "min_quality")


@dataclass(frozen=True)
class Budget:
    """Hard limits on a subnet; None is no limit.

    Args:
        max_params (`float`, *optional*): Most parameters. A value up to 1 is a fraction of the largest subnet's:
            0.6 is 60 %.
        max_macs (`float`, *optional*): Most multiply-accumulates. A value up to 1 is a fraction, as above.
        max_latency_ms (`float`, *optional*): Longest run time, in milliseconds, as measured.
        min_quality (`float`, *optional*): Least quality, in [0, 1]: 0.8 is an mIoU of 80 %.

    Raises:
        ValueError: If a limit is not a positive number, or `min_quality` is not in [0, 1].
    """

    max_params: Positive | None = None
    max_macs: Positive | None = None
    max_latency_ms: Positive | None = None
    min_quality: ClosedUnitInterval | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    def resolve(self, largest_params: int, largest_macs: int) -> "Budget":
        """This budget with its fractions turned into numbers."""

        def absolute(limit: float | None, largest: int) -> float | None:
            return limit if limit is None or limit > 1 else limit * largest

        return Budget(
            absolute(self.max_params, largest_params),
            absolute(self.max_macs, largest_macs),
            self.max_latency_ms,
            self.min_quality,
        )

    def to_dict(self) -> dict[str, float | None]:
        return asdict(self)


@dataclass(frozen=True)
class Evaluation:
    """How one subnet did.

    Args:
        subnet (`Subnet`): The subnet.
        params (`int`): Its parameters.
        macs (`int`): Its multiply-accumulates.
        latency_ms (`float`, *optional*): Its latency; None where it was not measured.
        quality (`float`, *optional*): Its quality; None where a limit was passed before any image was run.
        exceeded (`str`, *optional*): Name of the limit it does not keep; None if it is feasible.
        score (`float`, *optional*): What the search engine is told; None if quality was not run.

    Raises:
        ValueError: If a field is of another type, a cost negative, or a number not finite.
    """

    subnet: Subnet
    params: int
    macs: int
    latency_ms: float | None = None
    quality: float | None = None
    exceeded: str | None = None
    score: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.subnet, Subnet):
            raise ValueError(f"`subnet` must be a Subnet, got {self.subnet!r}.")
        if self.exceeded not in (None, *LIMITS):
            raise ValueError(f"`exceeded` must be one of {list(LIMITS)} or None, got {self.exceeded!r}.")
        for name in ("params", "macs", "latency_ms"):
            _check_number(name, getattr(self, name), least=0, optional=name == "latency_ms")
        for name in ("quality", "score"):
            _check_number(name, getattr(self, name), least=-math.inf, optional=True)

    @property
    def feasible(self) -> bool:
        return self.exceeded is None

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "subnet": self.subnet.to_dict(), "feasible": self.feasible}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Evaluation":
        """From the data of `to_dict`; `ValueError`, naming the field, for any other."""
        missing = sorted(set(cls.__dataclass_fields__) - set(data))
        if missing:
            raise ValueError(f"An evaluation lacks {missing}.")
        fields = {key: data[key] for key in cls.__dataclass_fields__}
        return cls(**{**fields, "subnet": Subnet.from_dict(data["subnet"])})


def _check_number(name: str, value: Any, least: float, optional: bool) -> None:
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or value < least:
        positive = " of 0 or more" if least == 0 else ""
        raise ValueError(f"`{name}` of an evaluation must be a finite number{positive}, got {value!r}.")


def check_goal(goal: str, budget: Budget) -> None:
    """Raise `ValueError` for a goal that is none, or that lacks the quality to reach."""
    if goal not in GOALS:
        raise ValueError(f"`goal` is {goal!r}; it may be one of {list(GOALS)}.")
    if goal != "quality" and budget.min_quality is None:
        raise ValueError(f'`goal` "{goal}" needs `min_quality`: without it the smallest subnet is the answer.')


def unmet(
    space: ElasticSpace, limits: Budget, params: Callable[[Subnet], int], macs: Callable[[Subnet], int]
) -> dict[str, str]:
    """The limits that no subnet of a space keeps, told in closed form: by the name of each, why.

    Args:
        limits (`Budget`): Resolved, so without fractions.
        params, macs (`Callable[[Subnet], int]`): Costs of a subnet.
    """
    reasons = {}
    for name, cost in (("max_params", params), ("max_macs", macs)):
        allowed, least, most = limits.to_dict()[name], cost(space.smallest()), cost(space.largest())
        if allowed is not None and least > allowed:
            reasons[name] = (
                f"`{name}` = {allowed:,.0f} ({allowed / most:.1%} of the largest): the smallest has {least:,} "
                f"({least / most:.1%}). Give at least {least:,}, or {math.ceil(1e3 * least / most) / 10:g}%; or a "
                "space with narrower windows or more prunable layers."
            )
    return reasons


class Objective:
    """Evaluates subnets, cheapest question first: closed-form cost, then latency, then quality.

    Args:
        space (`ElasticSpace`): The space that is searched.
        budget (`Budget`): Hard limits.
        params (`Callable[[Subnet], int]`): Parameters of a subnet, in closed form.
        macs (`Callable[[Subnet], int]`): Multiply-accumulates of a subnet, in closed form.
        quality (`Callable[[Subnet], float]`): Quality of a subnet, higher is better, such as its mIoU in [0, 1]. The
            expensive one: it runs images.
        latency_ms (`Callable[[Subnet], float]`, *optional*): Measures a subnet, in milliseconds. Called only if the
            budget limits latency.
        goal (`str`, *optional*, defaults to `"quality"`): `"quality"` maximises quality; `"params"` and `"macs"`
            minimise that cost among the subnets that reach `min_quality`.
        qualities (`Callable[[Sequence[Subnet]], Sequence[float]]`, *optional*): `quality` of several subnets, where
            that takes less time together than one by one.

    Raises:
        ValueError: If no subnet can keep the budget, or the budget lacks what the goal or a limit needs.
    """

    def __init__(
        self,
        space: ElasticSpace,
        budget: Budget,
        params: Callable[[Subnet], int],
        macs: Callable[[Subnet], int],
        quality: Callable[[Subnet], float],
        latency_ms: Callable[[Subnet], float] | None = None,
        goal: Goal = "quality",
        qualities: Callable[[Sequence[Subnet]], Sequence[float]] | None = None,
    ) -> None:
        check_goal(goal, budget)
        if budget.max_latency_ms is not None and latency_ms is None:
            raise ValueError("`max_latency_ms` is given but `latency_ms` is not; give a function that measures it.")
        self.space, self.budget, self.goal = space, budget, goal
        self.params, self.macs, self.latency_ms = params, macs, latency_ms
        self.quality, self.qualities = quality, qualities
        self.largest = Evaluation(space.largest(), params(space.largest()), macs(space.largest()))
        self.limits = budget.resolve(self.largest.params, self.largest.macs)
        for reason in unmet(space, self.limits, params, macs).values():
            raise ValueError(f"No subnet of this space keeps {reason}")

    def check_latency(self) -> None:
        """Measures the smallest subnet and raises `ValueError` if already that one is too slow."""
        limit = self.limits.max_latency_ms
        if limit is None or self.latency_ms is None:
            return
        least = self.latency_ms(self.space.smallest())
        if least > limit:
            raise ValueError(
                f"No subnet of this space keeps `max_latency_ms` = {limit:g}: the smallest took {least:.1f} ms here. "
                "Give a higher limit, a smaller image size, or a faster device."
            )

    def evaluate(self, subnet: Subnet) -> Evaluation:
        """Answers for one subnet; stops at the first limit that it does not keep."""
        evaluation = self.costs(subnet)
        if evaluation.feasible and self.times:
            evaluation = self.timed(evaluation)
        return self.judged(evaluation) if evaluation.feasible else evaluation

    @property
    def times(self) -> bool:
        """Whether subnets are timed: only if the budget limits latency."""
        return self.limits.max_latency_ms is not None

    def costs(self, subnet: Subnet) -> Evaluation:
        """The closed-form costs of a subnet, and which limit they do not keep."""
        params, macs, limits = self.params(subnet), self.macs(subnet), self.limits
        exceeded = None
        if limits.max_params is not None and params > limits.max_params:
            exceeded = "max_params"
        elif limits.max_macs is not None and macs > limits.max_macs:
            exceeded = "max_macs"
        return Evaluation(subnet, params, macs, exceeded=exceeded)

    def timed(self, evaluation: Evaluation) -> Evaluation:
        """The same with its latency, as measured now."""
        limit = self.limits.max_latency_ms
        if limit is None or self.latency_ms is None:
            return evaluation
        latency_ms = float(self.latency_ms(evaluation.subnet))
        return replace(evaluation, latency_ms=latency_ms, exceeded="max_latency_ms" if latency_ms > limit else None)

    def judged(self, evaluation: Evaluation) -> Evaluation:
        """The same with quality and score: runs images."""
        return self._with_quality(evaluation, float(self.quality(evaluation.subnet)))

    def judged_together(self, evaluations: Sequence[Evaluation]) -> list[Evaluation]:
        """`judged` of each, together if `qualities` is given."""
        if self.qualities is None:
            return [self.judged(evaluation) for evaluation in evaluations]
        qualities = self.qualities([evaluation.subnet for evaluation in evaluations])
        return [self._with_quality(one, float(quality)) for one, quality in zip(evaluations, qualities)]

    def _with_quality(self, evaluation: Evaluation, quality: float) -> Evaluation:
        if not math.isfinite(quality):
            raise ValueError(
                f"`quality` of {evaluation.subnet.to_json()} is {quality}; a search needs a finite number."
            )
        reached = self.limits.min_quality is None or quality >= self.limits.min_quality
        score = self._score(evaluation.params, evaluation.macs, quality)
        return replace(evaluation, quality=quality, exceeded=None if reached else "min_quality", score=score)

    def _score(self, params: int, macs: int, quality: float) -> float:
        if self.goal == "quality" or self.limits.min_quality is None:
            return quality
        # Deb's rule: whatever is feasible (0 to 1) beats whatever is not (below 0), and that is ranked by its lack.
        if quality < self.limits.min_quality:
            return quality - self.limits.min_quality
        if self.goal == "params":
            return 1 - params / self.largest.params
        return 1 - macs / self.largest.macs
