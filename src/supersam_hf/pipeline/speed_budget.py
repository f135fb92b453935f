"""What a smaller network's budget comes to in time, told before it is made: networks of random weights are timed."""

from typing import Any

import torch

from ..bimask.budget import stated_budget
from ..bimask.cost import physical_shape, smallest_shape
from ..bimask.space import SearchSpace
from ..elastic.cost import count_macs
from ..oneshot.arguments import PruneArguments
from ..oneshot.latency import Blueprint, Stopwatch, check_fast_enough, first_fast_enough
from ..oneshot.pruning import random_ladder, smallest_reachable
from ..training.bimask_arguments import MaskSearchArguments


def check_prune_latency(blueprint: Blueprint, args: PruneArguments) -> None:
    """Raise `ValueError` where no network that a pruning can leave is as fast as was asked for."""
    if args.latency is not None:
        check_fast_enough(Stopwatch(blueprint), smallest_reachable(_unmade(blueprint), args), args.latency)


def check_search_latency(blueprint: Blueprint, space: SearchSpace, args: MaskSearchArguments) -> None:
    """Raise `ValueError` where no network of a search's space is as fast as was asked for."""
    if args.latency is not None:
        smallest = smallest_shape(physical_shape(_unmade(blueprint)), space)
        check_fast_enough(Stopwatch(blueprint), smallest, args.latency)


def expected_lines(blueprint: Blueprint, args: PruneArguments | MaskSearchArguments) -> list[str]:
    """The time that a budget is expected to come to, or the multiply-accumulates that a time does: those of a network
    whose MLPs and attentions are all narrowed alike."""
    how = args if isinstance(args, PruneArguments) else PruneArguments(max_latency_ms=args.max_latency_ms)
    model = _unmade(blueprint)
    whole, ladder, stopwatch = physical_shape(model), random_ladder(model, how), Stopwatch(blueprint)
    if args.latency is None:
        shape = ladder.resized(ladder.first_within(stated_budget(whole, *args.limits)))
    else:
        shape = ladder.resized(first_fast_enough(ladder, stopwatch, args.latency))
    share, macs = stopwatch.share(shape), count_macs(shape)
    return [
        "",
        "speed, one image at a time, of networks with random weights that were timed here",
        f"  original        {stopwatch.whole_ms:.3g} ms",
        f"  expected        {share * stopwatch.whole_ms:.3g} ms ({share:.0%} of the original's time) with "
        f"{macs / 1e9:,.4g} GMACs ({macs / count_macs(whole):.0%} of the original's)",
    ]


def _unmade(blueprint: Blueprint) -> Any:
    """The whole network without weights."""
    with torch.device("meta"):
        return blueprint.model_class(blueprint.config)


__all__ = ["check_prune_latency", "check_search_latency", "expected_lines"]
