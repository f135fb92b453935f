"""Checkpoints written and read by all processes together: what fails on one fails on all, and none is left waiting.

A checkpoint is JSON and safetensors, nothing else: reading one that comes from elsewhere runs no code of it.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from safetensors import SafetensorError

from ..spread import on_main, spread
from .checkpoints import aside_of, check_room, discard, keep_newest, kept, seal, tensor_bytes
from .errors import CheckpointError, TrainingError, explained
from .sharding import is_sharded, spread_as
from .state import read_state, write_state


@dataclass(frozen=True)
class TrainingState:
    """What a checkpoint carries of a training, beside where it stands.

    Args:
        model (`nn.Module`): Without DDP; sharded, each process writes and reads its own part.
        optimizer (`Optimizer`): Of its parameters.
        device (`torch.device`): Whose random state is kept with that of the CPU.
        others (`Sequence`): Whatever else has `state_dict` and `load_state_dict`: learning-rate schedule, averages.
    """

    model: torch.nn.Module
    optimizer: Any
    device: torch.device
    others: Sequence[Any]

    def bytes(self) -> int:
        """What it takes on disk, about."""
        return sum(tensor_bytes(part.state_dict()) for part in (self.model, self.optimizer, *self.others))

    def write(self, folder: Path, rank: int) -> None:
        """Write this process's files into a folder that is there."""
        if rank == 0 or is_sharded(self.model):
            write_state(folder, self._name("model", rank), self.model.state_dict())
            write_state(folder, self._name("optimizer", rank), self.optimizer.state_dict())
        if rank == 0:
            write_state(folder, "state", [part.state_dict() for part in self.others])
        write_state(folder, f"random-{rank}", random_state(self.device))

    def read(self, folder: Path, rank: int) -> None:
        """Go on from a checkpoint.

        Raises:
            CheckpointError: If a file is no JSON or safetensors, or is of another training, naming it.
        """
        with _reading(folder, self._name("model", rank)) as state:
            reference = self.model.state_dict()
            self.model.load_state_dict({name: spread_as(value, reference[name]) for name, value in state.items()})
        with _reading(folder, self._name("optimizer", rank)) as state:
            self.optimizer.load_state_dict(self._sharded(state))
        with _reading(folder, "state") as states:
            for part, state in zip(self.others, states, strict=True):
                part.load_state_dict(state)
        with _reading(folder, f"random-{rank}") as state:
            set_random_state(state, self.device)

    def _name(self, part: str, rank: int) -> str:
        return f"{part}-{rank}" if is_sharded(self.model) else part

    def _sharded(self, state: dict[str, Any]) -> dict[str, Any]:
        """The optimiser's moments, sharded as its parameters are."""
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        moments = {
            number: {
                key: spread_as(value, parameters[number]) if isinstance(value, torch.Tensor) else value
                for key, value in values.items()
            }
            for number, values in state["state"].items()
        }
        return {**state, "state": moments}


def write_checkpoint(
    training: TrainingState, output_dir: Path, step: int, standing: Mapping[str, Any], *, limit: int
) -> Path:
    """Write `checkpoint-<step>` aside, then rename it, so that there is never half of one; the oldest go.

    Args:
        standing (`dict`): Where the run stands, as JSON data.
        limit (`int`): Checkpoints kept.

    Raises:
        TrainingError: If it cannot be written, on all processes; what there is of it is removed.
    """
    processes, aside, needed = PartialState(), aside_of(output_dir, step), training.bytes()

    def begin() -> None:
        discard(aside)
        check_room(output_dir, needed)
        aside.mkdir()

    def told(function: Callable[[], Any]) -> Any:
        with explained(lambda: f" at step {step}. {kept(output_dir)}"):
            return function()

    try:
        on_main(processes, lambda: told(begin))
        # on each process
        spread(processes, range(processes.num_processes), lambda rank: told(lambda: training.write(aside, rank)))
        folder = on_main(processes, lambda: told(lambda: seal(aside, standing)))
    except TrainingError:
        if processes.is_main_process:
            discard(aside)
        raise
    on_main(processes, lambda: keep_newest(output_dir, limit))
    return folder


def random_state(device: torch.device) -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's generators; torch's on the CPU and on `device`."""
    name, keys, *rest = np.random.get_state()
    state: dict[str, Any] = {"python": random.getstate(), "numpy": (name, np.asarray(keys).tolist(), *rest)}
    state["torch"] = torch.get_rng_state()
    return state | ({} if device.type == "cpu" else {"device": torch.get_device_module(device).get_rng_state()})


def set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Set what [`random_state`] returned; of another kind of device, that device's is left as it is."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "device" in state and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(state["device"])


# What JSON, safetensors, torch and Python's own generators raise for state that is not theirs.
MISFITS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError, SafetensorError)


@contextmanager
def fitting(what: Path | str) -> Iterator[None]:
    """Turn whatever state of another kind or training sets off, where it is read and used, into a
    [`CheckpointError`] that names the file."""
    try:
        yield
    except (CheckpointError, MemoryError, torch.OutOfMemoryError):
        raise
    except MISFITS as error:
        raise CheckpointError(
            f"{what} does not fit this training ({type(error).__name__}: {error}). Its checksum agrees, so it was "
            "written so: take another checkpoint, or set `resume_from_checkpoint: null` to begin anew."
        ) from error


@contextmanager
def _reading(folder: Path, name: str) -> Iterator[Any]:
    """What [`write_state`] wrote under `name`.

    Raises:
        CheckpointError: If it is not there, or cannot be read or used.
    """
    missing = [path for path in (folder / f"{name}.json", folder / f"{name}.safetensors") if not path.is_file()]
    if missing:
        raise CheckpointError(
            f"{missing[0]} is missing: the checkpoint is of a training that was sharded otherwise (FSDP)."
        )
    with fitting(f"{folder / name}.json or .safetensors"):
        yield read_state(folder, name)


__all__ = ["TrainingState", "fitting", "random_state", "set_random_state", "write_checkpoint"]
