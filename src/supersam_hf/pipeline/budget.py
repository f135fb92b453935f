"""Whether a space holds a subnet that keeps the budget of a search, in closed form."""

from collections.abc import Callable
from functools import partial
from typing import Any

from ..elastic.cost import count_macs, count_parameters
from ..models.supersam import ElasticSpace, Subnet
from ..search.near_budget import Limits
from ..search.objective import Budget, unmet


Cost = Callable[[Subnet], int]


def check_budget(config: Any, space: ElasticSpace, budget: Budget) -> None:
    """Raise `ValueError` where no subnet of a space, whose prunable layers are settled, keeps a budget's sizes."""
    for name, reason in unmet(space, resolved(config, space, budget), *costs_of(config)).items():
        raise ValueError(
            f"`search.{name}`: with the prunable layers {list(space.prunable_layers)} no subnet keeps {reason}"
        )


def resolved(config: Any, space: ElasticSpace, budget: Budget) -> Budget:
    """A budget with its shares turned into numbers."""
    params, macs = costs_of(config)
    return budget.resolve(params(space.largest()), macs(space.largest()))


def limits_of(config: Any, space: ElasticSpace, budget: Budget) -> Limits | None:
    """The limits of a budget that are known in closed form; None where it has no such limit."""
    asked = resolved(config, space, budget)
    if asked.max_params is None and asked.max_macs is None:
        return None
    return Limits(space, asked.max_params, asked.max_macs, *costs_of(config))


def costs_of(config: Any) -> tuple[Cost, Cost]:
    """Parameters and multiply-accumulates of a model's subnets."""
    return partial(count_parameters, config), partial(count_macs, config)


__all__ = ["check_budget", "costs_of", "limits_of", "resolved"]
