"""Ask/tell search of an elastic space under a budget."""

from .engine import SearchEngine
from .log import Ask, SearchLog
from .objective import Budget, Evaluation, Objective
from .pareto import pareto_front
from .result import SearchResult, Shortfall
from .search import SearchArguments, make_engine, run_search


__all__ = [
    "Ask",
    "Budget",
    "Evaluation",
    "Objective",
    "SearchArguments",
    "SearchEngine",
    "SearchLog",
    "SearchResult",
    "Shortfall",
    "make_engine",
    "pareto_front",
    "run_search",
]
