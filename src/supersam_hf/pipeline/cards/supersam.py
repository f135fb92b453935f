"""The facts for the card of a SuperSAM subnet or supernet, from the files of its run."""

from typing import Any

from ...elastic.cost import count_parameters
from ...hub.facts import CardFacts, Row
from ...models.supersam import ElasticSpace, Subnet, SuperSamModel
from ..quality import quality_warning
from . import mask_search
from .lines import cost_note, data_lines
from .records import RunRecords
from .supersam_lines import limits, prompt, quality_lines, search_lines, space_lines, training_lines, why
from .supersam_rows import ROWS, budget, layers, subnet_rows, supernet_rows
from .unlabelled import renamed


# The trainings of a subnet after it was extracted, by the name of the model that they leave.
LATER = {"recovered": ("recover",), "finetuned": ("finetune",)}


def subnet_facts(
    records: RunRecords,
    name: str,
    model: SuperSamModel,
    *,
    repo: str,
    revision: str,
    stock: bool,
    weights: str | None = None,
) -> CardFacts:
    """Of an extracted subnet.

    Args:
        name (`str`): Which of the run's models: `subnet`, `recovered`, `finetuned`, `largest`, `pareto-2`, ...
        model ([`SuperSamModel`]): The subnet itself.
        weights (`str`, *optional*): Fingerprint of the model, or of the supernet that it was taken out of just now.
    """
    config: Any = model.config
    if config.search is not None:
        return _searched_facts(records, name, model, repo=repo, revision=revision, weights=weights)
    subnet = None if config.subnet is None else Subnet.from_dict(config.subnet)
    space = _space(records, config)
    cut = subnet is not None or records.search is not None
    facts = CardFacts(
        kind="supersam_subnet",
        repo=repo,
        revision=revision,
        title=_title("SuperSAM subnet" if cut else "Segment Anything model", repo, model),
        origin=_origin(records, name, subnet),
        rows=subnet_rows(records, name, model, weights),
        layers=[] if subnet is None or space is None else layers(records, space, subnet),
        budget=budget(records, name, subnet),
        figures={"subnet.png": "Widths kept, layer by layer"} if name in ("subnet", "recovered") else {},
        stock=stock,
        cut=cut,
        extra={"why": why(records, space), "prompt": prompt(records), **_warned(records, name)},
        limits=limits(records, cut=cut),
        **_shared(records, config, *LATER.get(name, ())),
    )
    return renamed(facts, records)


def _searched_facts(
    records: RunRecords, name: str, model: SuperSamModel, *, repo: str, revision: str, weights: str | None
) -> CardFacts:
    """Of a SAM that a bi-mask search found, or that was pruned at once."""
    config: Any = model.config
    report, original = config.search, mask_search.original_architecture(records.folder / "bimask", config.search)
    once = "one_shot" in report
    shared = _shared(records, config, "prune" if once else "bimask", *LATER.get(name, ()))
    by = {"one_shot": True} if once else {"bimask": True, "tags": ["ofb"]}
    rows = subnet_rows(records, name, model, weights)
    if not any(row.name == "original" for row in rows):
        rows.insert(0, Row("original", **report["original"]))
    return CardFacts(
        kind="supersam_subnet",
        repo=repo,
        revision=revision,
        title=_title("SAM", repo, model),
        origin=("the network that was pruned at once" if once else "the network that a bi-mask search found")
        + _trained_further(name),
        rows=rows,
        layers=[] if original is None else mask_search.layers(original, report["architecture"]),
        budget=[mask_search.budget(report, config)],
        figures={"architecture.png": "Heads and widths kept, layer by layer"},
        cut=True,
        extra={"why": mask_search.why(report), "prompt": prompt(records), **by, **_warned(records, name)},
        limits=limits(records, cut=True),
        **{**shared, "search_lines": mask_search.search_lines(report, pmim=False)},
    )


def supernet_facts(
    records: RunRecords, model: SuperSamModel, *, repo: str, revision: str, weights: str | None = None
) -> CardFacts:
    """Of a supernet, whose fingerprint is `weights`, with the Pareto front that its run found."""
    config: Any = model.config
    space = ElasticSpace.for_config(config)
    points = [] if records.search is None else records.search["front"]
    middle = len(points) // 2
    ranked = records.read("ranking.json") is not None
    extra = {
        "size": space.size,
        "point": f"pareto-{middle}" if points else None,
        "max_params": f"{points[middle]['params']:d}" if points else None,
        "space_lines": space_lines(space),
        "ranked": ranked,
        "quality_lines": quality_lines(records, weights),
        "tags": ["elastic"],
    }
    facts = CardFacts(
        kind="supersam_supernet",
        repo=repo,
        revision=revision,
        title=_title("SuperSAM supernet", repo, model),
        origin="supernet",
        rows=supernet_rows(records, model, points, weights),
        layers=layers(records, space, space.largest()) if ranked else [],
        figures={"pareto.png": "mIoU over parameters of the subnets, with their Pareto front"},
        extra=extra,
        limits=limits(records, cut=False),
        **_shared(records, config),
    )
    return renamed(facts, records)


def _shared(records: RunRecords, config: Any, *more: str) -> dict[str, Any]:
    """What the cards of all models of a run say; `more` trainings than the supernet's went into this one."""
    evaluated, hardware = records.evaluated_on, records.results.get("hardware")
    trainings = ["train"] if (records.folder / "supernet").is_dir() else []
    trainings += more
    costs = records.costs(*trainings)
    return {
        "base": records.base,
        "data": records.data,
        "evaluated": records.evaluated,
        "data_lines": data_lines(records, objects=True),
        "search_lines": search_lines(records),
        "training_lines": training_lines(records, *more),
        "costs": costs,
        "costs_whole": records.costs_whole(*trainings),
        "cost_note": cost_note(costs, hardware),
        "hardware": hardware,
        "versions": records.versions(config),
        "eval_split": None if evaluated is None else evaluated["eval_split"],
    }


def _warned(records: RunRecords, name: str) -> dict[str, Any]:
    """What the card warns of: of a model that the report has a row of."""
    return {"warning": quality_warning(list(records.rows.values()), ROWS.get(name, name))}


def _title(what: str, repo: str, model: SuperSamModel) -> str:
    if repo != ".":
        return repo.split("/")[-1]
    return f"{what}, {count_parameters(model.config):,} parameters"


def _origin(records: RunRecords, name: str, subnet: Subnet | None) -> str:
    best = None if records.search is None else records.search["best"]
    searched = best is not None and subnet is not None and best["subnet"] == subnet.to_dict()
    if subnet is None and records.search is None:
        return "fine-tuned" if name == "finetuned" else "as it was"
    if name in LATER:
        found = "the network that the search found" if searched else "a network of a supernet"
        return found + _trained_further(name)
    if name.startswith("pareto-"):
        return f"point `{name}` of the Pareto front that the search found"
    if name in ("largest", "smallest"):
        return f"the {name} network of a supernet"
    return "the network that the search found within its budget" if searched else "a network taken out of a supernet"


def _trained_further(name: str) -> str:
    """What was done to a subnet after it was extracted."""
    return {"finetuned": ", fine-tuned", "recovered": ", trained further alone"}.get(name, "")


def _space(records: RunRecords, config: Any) -> ElasticSpace | None:
    """The supernet's: of the search, or as the supernet's folder has it."""
    data = config.elastic_space or (records.search or {}).get("space")
    if data is None:
        supernet = records.read("supernet/config.json")
        data = None if supernet is None else supernet["elastic_space"]
    return None if data is None else ElasticSpace.from_dict(data)


__all__ = ["subnet_facts", "supernet_facts"]
