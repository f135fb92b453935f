"""One-shot pruning: the baseline that any search must beat, and often all that is needed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ..bimask.budget import SearchBudget, stated_budget
from ..bimask.cost import physical_shape
from ..bimask.extract import architecture, standalone
from ..bimask.families import Family, family_of
from ..bimask.families.base import Sizes
from ..bimask.prune import cut_weights, flat_indices
from ..bimask.space import SearchSpace
from ..bimask.submodules import Submodule
from ..elastic.cost import count_macs, count_parameters
from ..limits import check_limits
from .allocation import Ladder, Narrowed
from .arguments import PruneArguments
from .importance import Batch, Importance, Loss, magnitude, plain, random, taylor, wanda
from .latency import Blueprint, Stopwatch, first_fast_enough
from .reconstruction import reconstruct


@dataclass
class EverySize(SearchSpace):
    """A space in which every width is an option.

    Args:
        attention ("channels", "heads" or "none"), mlp (`bool`), embedding (`bool`): What may be narrowed.
    """

    attention: Narrowed = "channels"
    mlp: bool = True
    embedding: bool = False

    def channel_sizes(self, head_dim: int) -> list[int]:
        return _every(head_dim, self.attention == "channels")

    def head_sizes(self, num_heads: int) -> list[int]:
        return _every(num_heads, self.attention == "heads")

    def mlp_sizes(self, intermediate_size: int) -> list[int]:
        return _every(intermediate_size, self.mlp)

    def embedding_sizes(self, hidden_size: int) -> list[int]:
        return _every(hidden_size, self.embedding)


def _every(full: int, on: bool) -> list[int]:
    return list(range(1, full + 1)) if on else [full]


def prune_once(model: Any, args: PruneArguments, batches: Iterable[Batch], loss: Loss) -> tuple[Any, dict[str, Any]]:
    """Cuts `model` down to its budget at once; `model` is used up. No training.

    Args:
        model (`PreTrainedModel`): Of one of the families (`bimask/families`), pretrained.
        batches (`Iterable[dict]`): For Taylor and Wanda, on the model's device; read once.
        loss (`Callable`): `loss(model, batch)`, a scalar with its graph.

    Returns:
        `tuple`: The pruned network, standalone; and the report: budget, size, architecture, and how it was pruned.

    Raises:
        ValueError: If the budget cannot be met by what may be pruned (saying what is left then), or the model has no
            such units.
    """
    check_limits(args)
    family = family_of(model)
    original, before = physical_shape(model), architecture(model)
    stopwatch = None if args.latency is None else Stopwatch(Blueprint.of(model))
    budget = SearchBudget.none(original) if stopwatch else stated_budget(original, *args.limits)
    batches = list(batches) if args.needs_images else []
    dropped: list[int] = []
    if args.drop_layers:
        dropped = least_important_layers(model, family, args.drop_layers, batches, loss)
        model = family.without_layers(model, dropped)
    ladder, importance = _ladder_of(model, family, args, budget, batches, loss)
    if stopwatch and args.latency:
        step = first_fast_enough(ladder, stopwatch, args.latency)
        budget = replace(budget, limit=budget.cost(ladder.resized(step)))
    else:
        step = ladder.first_within(budget)
    _cut(model, ladder, ladder.sizes(step), importance, args, batches, loss)
    pruned = standalone(model)
    shapes = {"original": original, "smallest": ladder.resized(len(ladder.removals))}
    report = _report(pruned, args, budget, shapes) | {"dropped_layers": dropped, "original_architecture": before}
    if stopwatch and args.latency:
        report["latency"] = stopwatch.found(physical_shape(pruned), args.latency).to_dict()
    pruned.config.search = report
    return pruned, report


def smallest_reachable(model: Any, args: PruneArguments) -> Any:
    """The shape of the smallest network that this pruning can leave; the model may be on the meta device. Whether that
    keeps a latency, only timing tells ([`check_fast_enough`]).

    Raises:
        ValueError: If it does not keep the budget (saying what it has), or the model has no such units.
    """
    check_limits(args)
    budget = None if args.latency else stated_budget(physical_shape(model), *args.limits)
    ladder = random_ladder(model, args)
    if budget is not None:
        ladder.first_within(budget)
    return ladder.resized(len(ladder.removals))


def random_ladder(model: Any, args: PruneArguments) -> Ladder:
    """The networks that this pruning can leave, as near as can be told without importance; the model may be on the
    meta device, and is used up where layers are dropped.

    Raises:
        ValueError: If the model has no such units.
    """
    family, budget = family_of(model), SearchBudget.none(physical_shape(model))
    if args.drop_layers:  # which ones, the images say
        check_drop(len(family.blocks(model)), args.drop_layers)
        model = family.without_layers(model, range(args.drop_layers))
    submodules = family.submodules(model, _space(args))
    return _ladder(family, model, submodules, random(submodules, args.seed), args, budget)


def importance_of(
    model: Any, submodules: Mapping[str, Submodule], args: PruneArguments, batches: Iterable[Batch], loss: Loss
) -> Importance:
    """The importance of every unit by the chosen method, (groups, units) each."""
    if args.method == "taylor":
        return taylor(model, submodules, batches, loss)
    if args.method == "wanda":
        return wanda(model, submodules, batches, loss)
    return magnitude(submodules) if args.method == "magnitude" else random(submodules, args.seed)


def least_important_layers(model: Any, family: Family, count: int, batches: Iterable[Batch], loss: Loss) -> list[int]:
    """The layers whose two writes to the residual stream change the loss least, to first order, ascending.

    Raises:
        ValueError: If not one layer would stay.
    """
    blocks = family.blocks(model)
    check_drop(len(blocks), count)
    totals = torch.zeros(len(blocks), dtype=torch.float64)
    with plain(model):
        for batch in batches:
            loss(model, batch).backward()
            effects = [_effect([block.output, block.linears[1]]) for block in blocks]
            totals += torch.tensor(effects, dtype=torch.float64)
            model.zero_grad(set_to_none=True)
    return sorted(totals.argsort(stable=True)[:count].tolist())


def _effect(linears: list[nn.Linear]) -> float:
    """|Σ w · ∂L/∂w| of all their parameters."""
    parameters = [parameter for linear in linears for parameter in linear.parameters()]
    return abs(sum(float((p.detach() * p.grad).sum()) for p in parameters if p.grad is not None))


def _ladder_of(
    model: Any, family: Family, args: PruneArguments, budget: SearchBudget, batches: Iterable[Batch], loss: Loss
) -> tuple[Ladder, Importance]:
    """The networks that the importance of a model's units leads to, and that importance."""
    submodules = family.submodules(model, _space(args))
    importance = importance_of(model, submodules, args, batches, loss)
    return _ladder(family, model, submodules, importance, args, budget), importance


def _cut(
    model: Any,
    ladder: Ladder,
    sizes: Sizes,
    importance: Importance,
    args: PruneArguments,
    batches: Iterable[Batch],
    loss: Loss,
) -> None:
    """Cuts the weights in place, to these sizes."""
    submodules = ladder.submodules
    kept = {name: most_important(importance[name], *sizes[name], s.shared_units) for name, s in submodules.items()}
    if args.reconstruct:
        flat = {name: flat_indices(submodules[name].units, *indices) for name, indices in kept.items()}
        reconstruct(model, submodules, flat, batches, loss)
    for name, (groups, units) in kept.items():
        size = submodules[name].groups, submodules[name].units
        cut_weights(submodules[name], size, groups.to(model.device), units.to(model.device))


def _ladder(
    family: Family,
    model: Any,
    submodules: Mapping[str, Submodule],
    importance: Importance,
    args: PruneArguments,
    budget: SearchBudget,
) -> Ladder:
    options: Any = {name: getattr(args, name) for name in ("scope", "attention", "min_ratio", "round_to")}
    return Ladder(family, physical_shape(model), submodules, importance, cost=budget.cost, **options)


def check_drop(layers: int, dropped: int) -> None:
    """Raises `ValueError` if not one of so many layers would stay."""
    if dropped >= layers:
        raise ValueError(f"`drop_layers` must leave a layer of {layers}, got {dropped}.")


def most_important(
    importance: torch.Tensor, groups: int, units: int, shared_units: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices of the groups that stay (groups,), and of the units that stay in each (groups, units), ascending; ties
    by index.

    Args:
        importance (`torch.Tensor` (G, U)): Of the units; a group has the sum of its units'.
        shared_units (`bool`): All groups keep the same units.
    """
    kept_groups = _top(importance.sum(1), groups)
    of_units = importance[kept_groups]
    if shared_units:
        of_units = of_units.sum(0, keepdim=True).expand_as(of_units)
    return kept_groups, _top(of_units, units)


def _top(values: torch.Tensor, count: int) -> torch.Tensor:
    return values.argsort(dim=-1, descending=True, stable=True)[..., :count].sort(dim=-1).values


def _space(args: PruneArguments) -> SearchSpace:
    return EverySize(attention=args.attention, mlp=args.mlp, embedding=args.embedding)


def _report(pruned: Any, args: PruneArguments, budget: SearchBudget, shapes: dict[str, Any]) -> dict[str, Any]:
    """As a bi-mask search's report, with how it was pruned."""
    shapes = {**shapes, "found": physical_shape(pruned)}
    counts = {name: {"macs": count_macs(s), "params": count_parameters(s)} for name, s in shapes.items()}
    how = {name: getattr(args, name) for name in ("method", "scope", "attention", "reconstruct", "seed", "num_images")}
    return {
        "budget": budget.limit,
        "budget_kind": budget.kind,
        **counts["found"],
        "original": counts["original"],
        "smallest": counts["smallest"],
        "decided_by_search": True,
        "enforced": [],
        "architecture": architecture(pruned),
        "one_shot": how,
    }


__all__ = [
    "EverySize",
    "importance_of",
    "least_important_layers",
    "most_important",
    "prune_once",
    "random_ladder",
    "smallest_reachable",
]
