"""A bi-mask search's budget in milliseconds: what stands for it while the search runs, and the check at its end."""

from functools import cached_property
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ..elastic.cost import count_macs
from ..files import read_json, write_json
from ..limits import LatencyLimit
from ..spread import on_main
from .arguments import PruneArguments
from .latency import Blueprint, LatencyFound, Stopwatch, first_fast_enough
from .pruning import random_ladder


class SearchPace:
    """Whether networks of a search are as fast as was asked for.

    The main process times. What it found before the search is written down, so that an interrupted search goes on with
    the same.

    Args:
        model (`PreTrainedModel`): What is searched, whole, on its device.
        limit ([`LatencyLimit`]): What was asked for.
        output_dir (`Path`): Takes `latency.json`.

    Attributes:
        max_macs (`int`): Multiply-accumulates of a network that takes as long as was asked for, all its MLPs and
            attentions narrowed alike.

    Raises:
        ValueError: If no such network does.
    """

    def __init__(self, model: Any, limit: LatencyLimit, output_dir: Path) -> None:
        self.blueprint = Blueprint.of(model)
        self.limit, self.path, self.state = limit, output_dir / "latency.json", PartialState()
        self.max_macs: int = on_main(self.state, self._macs)

    def __call__(self, shape: Any) -> float:
        """Time of a network of these sizes, as a share of what was asked for."""
        return self.found(shape).over

    def found(self, shape: Any) -> LatencyFound:
        """How a network of these sizes keeps the limit."""
        return on_main(self.state, lambda: self.stopwatch.found(shape, self.limit))

    @cached_property
    def stopwatch(self) -> Stopwatch:
        """Of the whole network; on the main process alone."""
        return Stopwatch(self.blueprint)

    def _macs(self) -> int:
        said = {"max_latency_ms": str(self.limit)}
        if self.path.exists() and (before := read_json(self.path)) | said == before:
            return int(before["max_macs"])
        ladder = random_ladder(self.blueprint.build(), PruneArguments(max_latency_ms=str(self.limit)))
        macs = count_macs(ladder.resized(first_fast_enough(ladder, self.stopwatch, self.limit)))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, {**said, "max_macs": macs, "whole_ms": self.stopwatch.whole_ms})
        return macs


__all__ = ["SearchPace"]
