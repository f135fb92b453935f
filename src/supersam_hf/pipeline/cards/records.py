"""What a run's files say, read for its model card and its search record: facts alone, and no path of this machine."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ... import __version__
from ...hub.facts import Source, StageCost
from ...training.engine import STATE_FILE, checkpoints


SHAPES = Source("generated shapes")
# Of the stages of both methods.
ORDER = ("pretrain", "rank-layers", "reorder", "evaluate-before", "train", "search", "extract", "finetune", "report")


class RunRecords:
    """The records of one run's folder; a file that is not there says nothing.

    Args:
        folder (`Path`): Of the run.

    Raises:
        ValueError: If it is no run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "start.json").is_file():
            raise ValueError(f"{folder} is no run's folder: it has no start.json.")

    def read(self, name: str) -> Any:
        """A JSON file of the run, or None."""
        path = self.folder / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    @cached_property
    def results(self) -> dict[str, Any]:
        return self.read("results.json") or {}

    @cached_property
    def search(self) -> dict[str, Any] | None:
        return self.read("search.json")

    @cached_property
    def rows(self) -> dict[str, dict[str, Any]]:
        """The lines of the report by name."""
        return {row["name"]: row for row in self.results.get("rows", ())}

    @cached_property
    def before(self) -> dict[str, dict[str, Any]]:
        """The same before training."""
        return {row["name"]: row for row in self.results.get("before", ())}

    @cached_property
    def stages(self) -> dict[str, dict[str, Any]]:
        """The stages that the pipeline ran, in order, each with its seconds and the values it ran with."""
        records = {name: self.read(f"stages/{name}.json") for name in ORDER}
        return {name: record for name, record in records.items() if record is not None}

    def trained(self, stage: str) -> dict[str, Any] | None:
        """The arguments that a training ran with, as its stage or its last checkpoint has them; None if neither.

        A recipe alone would not do: it also holds the values of stages that never ran.
        """
        values = self.stages.get(stage, {}).get("values", {})
        if values:
            return {**values[stage], "batch_size": values["data"]["batch_size"], "data": values["data"]}
        saved = checkpoints(self.folder / stage)
        return json.loads((saved[-1] / STATE_FILE).read_text())["run"] if saved else None

    @property
    def trained_on(self) -> dict[str, Any] | None:
        """The data arguments of a training of this run."""
        trainings = (self.trained(stage) for stage in ("train", "search", "finetune", "adapt"))
        return next((args["data"] for args in trainings if args is not None), None)

    @property
    def evaluated_on(self) -> dict[str, Any] | None:
        """The data arguments of the report."""
        return self.results["recipe"]["data"] if self.results else None

    @property
    def base(self) -> Source | None:
        """The model that the run started from; None if it trained one itself."""
        start = self.read("start.json")
        return None if start.get("pretrain") is True else source(start["name"], self.folder)

    @property
    def data(self) -> Source | None:
        args = self.evaluated_on or self.trained_on
        if args is None:
            return None
        return SHAPES if "shapes" in (args["source"], args.get("format")) else source(args["source"], self.folder)

    @property
    def costs(self) -> list[StageCost]:
        return [_cost(name, record) for name, record in self.stages.items()]

    def versions(self, config: Any) -> dict[str, str]:
        """Of the libraries: as the report and the model's config have them."""
        ran_on = self.results.get("hardware", {})
        found = {"supersam_hf": __version__, "transformers": config.transformers_version}
        found |= {name: ran_on.get(name) for name in ("torch", "python")}
        return {name: str(version) for name, version in found.items() if version is not None}


def source(name: str, folder: Path) -> Source:
    """A model or dataset by the name that a recipe gives it: its repository, or the name of its local folder.

    Args:
        name (`str`): Hub id or path.
        folder (`Path`): The run's; a relative path may have been meant from any folder above it.
    """
    if not _is_local(name, folder):
        card = try_to_load_from_cache(name, "README.md")
        return Source(name, name, _license(Path(card)) if isinstance(card, str) else None)
    path = Path(name)
    return Source(path.resolve().name, None, _license(path / "README.md"))


def public_data(args: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The `data` section without paths: local ones by their name, and without what only says how fast to load."""
    kept = {key: value for key, value in args.items() if key not in ("num_workers", "label_mapping")}
    found = SHAPES if "shapes" in (args["source"], args.get("format")) else source(args["source"], folder)
    return kept | {"source": found.hub_id or found.name}


def _is_local(name: str, folder: Path) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return True
    # `runs/a` reads like a repository: what is or was a path beside the run is none.
    above = [Path(), *folder.resolve().parents]
    return name.count("/") != 1 or name.startswith(("~", ".")) or any((root / name).exists() for root in above)


def _license(card: Path) -> str | None:
    if not card.is_file():
        return None
    stated = ModelCard.load(card, ignore_metadata_errors=True).data.license
    return stated if isinstance(stated, str) else None


def _cost(name: str, record: dict[str, Any]) -> StageCost:
    energy = record.get("energy") or {}
    return StageCost(name, record["seconds"], energy.get("kwh"), energy.get("kg_co2eq"), energy.get("method"))


__all__ = ["RunRecords", "public_data", "source"]
