"""Stages in order: what is done is skipped, what was made with other values is refused, what was killed goes on."""

import json
import logging
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..files import changed_keys, write_json
from ..measure.energy import EnergyRecord, can_track_energy, track_energy
from .folder import RunFolder


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """One stage of a pipeline.

    Args:
        function (`Callable`): Runs it.
        output (`str`): File in the run's folder that shows it is done.
        sections (`tuple[str, ...]`): Parts of the recipe that decide its output.
        working (`str`): Folder of its checkpoints or journals.
        parallel (`bool`): Runs on every process; the others run on the main one alone.
    """

    function: Callable[[Any], None]
    output: str
    sections: tuple[str, ...]
    working: str = ""
    parallel: bool = False


def run_stage(run: RunFolder, stage: Stage) -> None:
    """Runs one stage, on all processes or on the main one while the others wait."""
    if stage.parallel:
        stage.function(run)
    else:
        on_main_process(run, stage.function)


def run_stages(
    run: RunFolder, stages: Mapping[str, Stage], *, skip: Collection[str] = (), redo: str | None = None
) -> None:
    """All stages in order. One whose output is there is skipped, if it was made with the same values.

    Args:
        skip (`Collection[str]`): Stages that the recipe switches off.
        redo (`str`, *optional*): Run this stage and all behind it again.

    Raises:
        ValueError: If an output was made with other values (naming them), or `redo` is no stage.
    """
    if redo is not None and redo not in stages:
        raise ValueError(f"`redo` must be one of {list(stages)}, got {redo!r}.")
    if redo is not None and run.state.is_main_process:
        behind = list(stages)[list(stages).index(redo) :]
        forget(run, {name: stages[name] for name in behind})
    run.state.wait_for_everyone()
    if not can_track_energy():
        logger.info("Energy is not recorded: codecarbon is not installed (pip install supersam-hf[energy]).")
    for name, stage in stages.items():
        if name in skip:
            continue
        if is_done(run, name, stage):
            logger.info(f"== {name}: done already ({run.folder / stage.output})")
            continue
        logger.info(f"== {name}")
        resumed = begin(run, name, stage)
        with energy_meter(run) as energy:
            started = time.perf_counter()
            run_stage(run, stage)
            seconds = time.perf_counter() - started
        if run.state.is_main_process:
            record: dict[str, Any] = {"seconds": seconds, "values": run.recipe.sections(*stage.sections)}
            if energy.use is not None:
                record["energy"] = asdict(energy.use)
            if resumed:
                record["resumed"] = True
            write_json(_record(run, name), record)
            _marker(run, name).unlink()
        run.state.wait_for_everyone()


def begin(run: RunFolder, name: str, stage: Stage) -> bool:
    """Marks a stage as begun. Returns whether it was before: what it takes now is then not all that it took."""
    if not run.state.is_main_process:
        return False
    marker = _marker(run, name)
    begun = marker.exists() or bool(stage.working) and (run.folder / stage.working).exists()
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()
    return begun


def energy_meter(run: RunFolder) -> AbstractContextManager[EnergyRecord]:
    """Watches what a stage uses, on the main process and where codecarbon is installed; else nothing is recorded."""
    if not run.state.is_main_process or not can_track_energy():
        return nullcontext(EnergyRecord())
    return track_energy()


def is_done(run: RunFolder, name: str, stage: Stage) -> bool:
    """Whether a stage's output is there; raises `ValueError` if it was made with other values."""
    record = _record(run, name)
    if not record.exists() or not (run.folder / stage.output).exists():
        return False
    changed = changed_keys(json.loads(record.read_text())["values"], run.recipe.sections(*stage.sections))
    if changed:
        raise ValueError(
            f"{run.folder / stage.output} was made with other values of {', '.join(changed)}. "
            f"Add `--redo {name}` to make it and what follows anew, or choose another `output_dir`."
        )
    return True


def forget(run: RunFolder, stages: Mapping[str, Stage]) -> None:
    """Removes the outputs of stages that are to run again, with their checkpoints and journals."""
    for name, stage in stages.items():
        output = run.folder / stage.output
        paths = [_record(run, name), _marker(run, name), output.parent if "/" in stage.output else output]
        paths += [run.folder / stage.working] if stage.working else []
        for path in paths:
            _remove(path)


def on_main_process(run: RunFolder, function: Callable[[Any], None]) -> None:
    """What is written once runs on the main process while the others wait."""
    if run.state.is_main_process:
        function(run)
    run.state.wait_for_everyone()


def _record(run: RunFolder, name: str) -> Path:
    return run.folder / "stages" / f"{name}.json"


def _marker(run: RunFolder, name: str) -> Path:
    """There from a stage's begin to its end."""
    return _record(run, name).with_suffix(".started")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
