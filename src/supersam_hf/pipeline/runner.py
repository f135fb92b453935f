"""Stages in order: what is done is skipped, what was made with other values is refused, what was killed goes on."""

import json
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..files import changed_keys, write_json
from ..recipe import Recipe
from . import report, stages
from .context import Run


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline.

    Args:
        function (`Callable`): Runs it.
        output (`str`): File in the run's folder that shows it is done.
        sections (`tuple[str, ...]`): Parts of the recipe that decide its output.
        working (`str`): Folder of its checkpoints or journals.
        parallel (`bool`): Runs on every process; the others run on the main one alone.
    """

    function: Callable[[Run], None]
    output: str
    sections: tuple[str, ...]
    working: str = ""
    parallel: bool = False


STAGES = {
    "pretrain": Stage(
        stages.pretrain, "pretrained/config.json", ("data", "pretrain", "holdout_images"), "pretrain", parallel=True
    ),
    "rank-layers": Stage(
        stages.rank_layers, "ranking.json", ("data", "space", "rank_layers", "holdout_images"), "ranking"
    ),
    "reorder": Stage(stages.reorder, "reordered/config.json", ("data", "space", "reorder")),
    "evaluate-before": Stage(
        report.evaluate_before, "evaluation_before.json", ("data", "evaluate"), "evaluation/before.jsonl"
    ),
    "train": Stage(stages.train, "supernet/config.json", ("data", "train", "holdout_images"), "train", parallel=True),
    "search": Stage(stages.search, "search.json", ("data", "search", "holdout_images"), "search"),
    "extract": Stage(stages.extract, "subnet/config.json", ()),
    "report": Stage(report.report, "results.json", ("data", "evaluate", "measure"), "evaluation/report.jsonl"),
}


def run_verb(verb: str, recipe: Recipe, *, redo: str | None = None, subnet: str = "") -> None:
    """Runs one verb of the command line."""
    run = Run(recipe)
    if verb == "run":
        run_pipeline(run, redo)
    elif verb == "finetune":
        stages.finetune(run)
    elif verb == "evaluate":
        _on_main_process(run, report.evaluate)
    elif verb == "extract":
        _on_main_process(run, lambda run: stages.extract(run, subnet))
    elif verb == "measure":
        _on_main_process(run, lambda run: stages.measure(run, subnet))
    else:
        stage = STAGES[verb]
        stage.function(run) if stage.parallel else _on_main_process(run, stage.function)


def run_pipeline(run: Run, redo: str | None = None) -> None:
    """All stages in order. One whose output is there is skipped, if it was made with the same values.

    Args:
        redo (`str`, *optional*): Run this stage and all behind it again.

    Raises:
        ValueError: If an output was made with other values (naming them), or `redo` is no stage.
    """
    if redo is not None and redo not in STAGES:
        raise ValueError(f"`redo` must be one of {list(STAGES)}, got {redo!r}.")
    recipe = run.recipe
    skipped = {
        "pretrain": not recipe.pretrain.enabled,
        "rank-layers": not recipe.rank_layers.enabled,
        "evaluate-before": not recipe.evaluate.before,
    }
    names = [name for name in STAGES if not skipped.get(name, False)]
    if redo is not None and run.state.is_main_process:
        forget(run, list(STAGES)[list(STAGES).index(redo) :])
    run.state.wait_for_everyone()
    for name in names:
        if is_done(run, name):
            logger.info(f"== {name}: done already ({run.folder / STAGES[name].output})")
            continue
        logger.info(f"== {name}")
        started = time.perf_counter()
        stage = STAGES[name]
        stage.function(run) if stage.parallel else _on_main_process(run, stage.function)
        if run.state.is_main_process:
            record = {"seconds": time.perf_counter() - started, "values": recipe.sections(*stage.sections)}
            (run.folder / "stages").mkdir(exist_ok=True)
            write_json(run.folder / "stages" / f"{name}.json", record)
        run.state.wait_for_everyone()


def is_done(run: Run, name: str) -> bool:
    """Whether a stage's output is there; raises `ValueError` if it was made with other values."""
    stage, record = STAGES[name], run.folder / "stages" / f"{name}.json"
    if not record.exists() or not (run.folder / stage.output).exists():
        return False
    changed = changed_keys(json.loads(record.read_text())["values"], run.recipe.sections(*stage.sections))
    if changed:
        raise ValueError(
            f"{run.folder / stage.output} was made with other values of {', '.join(changed)}. "
            f"Add `--redo {name}` to make it and what follows anew, or choose another `output_dir`."
        )
    return True


def forget(run: Run, names: list[str]) -> None:
    """Removes the outputs of stages that are to run again, with their checkpoints and journals."""
    for name in names:
        stage = STAGES[name]
        output = run.folder / stage.output
        paths = [run.folder / "stages" / f"{name}.json", output.parent if "/" in stage.output else output]
        paths += [run.folder / stage.working] if stage.working else []
        for path in paths:
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _on_main_process(run: Run, function: Callable[[Run], None]) -> None:
    """What is written once runs on the main process while the others wait."""
    if run.state.is_main_process:
        function(run)
    run.state.wait_for_everyone()
