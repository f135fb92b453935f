"""The output folder of a run, whatever the method: what it was begun with, and models written whole."""

import json
import shutil
from collections.abc import Sized
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from ..files import changed_keys, write_json
from ..recipe import RunRecipe


class RunFolder:
    """One output folder and the recipe that fills it.

    Args:
        recipe ([`RunRecipe`]): Its values.
        start (`dict`): The model that the run starts from, as plain data; kept in `start.json`.

    Attributes:
        folder (`Path`): Where everything is written.
        state (`PartialState`): This process among the others, and its device.

    Raises:
        ValueError: If the folder was begun from another model (naming what differs).
    """

    recipe: RunRecipe

    def __init__(self, recipe: RunRecipe, start: dict[str, Any]) -> None:
        self.recipe = recipe
        self.folder = Path(recipe.output_dir)
        # While the main process evaluates or searches, the others wait for it: for as long as it takes.
        self.state = PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(days=7))
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
        elif self.state.is_main_process:
            write_json(record, start)

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


def image_counts(train: Any, evaluation: Any) -> dict[str, int]:
    """How many images a run trains and evaluates on; a stream does not know."""
    named = {"train_images": train, "eval_images": evaluation}
    return {name: len(dataset) for name, dataset in named.items() if isinstance(dataset, Sized)}
