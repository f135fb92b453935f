"""SIGTERM and SIGINT: what is under way is saved, and the process ends with the code that shells give the signal.

Both come of pre-emption, a time limit, or Ctrl-C. The same command goes on later; what waits for its end must not.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(KeyboardInterrupt):
    """SIGTERM or SIGINT asked to stop; the work so far is saved. The message says where it stands.

    No `Exception`: it may strike anywhere, also inside a library that handles its own errors.

    Args:
        received (`signal.Signals`): The signal, to whichever process it came.
    """

    def __init__(self, message: str, received: signal.Signals) -> None:
        super().__init__(message, received)
        self.message, self.received = message, received

    def __str__(self) -> str:
        return self.message

    @property
    def exit_code(self) -> int:
        """130 of SIGINT, 143 of SIGTERM: not 0, since what was asked for is not done."""
        return 128 + self.received


class StopRequest:
    """A first SIGTERM or SIGINT, noted; see [`deferred`].

    Attributes:
        received (`signal.Signals` or None): The one that came.
        taken (`bool`): Whether it was acted upon; one that was not is raised again at the end of the block.
    """

    received: signal.Signals | None = None
    taken = False


class SharedStop:
    """A SIGTERM or SIGINT that came to one of several processes, noted until all know of it: were one to leave alone,
    the others would wait for it, or fail.

    Attributes:
        received (`signal.Signals` or None): The one that came.
        at_once (`bool`): Whether this process is at work of its own, which may be cut off: that reaches the others as
            the work's result.
    """

    received: signal.Signals | None = None
    at_once = False

    def begin(self) -> None:
        """From here on this process works on its own.

        Raises:
            Interrupted: If a signal came already.
        """
        self.at_once = True
        if self.received is not None:
            self.take()

    def end(self) -> None:
        """From here on this process deals with the others again."""
        self.at_once = False

    def take(self, elsewhere: signal.Signals | None = None) -> None:
        """Raises [`Interrupted`] by the signal that came here, else by the one that came to another process; it is not
        raised again."""
        received, self.received, self.at_once = self.received, None, False
        by = "a signal to another process" if received is None else received.name
        number = received or elsewhere or signal.SIGTERM
        raise Interrupted(f"stopped by {by}. What is done is kept; the same command goes on from there.", number)

    def note(self, received: signal.Signals) -> None:
        if received == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = received
        if self.at_once or not _among_others():
            self.take()


@contextmanager
def interruptible() -> Iterator[None]:
    """Within the block, SIGTERM and SIGINT raise [`Interrupted`] at once: for work that can be cut off anywhere,
    because what it has found is written one by one. Of several processes all raise it, where they next meet (see
    `spread`)."""
    stop, several = SharedStop(), False
    try:
        with _handled(stop.note, stop):
            yield
            several = _among_others()
    except Interrupted:
        several = _among_others()
        raise
    finally:
        if several and threading.current_thread() is threading.main_thread():
            # One process may end by a signal that came to another, and meet its own while it ends.
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)


def shared_stop() -> SharedStop | None:
    """What notes the signals of the innermost block, if that is an [`interruptible`] one."""
    handler = signal.getsignal(signal.SIGTERM)
    return handler.stop if isinstance(handler, _Handler) else None


@contextmanager
def deferred() -> Iterator[StopRequest]:
    """Within the block, the first SIGTERM or SIGINT is only noted, for the block to stop where it can. A second SIGINT
    ends the block at once, by `KeyboardInterrupt`."""
    request, around = StopRequest(), shared_stop()

    def note(received: signal.Signals) -> None:
        if received == signal.SIGINT and request.received == signal.SIGINT:
            request.taken = True
            raise KeyboardInterrupt
        request.received = received

    with _handled(note):
        if around is not None and around.received is not None:
            request.received, around.received = around.received, None
        yield request
    if request.received is not None and not request.taken:
        signal.raise_signal(request.received)  # it came too late for the block: whoever is around it decides


class _Handler:
    """What Python calls when a signal comes.

    Args:
        handle (`Callable`): Told which one.
        stop ([`SharedStop`], *optional*): What that notes it in, where other processes must know.
    """

    def __init__(self, handle: Callable[[signal.Signals], None], stop: SharedStop | None) -> None:
        self.handle, self.stop, self.owner = handle, stop, os.getpid()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() == self.owner:
            self.handle(signal.Signals(number))
        elif number == signal.SIGTERM:  # a forked process ends as it would have; loader workers live through both
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


@contextmanager
def _handled(handle: Callable[[signal.Signals], None], stop: SharedStop | None = None) -> Iterator[None]:
    """Puts a handler on both signals for the time of the block; Python allows that in the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = _Handler(handle, stop)
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)


def _among_others() -> bool:
    """Whether other processes wait for this one. Nobody does before torch is even imported."""
    torch = sys.modules.get("torch.distributed")
    return torch is not None and torch.is_available() and torch.is_initialized() and torch.get_world_size() > 1


__all__ = ["SIGNALS", "Interrupted", "SharedStop", "StopRequest", "deferred", "interruptible", "shared_stop"]
