"""The output folder of a run, whatever the method: what it was begun with, and models written whole."""

import json
import shutil
import tempfile
from collections.abc import Sized
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ..data.skipped import SkipLog
from ..files import changed_keys, write_json, write_whole
from ..measure.cost import CostMeter
from ..processes import join_processes
from ..recipe import RunRecipe
from ..spread import on_main, spread
from ..training.launch import set_deterministic


RECIPE_FILE = "recipe.yaml"


class RunFolder:
    """One output folder and the recipe that fills it.

    Args:
        recipe ([`RunRecipe`]): Its values.
        start (`dict`): The model that the run starts from, as plain data; kept in `start.json`.

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
        self.recipe = recipe
        if recipe.deterministic:
            set_deterministic()
        self.folder = Path(recipe.output_dir)
        self.state = join_processes()
        self.meter = CostMeter(None)
        self.skip_log = SkipLog(self.folder / "skipped.jsonl")
        on_main(self.state, lambda: self._begin(start))
        check_shared(self.state, self.folder)

    def _begin(self, start: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check_start(start)

    def _check_start(self, start: dict[str, Any]) -> None:
        """One folder, one model to start from: what lies there must not stand in for another model."""
        record = self.folder / "start.json"
        if record.exists():
            changed = changed_keys(json.loads(record.read_text()), start)
            if changed:
                raise ValueError(
                    f"{self.folder} was begun from another model ({', '.join(changed)} in {record} differ). "
                    "Choose another `output_dir`."
                )
        else:
            write_json(record, start)

    def keep_recipe(self, given: str | None) -> None:
        """Writes `recipe.yaml`, the values that the run was begun with, for later verbs to be given."""
        if self.state.is_main_process and given is not None and not (self.folder / RECIPE_FILE).exists():
            write_whole(self.folder / RECIPE_FILE, given)

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
        folder, aside = self.folder / name, self.folder / f"{name}.tmp"
        shutil.rmtree(aside, ignore_errors=True)
        for part in parts:
            part.save_pretrained(aside)
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)


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
