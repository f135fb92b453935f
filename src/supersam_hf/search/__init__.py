"""Ask/tell search of an elastic space under a budget."""

from .engine import SearchEngine
from .log import Ask, SearchLog
from .near_budget import NearBudget, feasible_subnets
from .objective import Budget, Evaluation, Objective
from .pareto import pareto_front
from .result import SearchResult, Shortfall
from .search import SearchArguments, make_engine, run_search


__all__ = [
    "Ask",
    "Budget",
    "Evaluation",
    "NearBudget",
    "Objective",
    "SearchArguments",
    "SearchEngine",
    "SearchLog",
    "SearchResult",
    "Shortfall",
    "feasible_subnets",
    "make_engine",
    "pareto_front",
    "run_search",
]
