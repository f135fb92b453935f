"""From a run's folder to what is published of it: model, processor, model card, search record, Pareto front."""

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoImageProcessor, PreTrainedModel

from ..escape import shell
from ..files import fingerprint, read_json
from ..hub.card import model_card
from ..hub.facts import CardFacts
from ..models.classifiers import CLASSIFIER_CLASSES, CLASSIFIERS, load_classifier
from ..models.supersam import Subnet, SuperSamModel, SuperSamProcessor
from .cards import ofb, supersam
from .cards.adapter import adapter_facts
from .cards.records import RunRecords, public_data
from .cards.supersam_record import pareto, search_record, seeds


FORMAT_VERSION = 1
SAVED_SAMS = ("subnet", "recovered", "finetuned", "supernet")
SUPERSAM_NAMES = (*SAVED_SAMS, "found", "adapter", "largest", "smallest", "pareto-0", "pareto-1", "...")
OFB_NAMES = ("subnet", "searched", "pruned", "finetuned")


@dataclass(frozen=True)
class Publication:
    """One model of a run, ready to be exported.

    Args:
        model (`PreTrainedModel` or `Path`): The model; of an adapter the folder that peft wrote.
        processor (`Any`): Its processor; None of an adapter.
        card (`str`): README.md.
        search (`dict`, *optional*): How it was found: search.json.
        pareto (`dict`, *optional*): Of a supernet, the front that its search found: pareto.json.
        figures (`dict[str, Path]`): What the card shows, by file name.
        version (`str`, *optional*): The tag that the card's snippets pin, to be given to [`hub.push`]; None where they
            load another revision.
    """

    model: PreTrainedModel | Path
    processor: Any
    card: str
    search: dict[str, Any] | None = None
    pareto: dict[str, Any] | None = None
    figures: dict[str, Path] = field(default_factory=dict)
    version: str | None = None

    def push_arguments(self) -> dict[str, Any]:
        """The keyword arguments of [`hub.push`] beside the model and the repository."""
        return {**self.export_arguments(), "version": self.version}

    def export_arguments(self) -> dict[str, Any]:
        """The keyword arguments of [`hub.export`] beside the model."""
        if isinstance(self.model, Path):
            return {"card": self.card}
        known = {"processor": self.processor, "card": self.card, "search": self.search, "pareto": self.pareto}
        return known | {"figures": self.figures}


def publication(
    run_folder: Path | str,
    name: str,
    *,
    repo_id: str | None = None,
    revision: str | None = None,
    stock: bool = False,
) -> Publication:
    """What there is to publish of one model of a run, with a card of what the run's files say.

    Args:
        run_folder (`Path` or `str`): Of a SuperSAM, OFB or adapter run.
        name (`str`): `subnet`, `finetuned`; SuperSAM: `found` (`subnet` is the recovered one, once there is one),
            `supernet`, `largest`, `smallest`, `pareto-2`, `adapter`; OFB: `searched`, `pruned`.
        repo_id (`str`, *optional*): Repository that the card's snippets load; the folder itself if not given.
        revision (`str`, *optional*): Branch, tag or commit that they load; if not given, a tag named after the
            weights, which stays with them.
        stock (`bool`): The card of a plain `transformers.SamModel`, for `export(…, stock=True)`.

    Raises:
        ValueError: If the folder is no run's, has no such model (listing what it may be), has not got so far, or holds
            a record that is not as a run writes it.
    """
    records = RunRecords(Path(run_folder))
    with records.as_written():
        return _publication(records, name, repo_id, revision, stock)


def _publication(
    records: RunRecords, name: str, repo_id: str | None, revision: str | None, stock: bool
) -> Publication:
    name = _furthest(records, name)
    model, processor, weights = _loaded(records, name, stock)
    version = f"weights-{_digest(model)[:8]}" if revision is None and repo_id is not None else None
    where = {"repo": repo_id or ".", "revision": revision or version or "main"}
    if isinstance(model, Path):
        return Publication(model, None, model_card(adapter_facts(records, **where)), version=version)
    if isinstance(model, CLASSIFIER_CLASSES):
        facts = ofb.classifier_facts(records, name, model, weights=weights, **where)
        record = ofb.search_record(records)
        return _of(records, model, processor, facts, {"name": name, **record}, ofb.seeds(records), version=version)
    record = search_record(records, model.config.subnet, name)
    if name == "supernet":
        facts = supersam.supernet_facts(records, model, weights=weights, **where)
        return _of(records, model, processor, facts, record, seeds(records), pareto(records, weights), version)
    facts = supersam.subnet_facts(records, name, model, stock=stock, weights=weights, **where)
    return _of(records, model, processor, facts, record, seeds(records), version=version)


def _furthest(records: RunRecords, name: str) -> str:
    """The saved model that a name of a SuperSAM run is for: `subnet` is the recovered one, if that was trained from
    the subnet that is there; `found` is the subnet as it was extracted."""
    if name == "found":
        return "subnet"
    if name != "subnet" or not (_has(records, "recovered") and _has(records, "subnet")):
        return name
    subnets = [read_json(records.folder / saved / "config.json").get("subnet") for saved in ("subnet", "recovered")]
    return "recovered" if subnets[0] == subnets[1] else name


def _loaded(records: RunRecords, name: str, stock: bool) -> tuple[Any, Any, str | None]:
    """The model, or the folder of an adapter, its processor, and the fingerprint of the weights that were loaded: the
    report has those of the supernet for a subnet that is taken out here."""
    if name == "adapter":
        return _adapter_folder(records), None, None
    if _method(records, name) == "ofb":
        model, processor = _classifier(records, name, stock)
        return model, processor, fingerprint(model)
    saved = name if name in SAVED_SAMS else "supernet"
    sam, weights = _sam(records, name)
    return sam, _processor(SuperSamProcessor, records.folder / saved), weights


def _processor(kind: Any, folder: Path) -> Any:
    """The processor in a folder of the run, whose values may have been changed by hand.

    Raises:
        ValueError: If it cannot be made, naming the file.
    """
    try:
        return kind.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{folder}/processor_config.json cannot be used: {error}") from error


def _digest(model: Any) -> str:
    """Of all weights: the same for the same ones, whatever else is published with them."""
    if isinstance(model, Path):
        return hashlib.sha256((model / "adapter_model.safetensors").read_bytes()).hexdigest()
    return fingerprint(model)


def _method(records: RunRecords, name: str) -> str:
    """Which of the two a run is of, by any model that it has."""
    for saved in ("supernet", "subnet", "searched", "pruned", "finetuned", "pretrained"):
        if _has(records, saved):
            model_type = AutoConfig.from_pretrained(records.folder / saved, trust_remote_code=False).model_type
            return "ofb" if model_type in CLASSIFIERS else "supersam"
    _refuse_without_supernet(records, name)
    raise ValueError(f"{records.folder} has no model yet: the run has not got so far.")


def _refuse_without_supernet(records: RunRecords, name: str) -> None:
    """`ValueError` for a run that searched in a supernet that was trained elsewhere, saying what to do."""
    start = records.read("start.json")
    started, revision = start.get("name"), start.get("revision")
    if started is None or records.search is None or "front" not in records.search or _has(records, "supernet"):
        return
    if name == "supernet":
        raise ValueError(f"{records.folder} trained no supernet: it searched in {started}. Push that one.")
    asked = shell("found" if name == "subnet" else name)
    to = shell(str(records.folder))
    pinned = "" if revision is None else f" --model.revision {shell(revision)}"
    raise ValueError(
        f"{records.folder} trained no supernet: it searched in {started}. To push {name} of it, take it out first: "
        f"`supersam-hf extract --model.name {shell(started)}{pinned} --output_dir {to} --subnet {asked}`, then "
        "push `subnet`."
    )


def _classifier(records: RunRecords, name: str, stock: bool) -> tuple[Any, Any]:
    if stock:
        raise ValueError("`stock` is of a SAM; a classifier cannot be written so.")
    if name not in OFB_NAMES:
        raise ValueError(f"`name` is {name!r}; of an OFB run it may be one of {list(OFB_NAMES)}.")
    if name == "subnet" and not _has(records, "subnet"):  # the extracted one is the found one, checked
        name = "pruned" if _has(records, "pruned") else "searched"
    folder = _model_folder(records, name)
    return load_classifier(folder).eval(), _processor(AutoImageProcessor, folder)


def _of(
    records: RunRecords,
    model: Any,
    processor: Any,
    facts: CardFacts,
    record: dict[str, Any],
    seeds: dict[str, int],
    front: dict[str, Any] | None = None,
    version: str | None = None,
) -> Publication:
    """The publication of these facts; figures that the run does not have are left out of the card too."""
    figures = {name: records.folder / name for name in facts.figures if (records.folder / name).is_file()}
    shown = {name: caption for name, caption in facts.figures.items() if name in figures}
    ofb_run = facts.kind == "ofb_subnet"
    search: dict[str, Any] = {"format_version": FORMAT_VERSION, "method": "ofb" if ofb_run else "supersam", **record}
    search |= {"seeds": seeds, "versions": dict(facts.versions)}
    data = records.trained_on or records.evaluated_on
    if data is not None:
        search["data"] = public_data(data, records.folder)
    card = model_card(replace(facts, figures=shown))
    return Publication(model, processor, card, search, front, figures, version)


def _sam(records: RunRecords, name: str) -> tuple[SuperSamModel, str]:
    """A saved model, or a subnet taken out of the supernet; and the fingerprint of what was loaded."""
    if name in SAVED_SAMS:
        model = _load_sam(records, name)
        return model, fingerprint(model)
    if name not in ("largest", "smallest") and not name.startswith("pareto-"):
        raise ValueError(f"`name` is {name!r}; of a SuperSAM run it may be one of {list(SUPERSAM_NAMES)}.")
    _refuse_without_supernet(records, name)
    supernet = _load_sam(records, "supernet")
    weights = fingerprint(supernet)
    if name in ("largest", "smallest"):
        space = supernet.elastic_space
        return supernet.extract(space.largest() if name == "largest" else space.smallest(), name).eval(), weights
    front = {} if records.search is None else pareto(records)
    points = {point["name"]: point["subnet"] for point in (front or {}).get("points", ())}
    if name not in points:
        has = ", ".join(points) or "none: it has no finished search"
        raise ValueError(f"`name` is {name!r}; the points that {records.folder} has: {has}.")
    return supernet.extract(Subnet.from_dict(points[name]), name).eval(), weights


def _load_sam(records: RunRecords, name: str) -> SuperSamModel:
    if name in ("supernet", "subnet") and not _has(records, name):
        _refuse_without_supernet(records, name)
    return SuperSamModel.from_pretrained(_model_folder(records, name)).eval()


def _adapter_folder(records: RunRecords) -> Path:
    folder = records.folder / "adapter"
    if not ((records.folder / "adapt.json").is_file() and (folder / "adapter_model.safetensors").is_file()):
        raise ValueError(f"{records.folder} has no finished adapter (adapt.json, adapter/): run `supersam-hf adapt`.")
    return folder


def _model_folder(records: RunRecords, name: str) -> Path:
    """The folder of a model that the run saved; `ValueError` if it has not got so far."""
    if not _has(records, name):
        saved = sorted(path.parent.name for path in records.folder.glob("*/config.json"))
        raise ValueError(f"{records.folder} has no {name}/: the run has not got so far. It has {', '.join(saved)}.")
    return records.folder / name


def _has(records: RunRecords, name: str) -> bool:
    return (records.folder / name / "config.json").is_file()


__all__ = ["Publication", "publication"]
