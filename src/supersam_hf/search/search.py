"""A search from its arguments to its result."""

import logging
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from accelerate import PartialState

from ..fields import Checked, ClosedUnitInterval, Count, FieldError, Positive, Seed
from ..limits import parse_limit
from ..models.supersam.elastic_supersam import ElasticSpace
from ..spread import on_main
from .engine import SearchEngine
from .log import SearchLog
from .loop import SearchLoop
from .near_budget import NearBudget, feasible_subnets
from .objective import Budget, Goal, Objective, check_goal
from .result import SearchResult


logger = logging.getLogger(__name__)

EngineName = Literal["opentuner", "random", "evolution"]
ENGINES = ("opentuner", "random", "evolution")


@dataclass
class SearchArguments(Checked):
    """How to search, and under which budget."""

    engine: EngineName = "opentuner"
    """What proposes subnets: "opentuner", "random" or "evolution"."""
    trials: Count = 60
    """How many distinct subnets are run on images."""
    goal: Goal = "quality"
    """Maximise "quality", or minimise "params" or "macs" among the subnets that reach min_quality."""
    max_params: float | str | None = None
    """Most parameters: a share of the largest subnet's (0.6, 60%) or a count (60e6, 60M)."""
    max_macs: float | str | None = None
    """Most multiply-accumulates: a share of the largest subnet's (0.6, 60%) or a count (60e9, 60G)."""
    max_latency_ms: Positive | None = None
    """Longest run time in milliseconds, measured on this machine."""
    min_quality: ClosedUnitInterval | None = None
    """Least quality in [0, 1], such as an mIoU of 0.8."""
    seed: Seed = 0
    """Seed of the engine; the same seed and log give the same search."""
    batch_size: Count = 4
    """How many subnets are proposed before the first of them is known; so many processes can work at a time."""
    max_asks: Count | None = None
    """Most proposals, the rejected and repeated ones included; 100 a trial if not given."""

    def __post_init__(self) -> None:
        for name in ("max_params", "max_macs"):
            setattr(self, name, parse_limit(name, getattr(self, name), "the largest subnet"))
        super().__post_init__()
        if self.max_asks is not None and self.max_asks < self.trials:
            raise FieldError("max_asks", f"must be `trials` ({self.trials}) or more, got {self.max_asks}.")
        check_goal(self.goal, self.budget)

    @property
    def budget(self) -> Budget:
        """The limits, checked."""
        params, macs = (parse_limit(name, getattr(self, name)) for name in ("max_params", "max_macs"))
        return Budget(params, macs, self.max_latency_ms, self.min_quality)


def make_engine(name: EngineName, space: ElasticSpace, seed: int) -> SearchEngine:
    """The engine of this name. OpenTuner is imported only when it is the one."""
    if name == "opentuner":
        from .opentuner import OpenTunerEngine

        return OpenTunerEngine(space, seed)
    if name == "random":
        from .random import RandomEngine

        return RandomEngine(space, seed)
    if name == "evolution":
        from .evolution import EvolutionEngine

        return EvolutionEngine(space, seed)
    raise ValueError(f"`engine` is {name!r}; it may be one of {list(ENGINES)}.")


def run_search(
    objective: Objective,
    arguments: SearchArguments,
    log_path: str | Path,
    *,
    context: dict[str, Any] | None = None,
    progress: bool = True,
    state: PartialState | None = None,
) -> SearchResult:
    """Searches until `trials` distinct subnets were run, and goes on where `log_path` left off.

    Subnets that break a closed-form limit are told to the engine as infeasible and cost no trial; repeated subnets are
    answered from memory. Where nearly all are such, subnets near the budget are tried in their place (see
    [`NearBudget`]) until there is no other one; a warning says so, and beforehand, if there are fewer than `trials`.

    A search that is killed at any point and started again gives the same asks as one that was not: the log is replayed
    through the engine without running an image. More `trials` prolong a finished search. `batch_size` subnets are
    asked for before any of them is told, so that processes can share them: the asks depend on that size and not on how
    many processes there are.

    Args:
        objective (`Objective`): What to search for.
        arguments (`SearchArguments`): Engine, seed and lengths; its budget and goal must be the objective's.
        log_path (`str` or `Path`): JSONL file of every ask, see `SearchLog`.
        context (`dict`, *optional*): Whatever else the qualities depend on (checkpoint, data, prompts), as JSON.
            Kept in the log's first line: a search resumes only with the same.
        progress (`bool`, *optional*, defaults to `True`): Whether to show a progress bar.
        state (`PartialState`, *optional*): This process among the others; all of them must come here. The main one
            writes the log and measures latencies while the others wait. None: there are no others.

    Returns:
        `SearchResult`: The trials, the best, the front.

    Raises:
        ValueError: If arguments and objective disagree, the log belongs to another search, or already the smallest
            subnet is too slow.
        RuntimeError: If the engines of several processes ask for different subnets.
    """
    if (arguments.budget, arguments.goal) != (objective.budget, objective.goal):
        raise ValueError(
            f"The objective was made with {objective.budget} and goal {objective.goal!r}, the arguments say "
            f"{arguments.budget} and {arguments.goal!r}. Make it with `arguments.budget` and `arguments.goal`."
        )
    settings = _settings(objective, arguments, context)
    main = state is None or state.is_main_process
    if main:
        _tell_of_few(objective, arguments.trials)
    with SearchLog(log_path, settings, state) as log:
        if not log.asks:
            on_main(state, objective.check_latency)
        engine = make_engine(arguments.engine, objective.space, arguments.seed)
        engine = NearBudget(engine, objective, arguments.seed, say=main)
        loop = SearchLoop(
            objective,
            engine,
            log,
            state,
            trials=arguments.trials,
            batch_size=arguments.batch_size,
            max_asks=arguments.max_asks or 100 * arguments.trials,
        )
        try:
            stopped = loop.run(progress and main)
        finally:
            engine.close()
    return SearchResult(objective, loop.asks, stopped, settings)


def _tell_of_few(objective: Objective, trials: int) -> None:
    """Warns if fewer subnets than trials keep the closed-form limits."""
    count = sum(1 for _ in islice(feasible_subnets(objective), trials))
    if count < trials:
        logger.warning(
            f"Only {count} of the {objective.space.size:,} subnets of this space keep the budget, and {trials} trials "
            "were asked for: the search ends when all of them were tried."
        )


def _settings(objective: Objective, arguments: SearchArguments, context: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "engine": arguments.engine,
        "seed": arguments.seed,
        "batch_size": arguments.batch_size,
        "goal": objective.goal,
        "budget": objective.budget.to_dict(),
        "space": objective.space.to_dict(),
        "context": context or {},
    }
