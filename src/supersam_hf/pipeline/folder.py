"""The output folder of a run, whatever the method: what it was begun with, and models written whole."""

import json
import logging
import tempfile
from collections.abc import Iterator, Sized
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ..data.skipped import SkipLog
from ..files import changed_keys, read_json, write_whole, written_aside
from ..lock import sole_writer
from ..measure.cost import CostMeter
from ..processes import join_processes
from ..recipe import RunRecipe
from ..spread import on_main, spread
from ..training.launch import set_deterministic


START_FILE = "start.json"
RECIPE_FILE = "recipe.yaml"

logger = logging.getLogger(__name__)


class RunFolder:
    """One output folder and the recipe that fills it.

    Args:
        recipe ([`RunRecipe`]): Its values.
        start (`dict`): The model that the run starts from, as plain data; kept in `start.json` once the run begins.

    Attributes:
        folder (`Path`): Where everything is written.
        state (`PartialState`): This process among the others, and its device.
        meter ([`CostMeter`]): Counts what the present stage costs.
        skip_log ([`SkipLog`]): Examples that were left out because they cannot be read.

    Raises:
        ValueError: If the folder was begun from another model (naming what differs), or is not the same on all
            processes.
    """

    recipe: RunRecipe

    def __init__(self, recipe: RunRecipe, start: dict[str, Any]) -> None:
        self.recipe, self.start = recipe, start
        if recipe.deterministic:
            set_deterministic()
        self.folder = Path(recipe.output_dir)
        self.state = join_processes()
        self.meter = CostMeter(None)
        self.skip_log = SkipLog(self.folder / "skipped.jsonl")
        on_main(self.state, self._open)
        check_shared(self.state, self.folder)

    def _open(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check_start()

    def _check_start(self) -> None:
        """One folder, one model to start from: what lies there must not stand in for another model."""
        record = self.folder / START_FILE
        begun = record.exists() and self._made()
        changed = changed_keys(read_json(record), self.start) if begun else []
        if changed:
            raise ValueError(
                f"{self.folder} was begun from another model ({', '.join(changed)} in {record} differ). "
                "Choose another `output_dir`."
            )

    @contextmanager
    def writing(self, given: str | None = None) -> Iterator[None]:
        """Within the block no other process may write to the folder; `start.json` and `recipe.yaml` are in it.

        Where the block fails before it has made anything, those two go again: a model that was refused must not keep
        the right one out.

        Args:
            given (`str`, *optional*): The values that the run is begun with, as YAML, for later verbs.

        Raises:
            ValueError: If another process writes there, or the folder was begun from another model.
        """
        with ExitStack() as stack:
            on_main(self.state, lambda: stack.enter_context(sole_writer(self.folder)))
            before = self._made()
            written = on_main(self.state, lambda: self._begin(given))
            try:
                yield
            except BaseException:
                if self.state.is_main_process and self._made() <= before:
                    for name in written:
                        (self.folder / name).unlink(missing_ok=True)
                raise

    def _begin(self, given: str | None) -> list[str]:
        """Writes what is not there, or is of an attempt that made nothing; returns the names of these files."""
        self._check_start()  # another process may have begun meanwhile
        wanted = {START_FILE: json.dumps(self.start, indent=2) + "\n", RECIPE_FILE: given}
        written = []
        for name, text in wanted.items():
            if text is not None and not (self._made() and (self.folder / name).exists()):
                write_whole(self.folder / name, text)
                written.append(name)
        return written

    def _made(self) -> set[str]:
        """What lies in the folder beside records of attempts."""
        records = {START_FILE, RECIPE_FILE, "run.json", "costs", "stages", self.skip_log.path.name}
        return {path.name for path in self.folder.iterdir() if not path.name.startswith(".")} - records

    def has_model(self, name: str) -> bool:
        """Whether a model was saved under this name."""
        return (self.folder / name / "config.json").exists()

    def write_model(self, name: str, *parts: Any) -> None:
        """Writes a folder that `from_pretrained` loads: aside first, so that it is whole or not there.

        Args:
            parts: Model, processor: whatever has `save_pretrained`.
        """
        if not self.state.is_main_process:
            return
        folder = self.folder / name
        if folder.exists() and not self.has_model(name):
            _put_aside(folder)
        with written_aside(folder) as aside:
            for part in parts:
                part.save_pretrained(aside)


def _put_aside(path: Path) -> None:
    """What is no model was not written here: it gets another name."""
    names = (path.with_name(f"{path.name}.before{number or ''}") for number in count())
    free = next(name for name in names if not name.exists())
    path.rename(free)
    logger.warning(f"{path} was no model, and makes room for one: it is {free} now.")


def check_shared(state: PartialState, folder: Path) -> None:
    """`ValueError` unless what the main process writes to a folder is seen by all: they would begin anew each."""
    if state.num_processes == 1:
        return
    token = on_main(state, lambda: Path(tempfile.mkdtemp(prefix=".shared-", dir=folder)).name)
    seen = spread(state, range(state.num_processes), lambda _: (folder / token).is_dir())
    on_main(state, (folder / token).rmdir)
    blind = [rank for rank, sees in enumerate(seen) if not sees]
    if blind:
        raise ValueError(
            f"`output_dir` {folder} of processes {blind} is another folder than that of process 0: give one that all "
            "nodes share."
        )


def check_holdout(images: int, held_out: int) -> None:
    """`ValueError` where no image is left to train on."""
    if images <= held_out:
        raise ValueError(
            f"`holdout_images` of {held_out} leaves no training image: `data.source` has {images}. Make it smaller."
        )


def image_counts(train: Any, evaluation: Any) -> dict[str, int]:
    """How many images a run trains and evaluates on, where it does."""
    named = {"train_images": train, "eval_images": evaluation}
    return {name: len(dataset) for name, dataset in named.items() if isinstance(dataset, Sized)}
