"""A budget in milliseconds: networks are built and timed against the whole one, on the device that they run on."""

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ..bimask.families import family_of
from ..limits import LatencyLimit
from ..measure.latency import ComparedLatency, compare_latency
from ..measure.model import example_inputs
from .allocation import Ladder


# A network is timed against the whole one until their ratio is known to 0.8 %, within so many rounds and seconds.
PRECISION, LEAST_ROUNDS, MOST_ROUNDS, SECONDS = 0.008, 5, 200, 20.0
# A network this much faster than asked is near enough; so many are tried.
CLOSE, TRIES = 0.03, 8


@dataclass(frozen=True)
class LatencyFound:
    """How fast a network is, beside what was asked for.

    Args:
        limit_ms (`float`): What was asked for, in milliseconds an image.
        whole_ms (`float`): What the whole network took.
        asked (`float`): `limit_ms` as a share of `whole_ms`.
        share (`float`): The network's time as a share of the whole one's, both in the same rounds.
    """

    limit_ms: float
    whole_ms: float
    asked: float
    share: float

    @property
    def over(self) -> float:
        """The network's time as a share of what was asked for: at most 1 keeps the limit."""
        return self.share / self.asked

    def to_dict(self) -> dict[str, float]:
        """Plain JSON data."""
        return asdict(self)


@dataclass(frozen=True)
class Blueprint:
    """What is needed to build networks of a model's kind: only their sizes matter for time, so that weights are
    random.

    Args:
        model_class (`type`): Of one of the families (`bimask/families`).
        config (`PreTrainedConfig`): Of the whole network.
        device (`torch.device`): Where it runs.
        dtype (`torch.dtype`): Of the weights.
    """

    model_class: Any
    config: Any
    device: torch.device
    dtype: torch.dtype = torch.float32

    @classmethod
    def of(cls, model: Any) -> "Blueprint":
        """Of a model, as it is and where it is."""
        return cls(type(model), copy.deepcopy(model.config), model.device, model.dtype)

    def build(self, shape: Any = None) -> Any:
        """A network of these sizes; None: of the whole one's."""
        config = copy.deepcopy(self.config)
        if shape is not None:
            config = type(config)(**family_of(shape).deployed_values(config, shape))
        # SAM's own range, 1e-10, would make numbers that CPUs multiply several times as slowly
        getattr(config, "vision_config", config).initializer_range = 0.02
        with self.device:
            model = self.model_class._from_config(config, attn_implementation=self.config._attn_implementation)
        return model.to(self.dtype).eval()


class Stopwatch:
    """Times networks against a whole one, in interleaved rounds, one image a forward (a SAM: with one prompt).

    Args:
        blueprint ([`Blueprint`]): Of the whole one.

    Attributes:
        whole_ms (`float`): Median time of the whole network when the stopwatch was made.
    """

    def __init__(self, blueprint: Blueprint) -> None:
        self.blueprint = blueprint
        self.whole = _forward(blueprint.build())
        first = self._compare(self.whole, LEAST_ROUNDS)["whole"].latency.median_ms
        self.rounds = max(LEAST_ROUNDS, min(MOST_ROUNDS, round(SECONDS * 1e3 / (2 * first))))
        self.whole_ms = self._compare(self.whole, self.rounds)["whole"].latency.median_ms

    def share(self, shape: Any) -> float:
        """Time of a network of these sizes, as a share of the whole one's."""
        return self._compare(_forward(self.blueprint.build(shape)), self.rounds)["other"].ratio

    def found(self, shape: Any, limit: LatencyLimit) -> LatencyFound:
        """How a network of these sizes keeps a limit."""
        asked = limit.share_of(self.whole_ms)
        return LatencyFound(asked * self.whole_ms, self.whole_ms, asked, self.share(shape))

    def _compare(self, other: Callable[[], Any], rounds: int) -> dict[str, ComparedLatency]:
        both = {"whole": self.whole, "other": other}
        return compare_latency(both, rounds, device=self.blueprint.device, until=PRECISION)


def _forward(model: Any) -> Callable[[], Any]:
    inputs = example_inputs(model)
    return torch.inference_mode()(lambda: model(**inputs))


def check_fast_enough(stopwatch: Stopwatch, smallest: Any, limit: LatencyLimit) -> None:
    """Raise `ValueError` where a limit is none, or the smallest network there can be takes longer, saying how long."""
    whole, asked = stopwatch.whole_ms, limit.share_of(stopwatch.whole_ms)
    if asked >= 1:
        raise ValueError(f"`max_latency_ms` of {limit} is no limit: the original takes {whole:.3g} ms an image here.")
    share = stopwatch.share(smallest)
    if share > asked:
        raise ValueError(
            f"`max_latency_ms` of {limit} cannot be met: the smallest network takes {share * whole:.3g} ms an image "
            f"here ({share:.1%} of the original's {whole:.3g}). Give more, or leave more to be cut."
        )


def first_fast_enough(ladder: Ladder, stopwatch: Stopwatch, limit: LatencyLimit) -> int:
    """The fewest removals, nearly, after which the network takes no longer than a limit: at most 3 % less.

    Raises:
        ValueError: As [`check_fast_enough`].
    """
    asked = limit.share_of(stopwatch.whole_ms)
    low, high = 0, len(ladder.removals)
    check_fast_enough(stopwatch, ladder.resized(high), limit)
    slow, fast = stopwatch.share(ladder.resized(low)), stopwatch.share(ladder.resized(high))
    if slow <= asked:  # dropped layers were enough
        return low
    for _ in range(TRIES):
        if fast >= asked * (1 - CLOSE) or high - low <= 1:
            break
        # time is nearly a straight line of what leaves
        guess = low + round((high - low) * (slow - asked * (1 - CLOSE / 2)) / (slow - fast))
        guess = max(low + 1, min(high - 1, guess))
        share = stopwatch.share(ladder.resized(guess))
        if share <= asked:
            high, fast = guess, share
        else:
            low, slow = guess, share
    return high


__all__ = ["Blueprint", "LatencyFound", "Stopwatch", "check_fast_enough", "first_fast_enough"]
