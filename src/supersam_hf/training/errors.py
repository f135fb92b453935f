"""What can end a training, each said in one paragraph: what happened, at which step, what is kept, what to change."""

import errno
import math
import re
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import resource_sharer
from typing import Any

import torch
from safetensors import SafetensorError

from ..data.source import UnreadableError


class TrainingError(RuntimeError):
    """A training cannot go on; the last good checkpoint is kept."""


class LaunchError(TrainingError):
    """The launcher, Accelerate and the training do not fit together."""


class NonFiniteLossError(TrainingError):
    """A loss term, the gradient norm or a weight became NaN or infinite."""


class DiskFullError(TrainingError):
    """There is no room for what must be written."""


class MemoryFullError(TrainingError):
    """The device or the machine ran out of memory."""


class DataError(TrainingError, ValueError):
    """An example cannot be read: a file is gone or broken."""


class WorkerError(TrainingError):
    """A loader worker ended before its work."""


class CheckpointError(TrainingError):
    """There are checkpoints, and none that may be loaded."""


def broken_term(logs: Mapping[str, float], scaled: bool) -> str | None:
    """The first loss term or gradient norm that is not finite, with its value; None if all are.

    Args:
        scaled (`bool`): In fp16 the gradient norm of a skipped step may be infinite.
    """
    for name, value in logs.items():
        if (name.startswith("loss") or (name == "grad_norm" and not scaled)) and not math.isfinite(value):
            return f"`{name}` is {value}"
    return None


def non_finite(what: str, where: str) -> NonFiniteLossError:
    """The error for a value that [`broken_term`] found, or for broken weights; `where` as in [`explained`]."""
    advice = f"Lower the learning rate, set `max_grad_norm`, or use another `mixed_precision`; {OTHER_VALUES}."
    return NonFiniteLossError(f"{what}{where} {advice}")


@contextmanager
def explained(where: Callable[[], str] | None = None) -> Iterator[None]:
    """Turns what the system, torch and its loaders say of the failures above into the errors above; others pass.

    Args:
        where (`Callable`, *optional*): In a training: ends the sentence that says what happened, " at step 7. There
            is no checkpoint yet.". A file that is not there is then one of the data.
    """
    try:
        yield
    except (EOFError, MemoryError, OSError, RuntimeError, ValueError, SafetensorError) as error:
        if _from_a_worker_that_is_gone(error):
            _hear_of_it()
        found = None if isinstance(error, TrainingError) else _explanation(error, training=where is not None)
        if found is None:
            raise
        kind, what, advice = found
        raise kind(f"{what}{where() if where else '.'} {advice}") from error


# What torch puts around an error of a worker, and what begins the line that says the error itself.
CAUGHT = re.compile(r"\ACaught \w+ in (?:DataLoader worker process|pin memory thread)")
LAST_LINE = re.compile(r"^[\w.]+(?:Error|Exception)(?:: |$)", re.MULTILINE)
NO_SPACE = ("No space left on device", "Disk quota exceeded", "PytorchStreamWriter failed", "unexpected pos")
NO_MEMORY = ("can't allocate memory", "not enough memory", "Cannot allocate memory", "out of memory")
DEAD_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\) (exited unexpectedly|is killed by signal)")
GONE = ("Connection reset by peer", "Connection closed by peer")
# Seconds within which a busy system tells that a process is gone whose connection it has closed.
HEARD = 1.0
OTHER_VALUES = "with other values, set `resume_from_checkpoint: null`"


def _explanation(error: Exception, training: bool) -> tuple[type[TrainingError], str, str] | None:
    """Class, what happened, what to do; None for an error of another kind."""
    text = str(error).strip()
    caught = CAUGHT.match(text) is not None
    if caught:
        *_, last = LAST_LINE.finditer(text)
        text = text[last.end() :].strip()
    said = re.sub(r"\A\[Errno \d+\] ", "", text.partition("\n")[0]).rstrip(".")
    is_bad_value = isinstance(error, ValueError)  # it may quote anything
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or (_has(text, NO_SPACE) and not is_bad_value):
        return DiskFullError, f"The disk is full ({said})", "Free some space."
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (_has(text, NO_MEMORY) and not is_bad_value):
        advice = (
            "Lower `data.batch_size` and raise `gradient_accumulation_steps` with it, set `gradient_checkpointing: "
            f"true` or `mixed_precision: bf16`; {OTHER_VALUES}."
        )
        return MemoryFullError, f"Out of memory ({said or 'of this machine'})", advice
    if DEAD_WORKER.search(text) or _from_a_worker_that_is_gone(error):
        advice = "If it was killed for memory: lower `data.num_workers`, or give the container more shared memory."
        return WorkerError, f"A loader worker ended before its work ({said or type(error).__name__})", advice
    if _has(text, GONE) and isinstance(error, RuntimeError):
        return TrainingError, f"Another process is gone ({said})", "What it said tells why."
    kinds: Any = (OSError, ValueError) if caught else (UnreadableError, FileNotFoundError)
    if (caught or training) and isinstance(error, kinds):
        return DataError, text.rstrip("."), "Bring back what is missing or broken."
    return None


def _from_a_worker_that_is_gone(error: Exception) -> bool:
    """Whether a batch was on its way when its worker died: torch says so only if the system has noticed by then."""
    kinds = (ConnectionError, EOFError, FileNotFoundError)
    frames = traceback.walk_tb(error.__traceback__)
    return isinstance(error, kinds) and any(f.f_code.co_filename == resource_sharer.__file__ for f, _ in frames)


def _hear_of_it() -> None:
    """Waits for the system to tell of the dead worker: torch's handler of that signal raises, once, wherever the
    program is by then."""
    if callable(signal.getsignal(signal.SIGCHLD)):
        with suppress(RuntimeError):
            time.sleep(HEARD)


def _has(text: str, phrases: tuple[str, ...]) -> bool:
    return any(phrase in text for phrase in phrases)


__all__ = [
    "CheckpointError",
    "DataError",
    "DiskFullError",
    "LaunchError",
    "MemoryFullError",
    "NonFiniteLossError",
    "TrainingError",
    "WorkerError",
    "broken_term",
    "explained",
    "non_finite",
]
