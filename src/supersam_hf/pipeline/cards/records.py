"""What a run's files say, read for its model card and its search record: facts alone, and no path of this machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, try_to_load_from_cache
from huggingface_hub.errors import StrictDataclassError

from ...files import check_links, read_json
from ...hub.contents import is_hub_id
from ...hub.facts import Source, StageCost
from ...measure.cost import read_sittings, total_cost
from ...training.checkpoints import STATE_FILE, checkpoints
from ..costs import ORDER, cost_file


SHAPES = Source("generated shapes")


class RunRecords:
    """The records of one run's folder; a file that is not there says nothing.

    Args:
        folder (`Path`): Of the run.

    Raises:
        ValueError: If it is no run's folder, or a link in it leads out of it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: list[str] = []  # of the files that were read
        if not (folder / "start.json").is_file():
            raise ValueError(f"{folder} is no run's folder: it has no start.json.")
        check_links(folder)

    def read(self, name: str) -> Any:
        """A JSON file of the run, or None."""
        path = self.folder / name
        if not path.is_file():
            return None
        self.names.append(name)
        return read_json(path)

    @contextmanager
    def as_written(self) -> Iterator[None]:
        """Names the files where a record has another shape than a run of this version writes.

        Raises:
            ValueError: For what was changed by hand or by another version, the cause chained.
        """
        try:
            yield
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise ValueError(
                f"A record in {self.folder} is not as this version writes it ({type(error).__name__}: {error}): "
                f"one of {', '.join(dict.fromkeys(self.names))} was changed by hand, or is of another version."
            ) from error
        except ValueError as error:
            if not isinstance(error.__cause__, StrictDataclassError):
                raise
            raise ValueError(
                f"A model's config.json in {self.folder} is not as this version writes it: {error}"
            ) from error

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
        values, saved = self.stages.get(stage, {}).get("values", {}), checkpoints(self.folder / stage)
        state = read_json(saved[-1] / STATE_FILE)["run"] if saved else None
        if values:
            known = {"batch_size": values["data"]["batch_size"], "data": values["data"]}
            processes = {} if state is None or "processes" not in state else {"processes": state["processes"]}
            if stage == "train-whole":  # what its section leaves open is as in `finetune`
                given = {name: value for name, value in values["whole"].items() if value is not None}
                return {**values["finetune"], **given, **known, **processes}
            return {**values[stage], **known, **processes}
        return state

    @property
    def trained_on(self) -> dict[str, Any] | None:
        """The data arguments of a training of this run."""
        names = ("train", "search", "bimask", "train-whole", "prune", "recover", "finetune", "adapt")
        trainings = (self.trained(stage) for stage in names)
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
        """The dataset that the run trained on."""
        return None if self.trained_on is None else data_source(self.trained_on, self.folder)

    @property
    def evaluated(self) -> Source | None:
        """The dataset of the report."""
        return None if self.evaluated_on is None else data_source(self.evaluated_on, self.folder)

    def measured(self, name: str, weights: str | None) -> dict[str, Any] | None:
        """A line of the report, if it is about these weights; an older report does not say whose it is."""
        row = self.rows.get(name)
        return row if row is None or row.get("weights", weights) == weights else None

    def costs(self, *more: str) -> list[StageCost]:
        """Of the stages that were begun, in order; of trainings after the search only those that are named."""
        files = {name: cost_file(self.folder, name) for name in (*ORDER, "adapt")}
        later = {"bimask", "recover", "finetune", "adapt"} - {*more}
        return [_cost(n, read_sittings(path)) for n, path in files.items() if n not in later and path.is_file()]

    def costs_whole(self, *trainings: str) -> bool:
        """Whether the cost of every one of these trainings, and of what the run started from, is recorded."""
        begun = {"pretrain"} if self.read("start.json").get("pretrain") is True else set()
        return {*trainings, *begun} <= {cost.name for cost in self.costs(*trainings)}

    @cached_property
    def milestone(self) -> dict[str, Any] | None:
        return self.read("milestone.json")

    def versions(self, config: Any) -> dict[str, str]:
        """Of the libraries: as the report and the model's config have them."""
        ran_on = self.results.get("hardware", {})
        recorded = self.results.get("versions", {})
        found = {"supersam_hf": recorded.get("supersam_hf"), "transformers": config.transformers_version}
        found |= {name: ran_on.get(name) for name in ("torch", "python")}
        return {name: str(version) for name, version in found.items() if version is not None}


def source(name: str, folder: Path) -> Source:
    """A model or dataset by the name that a recipe gives it: its repository, or the name of its local folder.

    Args:
        name (`str`): Hub id or path.
        folder (`Path`): The run's; a relative path may have been meant from any folder above it.
    """
    # `runs/a` reads like a repository: what is or was a path beside the run is none.
    if is_hub_id(name, [Path(), *folder.resolve().parents]):
        card = try_to_load_from_cache(name, "README.md")
        return Source(name, name, _license(Path(card)) if isinstance(card, str) else None)
    path = Path(name)
    return Source(path.resolve().name, None, _license(path / "README.md"))


def data_source(args: dict[str, Any], folder: Path) -> Source:
    """The dataset of a `data` section."""
    return SHAPES if "shapes" in (args["source"], args.get("format")) else source(args["source"], folder)


def public_data(args: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The `data` section without paths: local ones by their name, and without what only says how fast to load."""
    kept = {key: value for key, value in args.items() if key not in ("num_workers", "label_mapping")}
    found = data_source(args, folder)
    return kept | {"source": found.hub_id or found.name}


def _license(card: Path) -> str | None:
    if not card.is_file():
        return None
    stated = ModelCard.load(card, ignore_metadata_errors=True).data.license
    return stated if isinstance(stated, str) else None


def _cost(name: str, sittings: list[dict[str, Any]]) -> StageCost:
    known = {f.name for f in fields(StageCost)}
    total = {key: value for key, value in asdict(total_cost(sittings)).items() if key in known}
    return StageCost(name, **total, sittings=len(sittings))


__all__ = ["RunRecords", "data_source", "public_data", "source"]
