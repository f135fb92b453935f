"""What a run cost, stage by stage (SuperSAM, Table I): time, electricity, carbon, iterations, images."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..measure.cost import Cost, read_sittings, total_cost


# Of the pipelines of both methods, and of the search that takes their place in a SAM.
ORDER = (
    *("pretrain", "rank-layers", "reorder", "evaluate-before", "train", "search", "bimask", "extract"),
    *("recover", "finetune", "report"),
)


def cost_file(folder: Path, stage: str) -> Path:
    """The sittings of a stage of the run in `folder`."""
    return folder / "costs" / f"{stage}.json"


def stage_costs(folder: Path) -> dict[str, Cost]:
    """Of each stage that was begun, over all its sittings, in the order of the pipeline; others behind."""
    names = [path.stem for path in sorted((folder / "costs").glob("*.json"))]
    names.sort(key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))
    return {name: total_cost(read_sittings(cost_file(folder, name))) for name in names}


def run_costs(folder: Path) -> dict[str, dict[str, Any]]:
    """As plain data, with their sum as `total`."""
    costs = {name: asdict(cost) for name, cost in stage_costs(folder).items()}
    return {**costs, "total": asdict(total_cost(list(costs.values())))}


__all__ = ["ORDER", "cost_file", "run_costs", "stage_costs"]
