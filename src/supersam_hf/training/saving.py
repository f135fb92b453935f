"""Checkpoints written by all processes together: what fails on one fails on all, and none is left waiting."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator, PartialState

from ..spread import on_main, spread
from .checkpoints import aside_of, check_room, discard, keep_newest, kept, seal
from .errors import TrainingError, explained


def write_checkpoint(
    accelerator: Accelerator, output_dir: Path, step: int, state: Mapping[str, Any], *, needed: int, limit: int
) -> Path:
    """Writes `checkpoint-<step>` aside, then renames it, so that there is never half of one; the oldest go.

    Args:
        state (`dict`): Where the run stands, as JSON data; Accelerate writes the rest.
        needed (`int`): Bytes that it will take: checked before anything is written.
        limit (`int`): Checkpoints kept.

    Raises:
        TrainingError: If it cannot be written, on all processes; what there is of it is removed.
    """
    processes, aside = PartialState(), aside_of(output_dir, step)

    def begin() -> None:
        discard(aside)
        check_room(output_dir, needed)

    def told(function: Callable[[], Any]) -> Any:
        with explained(lambda: f" at step {step}. {kept(output_dir)}"):
            return function()

    try:
        on_main(processes, lambda: told(begin))
        # on each process
        spread(processes, range(processes.num_processes), lambda _: told(lambda: accelerator.save_state(str(aside))))
        folder = on_main(processes, lambda: told(lambda: seal(aside, state)))
    except TrainingError:
        if processes.is_main_process:
            discard(aside)
        raise
    on_main(processes, lambda: keep_newest(output_dir, limit))
    return folder


__all__ = ["write_checkpoint"]
