"""What can be known of a run before its first stage: the reasons why it would fail, found together by cheap reads.

The checks of every method are here, in `preflight_data` (splits, columns, labels) and `preflight_model` (kind of
checkpoint); `supersam_preflight` and `ofb_preflight` put them together for their verbs. A run refuses to begin with a
problem, a dry run tells each of them.
"""

import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate.tracking import get_available_trackers

from ..processes import join_processes
from ..recipe import RunRecipe
from ..training.arguments import EngineArguments
from .folder import RunFolder
from .runner import Stage, is_done


GIB = 2**30


@dataclass(frozen=True)
class Problem:
    """A reason why a run would fail.

    Args:
        field (`str`): The value to change, as it is given on the command line.
        reason (`str`): What is wrong with it, and what is accepted.
    """

    field: str
    reason: str

    def __str__(self) -> str:
        return f"`{self.field}`: {self.reason}"


class Problems(list[Problem]):
    """The problems of one run, in the order in which they were found."""

    def add(self, field: str, reason: str) -> None:
        """Add a problem; one that is there already is not added again."""
        problem = Problem(field, reason)
        if problem not in self:
            self.append(problem)

    @contextmanager
    def of(self, field: str) -> Iterator[None]:
        """Take what the body raises of bad values and missing files as a problem of `field`."""
        try:
            yield
        except (ValueError, OSError) as error:
            self.add(field, str(error).removeprefix(f"`{field}`").lstrip(": "))


def refuse(problems: Sequence[Problem]) -> None:
    """Raise one `ValueError` that names all problems; nothing where there is none."""
    if len(problems) == 1:
        raise ValueError(f"nothing was run: {problems[0]}")
    if problems:
        listed = "\n".join(f"  {number}. {problem}" for number, problem in enumerate(problems, start=1))
        raise ValueError(f"nothing was run: {len(problems)} values cannot work.\n{listed}")


def refuse_plan(problems: Sequence[Problem]) -> None:
    """The same at the end of a dry run."""
    if problems:
        raise ValueError("\n".join(["", *(f"this run will fail because of {problem}" for problem in problems)]))


def unopened(run_class: Any, recipe: RunRecipe) -> Any:
    """A run of this class that makes, locks and checks no folder."""
    run = run_class.__new__(run_class)
    run.recipe, run.folder, run.state = recipe, Path(recipe.output_dir), join_processes()
    return run


def stages_ahead(
    run: RunFolder, stages: Mapping[str, Stage], off: Collection[str], redo: str | None, problems: Problems
) -> list[str]:
    """The stages that a pipeline would run. A later one that was made with other values is a problem now, not when
    its turn comes.

    Args:
        off (`Collection[str]`): Stages that the recipe switches off.
        redo (`str`, *optional*): This stage and those behind it run whether they are done or not.
    """
    ahead: list[str] = []
    if redo is not None and redo not in stages:
        problems.add("redo", f"must be one of {list(stages)}, got {redo!r}.")
    again = False
    for name in (name for name in stages if name not in off or name == redo):
        again = again or name == redo
        done = False
        if not again:
            with problems.of("output_dir"):
                done = is_done(run, name, stages[name])
        if not done and name not in off:
            ahead.append(name)
    return ahead


def needs_no_start(run: RunFolder, stages: Sequence[str]) -> bool:
    """Whether a verb works on what the run has left, so that the model it began from may be gone."""
    return (run.folder / "start.json").exists() and {*stages} <= {"extract", "measure"}


def check_holdout(train: int | None, held_out: int, problems: Problems) -> None:
    """The images that are held out leave some to train on."""
    if train is not None and 0 < train <= held_out:
        advice = f"give fewer, such as `--holdout_images {train // 5}`" if train >= 5 else "there are too few images"
        reason = f"{held_out} leaves no training image: `data.train_split` has {train}; {advice}."
        problems.add("holdout_images", reason)


def check_trainings(trainings: Mapping[str, EngineArguments], problems: Problems) -> None:
    """Trackers are installed, and the device can do the precision.

    Args:
        trainings (`Mapping`): Arguments of the trainings ahead, by their section.
    """
    there = {str(tracker) for tracker in get_available_trackers()}
    for section, args in trainings.items():
        unknown = sorted(set(args.report_to) - there)
        if unknown:
            problems.add(
                f"{section}.report_to",
                f"names {unknown}, which is not installed: pip install {' '.join(unknown)}, or leave it out "
                f"(`--{section}.report_to []`).",
            )
        if args.mixed_precision == "fp16" and not torch.accelerator.is_available():
            problems.add(f"{section}.mixed_precision", "fp16 needs a GPU, and there is none here; give bf16 or no.")
    precisions = {section: args.mixed_precision for section, args in trainings.items()}
    if len(set(precisions.values())) > 1:
        first, *others = [f"{section}.mixed_precision" for section in precisions]
        told = ", ".join(f"{section}: {kind}" for section, kind in precisions.items())
        problems.add(first, f"and {', '.join(others)} differ ({told}); one process runs at one precision: give one.")


def check_installed(module: str, field: str, what: str, extra: str, problems: Problems) -> None:
    """A library that the recipe asks for is there."""
    if find_spec(module) is None:
        problems.add(field, f"{what} needs {module}, which is not installed: pip install 'supersam-hf[{extra}]'.")


def check_output(folder: Path, needed: int, problems: Problems) -> None:
    """The output folder can be written to, and its disk has room for what will lie there.

    Args:
        needed (`int`): Bytes.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        problems.add("output_dir", f"{there} is a file; give a folder.")
        return
    if not os.access(there, os.W_OK):
        problems.add("output_dir", f"{there} cannot be written to; give another folder.")
    free = shutil.disk_usage(there).free
    if needed > free:
        problems.add(
            "output_dir",
            f"checkpoints and models take {needed / GIB:.1f} GiB, and the disk of {there} has {free / GIB:.1f} GiB "
            "free; give another folder, or a smaller `save_total_limit`.",
        )


def bytes_ahead(weights: int, trainings: Mapping[str, tuple[int, EngineArguments]], folder: Path) -> int:
    """Bytes that trainings will have on disk: each its model, and its checkpoints where none are there yet.

    Args:
        weights (`int`): Bytes of the weights.
        trainings (`Mapping`): By the folder of a training, the bytes of the weights that it trains, and its arguments.
    """
    total = 0
    for name, (trained, args) in trainings.items():
        total += weights
        if args.save_steps and not (folder / name).exists():
            kept = min(args.save_total_limit + 1, -(-args.max_steps // args.save_steps))
            total += kept * (weights + 2 * trained)
    return total


__all__ = [
    "Problem",
    "Problems",
    "bytes_ahead",
    "check_holdout",
    "check_installed",
    "check_output",
    "check_trainings",
    "needs_no_start",
    "refuse",
    "refuse_plan",
    "stages_ahead",
    "unopened",
]
