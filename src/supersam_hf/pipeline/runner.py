"""Stages in order: what is done is skipped, what was made with other values is refused, what was killed goes on."""

import logging
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..files import changed_keys, read_json, write_json
from ..measure.cost import CostMeter
from ..measure.energy import can_track_energy
from ..recipe import RunRecipe, read_of
from ..spread import on_main
from .costs import cost_file
from .folder import RunFolder


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """One stage of a pipeline.

    Args:
        function (`Callable`): Runs it.
        output (`str`): File in the run's folder that shows it is done.
        sections (`tuple[str, ...]`): Parts of the recipe that decide its output, as [`read_of`] names them.
        working (`str`): Folder of its checkpoints or journals.
        parallel (`bool`): Runs on every process; the others run on the main one alone.
        also (`tuple[str, ...]`): Further files that it leaves, in the run's folder.
        read_by (`tuple[str, ...]`, *optional*): The later stages that read its output; None: all of them.
    """

    function: Callable[[Any], None]
    output: str
    sections: tuple[str, ...]
    working: str = ""
    parallel: bool = False
    also: tuple[str, ...] = ()
    read_by: tuple[str, ...] | None = None

    def values(self, recipe: RunRecipe) -> dict[str, Any]:
        """The sections that it reads something of."""
        return recipe.sections(*(name.partition(".")[0] for name in self.sections))


def run_stage(run: RunFolder, name: str, stage: Stage) -> None:
    """Runs one stage, on all processes or on the main one while the others wait, whether it is done or not.

    What it cost, and the values that it ran with, are left in `stages/<name>.json`.
    """
    with metered(run, name) as meter:
        if stage.parallel:
            stage.function(run)
        else:
            on_main_process(run, stage.function)
    on_main_process(run, lambda run: _write_record(run, name, stage, meter))


def _write_record(run: RunFolder, name: str, stage: Stage, meter: CostMeter) -> None:
    if skipped := run.skip_log.count():
        logger.warning(f"{skipped} examples or records are left out; {run.skip_log.path} says which, and why.")
    record = stage_record(run.folder, name)
    record.parent.mkdir(exist_ok=True)
    write_json(record, {"cost": asdict(meter.total()), "values": stage.values(run.recipe)})


@contextmanager
def metered(run: RunFolder, name: str) -> Iterator[CostMeter]:
    """What a stage costs, added by the main process to what its earlier sittings left in `costs/<name>.json`."""
    path = cost_file(run.folder, name) if run.state.is_main_process else None
    with CostMeter(path, run.recipe.energy) as run.meter:
        yield run.meter


def run_stages(
    run: RunFolder, stages: Mapping[str, Stage], *, skip: Collection[str] = (), redo: str | None = None
) -> None:
    """All stages in order. One whose output is there is skipped, if it was made with the same values.

    Args:
        skip (`Collection[str]`): Stages that the recipe switches off.
        redo (`str`, *optional*): Run this stage and all that build on it again.

    Raises:
        ValueError: If an output was made with other values (naming them), or `redo` is no stage.
    """
    if redo is not None and redo not in stages:
        raise ValueError(f"`redo` must be one of {list(stages)}, got {redo!r}.")
    if redo is not None and run.state.is_main_process:
        behind = list(stages)[list(stages).index(redo) :]
        readers = stages[redo].read_by
        forget(run, {name: stages[name] for name in behind if readers is None or name in (redo, *readers)})
    run.state.wait_for_everyone()
    if not can_track_energy():
        logger.info("Energy is not recorded: codecarbon is not installed (pip install supersam-hf[energy]).")
    for name, stage in stages.items():
        if name in skip:
            continue
        if on_main(run.state, partial(is_done, run, name, stage)):
            logger.info(f"== {name}: done already ({run.folder / stage.output})")
            continue
        logger.info(f"== {name}")
        run_stage(run, name, stage)


def is_done(run: RunFolder, name: str, stage: Stage) -> bool:
    """Whether a stage's output is there; raises `ValueError` if it was made with other values of what it reads."""
    record = stage_record(run.folder, name)
    if not record.exists() or not (run.folder / stage.output).exists():
        return False
    recorded, present = read_json(record)["values"], stage.values(run.recipe)
    names = [name for name in stage.sections if name.partition(".")[0] in recorded]  # earlier versions left some out
    then, now = (_without_budget(read_of(values, *names)) for values in (recorded, present))
    if not (_stops(then) or _stops(now)):
        then, now = _deciding(then), _deciding(now)
    changed = changed_keys(then, now)
    if changed:
        raise ValueError(
            f"{run.folder / stage.output} was made with other values of {', '.join(changed)}. "
            f"Add `--redo {name}` to make it and what builds on it anew, or choose another `output_dir`."
        )
    return True


def forget(run: RunFolder, stages: Mapping[str, Stage]) -> None:
    """Removes the outputs of stages that are to run again, with their checkpoints and journals."""
    for name, stage in stages.items():
        output = run.folder / stage.output
        paths = [stage_record(run.folder, name), cost_file(run.folder, name)]
        paths.append(output.parent if "/" in stage.output else output)
        paths += [run.folder / name for name in (stage.working, *stage.also) if name]
        for path in paths:
            _remove(path)


def on_main_process(run: RunFolder, function: Callable[[Any], None]) -> None:
    """What is written once runs on the main process while the others wait. What it raises is raised on all."""
    on_main(run.state, lambda: function(run))


def stage_record(folder: Path, name: str) -> Path:
    """What the stage of a run in `folder` leaves once it is done."""
    return folder / "stages" / f"{name}.json"


def _deciding(values: dict[str, Any]) -> dict[str, Any]:
    """Without the evaluations of a training that only look on."""
    looks_on = {"eval_steps", "milestone", *(("crop_eval",) if "train" in values else ())}
    return {
        name: {key: value for key, value in section.items() if key not in looks_on}
        if isinstance(section, dict)
        else section
        for name, section in values.items()
    }


def _without_budget(values: dict[str, Any]) -> dict[str, Any]:
    """Without the search's budget, where a training samples nothing near it."""
    near = values.get("train", {}).get("near_budget")
    return values if near is None or near > 0 else {k: v for k, v in values.items() if k != "search"}


def _stops(values: dict[str, Any]) -> bool:
    """Whether an evaluation may end the training."""
    milestone = values.get("train", {}).get("milestone")
    return milestone is not None and milestone["stop"]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
