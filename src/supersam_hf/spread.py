"""Work spread over the processes of a run: each item whole on one of them, every result on all.

Since no number is put together from parts, any number of processes gives the same numbers. Every process must come
here with the same items in the same order.

A SIGTERM or SIGINT to any of them cuts off what that one is at, and ends the work of all of them in the same place.
"""

import hashlib
import json
import pickle
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import gather_object

from .interruption import SharedStop, shared_stop


Item = TypeVar("Item")
Result = TypeVar("Result")


def spread(state: PartialState | None, items: Sequence[Item], function: Callable[[Item], Result]) -> list[Result]:
    """`[function(item) for item in items]`, item i on process i % world.

    Args:
        state (`PartialState`, *optional*): This process among the others; None: there are no others.
        items (`Sequence`): The same on all processes.
        function (`Callable`): Its results travel between processes: plain data, no tensors on a device.

    Returns:
        `list`: All results in the order of the items, on all processes.

    Raises:
        Exception: On all processes what the first failing item raised on its own.
        Interrupted: On all processes, if one was asked to stop.
    """
    return [result for results in spread_rounds(state, items, function) for result in results]


def spread_rounds(
    state: PartialState | None, items: Sequence[Item], function: Callable[[Item], Result]
) -> Iterator[list[Result]]:
    """As [`spread`], an item a process at a time: what one round gave can be written down before the next begins."""
    return spread_groups(state, items, lambda group: [function(item) for item in group], 1)


def spread_groups(
    state: PartialState | None,
    items: Sequence[Item],
    function: Callable[[Sequence[Item]], Sequence[Result]],
    size: int,
) -> Iterator[list[Result]]:
    """As [`spread_rounds`], with up to `size` items a process at a time, for a `function` of several items that takes
    less time than one by one. Item i of a round is on process i % world."""
    world = 1 if state is None else state.num_processes
    for start in range(0, len(items), world * size):
        round_items = items[start : start + world * size]
        if state is None or world == 1:
            yield list(function(round_items))
            continue
        own = round_items[state.process_index :: world]
        found = _gathered(_attempt(partial(function, own)) if own else _Attempt([]))
        yield [found[i % world][i // world] for i in range(len(round_items))]


def on_main(state: PartialState | None, function: Callable[[], Result]) -> Result:
    """What `function` returns on the main process, on all of them; the others wait for it.

    Raises:
        Exception: On all processes what it raised on the main one.
        Interrupted: On all processes, if one was asked to stop.
    """
    if state is None or state.num_processes == 1:
        return function()
    return _gathered(_attempt(function) if state.is_main_process else _Attempt(None))[0]


def check_agreement(state: PartialState | None, value: Any, what: str) -> None:
    """Raises `RuntimeError` on all processes unless all of them have the same value.

    Args:
        value: JSON data.
        what (`str`): What it is, as the message says it.
    """
    if state is None or state.num_processes == 1:
        return
    digests = gather_object([hashlib.sha256(json.dumps(value).encode()).hexdigest()])
    others = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
    if others:
        raise RuntimeError(
            f"The processes disagree about {what}: {others} of {len(digests)} have another than process 0. They must "
            "all run the same recipe with the same versions of the libraries."
        )


@dataclass(frozen=True)
class _Attempt:
    """What a function returned, or raised."""

    result: Any
    error: BaseException | None = None

    def __getstate__(self) -> dict[str, Any]:
        """As other processes can read it: not every exception can be pickled and made again."""
        try:
            pickle.loads(pickle.dumps(self.error))
        except (TypeError, AttributeError, pickle.PicklingError):
            return {"result": None, "error": RuntimeError(f"{type(self.error).__name__}: {self.error}")}
        return self.__dict__


def _attempt(function: Callable[[], Any]) -> _Attempt:
    # Whatever ends the work here must reach the other processes: they would wait for this one for ever.
    stop = shared_stop()
    try:
        try:
            if stop is not None:
                stop.begin()
            return _Attempt(function())
        finally:
            if stop is not None:
                stop.end()
    except (Exception, KeyboardInterrupt) as error:
        return _Attempt(None, error)


def _gathered(mine: _Attempt) -> list[Any]:
    """The results of all processes, on all of them.

    Raises:
        Exception: The first error, with the one of this process as its cause.
        Interrupted: If there is none, and a signal came to any process by now: what they have found is lost, no more
            than if the signal had come a moment earlier.
    """
    stop = shared_stop()
    asked = None if stop is None else stop.received
    gathered: list[tuple[_Attempt, signal.Signals | None]] = gather_object([(mine, asked)])
    error = next((attempt.error for attempt, _ in gathered if attempt.error is not None), None)
    if error is not None:
        raise error from (None if mine.error is error else mine.error)
    signals = [asked for _, asked in gathered if asked is not None]
    if signals:
        (stop or SharedStop()).take(signals[0])
    return [attempt.result for attempt, _ in gathered]
