"""The search loop: ask, evaluate, log, tell."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tqdm.auto import tqdm

from ..models.supersam.elastic_supersam import ElasticSpace, Subnet
from .engine import SearchEngine
from .log import Ask, SearchLog
from .objective import Budget, Evaluation, Goal, Objective
from .result import SearchResult


EngineName = Literal["opentuner", "random", "evolution"]
ENGINES = ("opentuner", "random", "evolution")


@dataclass
class SearchArguments:
    """How to search, and under which budget."""

    engine: EngineName = "opentuner"
    """What proposes subnets: "opentuner", "random" or "evolution"."""
    trials: int = 60
    """How many distinct subnets are run on images."""
    goal: Goal = "quality"
    """Maximise "quality", or minimise "params" or "macs" among the subnets that reach min_quality."""
    max_params: float | None = None
    """Most parameters; up to 1 it is a fraction of the largest subnet's (0.6 is 60 %)."""
    max_macs: float | None = None
    """Most multiply-accumulates; up to 1 it is a fraction of the largest subnet's."""
    max_latency_ms: float | None = None
    """Longest run time in milliseconds, measured on this machine."""
    min_quality: float | None = None
    """Least quality in [0, 1], such as an mIoU of 0.8."""
    seed: int = 0
    """Seed of the engine; the same seed and log give the same search."""
    max_asks: int | None = None
    """Most proposals, the rejected and repeated ones included; 100 a trial if not given."""

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ValueError(f"`engine` is {self.engine!r}; it may be one of {list(ENGINES)}.")
        if self.trials < 1:
            raise ValueError(f"`trials` is {self.trials}; give at least 1.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"`seed` is {self.seed}; give a whole number from 0 to 2**32 - 1.")
        if self.max_asks is not None and self.max_asks < self.trials:
            raise ValueError(f"`max_asks` is {self.max_asks}; {self.trials} `trials` need at least as many.")

    @property
    def budget(self) -> Budget:
        return Budget(self.max_params, self.max_macs, self.max_latency_ms, self.min_quality)


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
) -> SearchResult:
    """Searches until `trials` distinct subnets were run, and goes on where `log_path` left off.

    Subnets that break a closed-form limit are told to the engine as infeasible and cost no trial; repeated subnets are
    answered from memory. A search that is killed at any point and started again gives the same asks as one that was
    not: the log is replayed through the engine without running an image. More `trials` prolong a finished search.

    Args:
        objective (`Objective`): What to search for.
        arguments (`SearchArguments`): Engine, seed and lengths; its budget and goal must be the objective's.
        log_path (`str` or `Path`): JSONL file of every ask, see `SearchLog`.
        context (`dict`, *optional*): Whatever else the qualities depend on (checkpoint, data, prompts), as JSON.
            Kept in the log's first line: a search resumes only with the same.
        progress (`bool`, *optional*, defaults to `True`): Whether to show a progress bar.

    Returns:
        `SearchResult`: The trials, the best, the front.

    Raises:
        ValueError: If arguments and objective disagree, the log belongs to another search, or already the smallest
            subnet is too slow.
    """
    if (arguments.budget, arguments.goal) != (objective.budget, objective.goal):
        raise ValueError(
            f"The objective was made with {objective.budget} and goal {objective.goal!r}, the arguments say "
            f"{arguments.budget} and {arguments.goal!r}. Make it with `arguments.budget` and `arguments.goal`."
        )
    settings = _settings(objective, arguments, context)
    with SearchLog(log_path, settings) as log:
        if not log.asks:
            objective.check_latency()
        engine = make_engine(arguments.engine, objective.space, arguments.seed)
        try:
            asks, stopped = _loop(objective, arguments, engine, log, progress)
        finally:
            engine.close()
    return SearchResult(objective, asks, stopped, settings)


def _settings(objective: Objective, arguments: SearchArguments, context: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "engine": arguments.engine,
        "seed": arguments.seed,
        "goal": objective.goal,
        "budget": objective.budget.to_dict(),
        "space": objective.space.to_dict(),
        "context": context or {},
    }


def _loop(
    objective: Objective, arguments: SearchArguments, engine: SearchEngine, log: SearchLog, progress: bool
) -> tuple[list[Ask], str]:
    asks: list[Ask] = []
    seen: dict[Subnet, Evaluation] = {}
    trials, best = 0, -float("inf")
    max_asks = arguments.max_asks or 100 * arguments.trials
    with tqdm(total=arguments.trials, desc="search", unit="trial", disable=not progress) as bar:
        while trials < arguments.trials:
            if len(asks) >= max_asks:
                return asks, "max_asks"
            subnet = engine.ask() if len(seen) < objective.space.size else None
            if subnet is None:
                return asks, "exhausted"
            logged = log.asks[len(asks)] if len(asks) < len(log.asks) else None
            ask = _answer(objective, subnet, seen, len(asks) + 1, trials + 1, logged)
            if logged is None:
                log.append(ask)
            engine.tell(subnet, ask.evaluation.score)
            asks.append(ask)
            seen[subnet] = ask.evaluation
            if ask.trial is not None:
                trials += 1
                bar.update()
                if ask.evaluation.feasible and ask.evaluation.score is not None:
                    best = max(best, ask.evaluation.score)
            bar.set_postfix(best=f"{best:.4f}", asks=len(asks), refresh=len(asks) % 50 == 0)
    return asks, "trials"


def _answer(
    objective: Objective,
    subnet: Subnet,
    seen: dict[Subnet, Evaluation],
    number: int,
    trial: int,
    logged: Ask | None,
) -> Ask:
    """Answers one ask from the log, from memory, or by evaluating it."""
    cached = subnet in seen
    if logged is not None:
        _check_replay(objective, subnet, number, logged)
        return logged
    evaluation = seen[subnet] if cached else objective.evaluate(subnet)
    is_trial = evaluation.quality is not None and not cached
    return Ask(number, trial if is_trial else None, cached, evaluation)


def _check_replay(objective: Objective, subnet: Subnet, number: int, logged: Ask) -> None:
    then = logged.evaluation
    if then.subnet != subnet:
        raise ValueError(
            f"Line {number + 1} of the log has another subnet than the engine asks for now: the log was made with "
            "other versions of the libraries, or edited. Begin another log."
        )
    if (then.params, then.macs) != (objective.params(subnet), objective.macs(subnet)):
        raise ValueError(
            f"Line {number + 1} of the log has {then.params:,} parameters and {then.macs:,} MACs; the model now has "
            f"{objective.params(subnet):,} and {objective.macs(subnet):,} there. The log belongs to another model."
        )
