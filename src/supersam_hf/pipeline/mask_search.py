"""What a bi-mask search leaves to look at, whatever it searched."""

import json
from itertools import product
from pathlib import Path
from typing import Any

from ..bimask.budget import SearchBudget, make_budget, stated_budget
from ..bimask.cost import number_of_networks, physical_shape, smallest_shape
from ..bimask.space import SearchSpace
from ..elastic.cost import count_macs, count_parameters
from ..limits import LatencyLimit
from ..oneshot.arguments import PruneArguments
from ..oneshot.pruning import smallest_reachable
from ..plots import plot_architecture, plot_bimask, plot_losses, plot_macs
from ..training.bimask_arguments import MaskSearchArguments


def plot_mask_search(search: Path, report: dict[str, Any], folder: Path) -> None:
    """Figures of a bi-mask search that ran in `search`: masks, losses, budget and architecture, in `folder`."""
    history = [json.loads(line) for line in (search / "history.jsonl").read_text().splitlines()]
    kind = report["budget_kind"]
    budget = report["budget"] / report["original"][kind]
    pruned_at = [line["step"] for line in history if line["removed"]]
    plot_bimask(search / "history.jsonl", folder / "bimask.png")
    plot_losses(search / "log.jsonl", folder / "losses.png")
    plot_macs(search / "log.jsonl", folder / f"{kind}.png", kind=kind, budget=budget, pruned_at=pruned_at)
    widths = {"original": history[0]["architecture"], "found": report["architecture"]}
    plot_architecture(widths, folder / "architecture.png")


def plot_pruned(report: dict[str, Any], folder: Path) -> None:
    """`architecture.png` of what was pruned at once; layers that left are empty."""
    pruned = {
        name: list(value) if isinstance(value, list) else value for name, value in report["architecture"].items()
    }
    for name, gone in product(("num_attention_heads", "head_dim", "intermediate_size"), report["dropped_layers"]):
        pruned[name].insert(gone, 0)  # ascending: each comes to its own place
    plot_architecture({"original": report["original_architecture"], "pruned": pruned}, folder / "architecture.png")


def told(report: dict[str, Any]) -> str:
    """What came out, in a line; whether the search decided it or the budget had to be enforced."""
    kind, unit = report["budget_kind"], {"macs": "MACs", "params": "parameters"}[report["budget_kind"]]
    share = report[kind] / report["original"][kind]
    size = f"{report[kind]:,} {unit} ({share:.1%} of the original; budget {report['budget']:,})"
    if "latency" in report:
        size += f", {latency_line(report['latency'])}"
    if "one_shot" in report:
        return f"pruned to {size}, {one_shot_line(report['one_shot'])};"
    how = "decided by the search" if report["decided_by_search"] else "not decided by the search alone"
    cuts = f", {len(report['enforced'])} cuts to keep the budget" if report["enforced"] else ""
    return f"found {size}, {how}{cuts};"


def latency_line(latency: dict[str, float]) -> str:
    """What time was asked for, and what the network takes."""
    share, whole = latency["share"], latency["whole_ms"]
    asked = f"{latency['limit_ms']:.3g} ms an image asked for ({latency['asked']:.1%} of the original's {whole:.3g})"
    return f"{asked}, {share * whole:.3g} ms measured ({share:.1%})"


def one_shot_line(how: dict[str, Any]) -> str:
    """How a network was pruned at once, in words."""
    scopes = {"uniform": "every layer alike", "isomorphic": "ranked within each kind of units"}
    scope = scopes.get(how["scope"], "all units ranked together")
    refitted = ", reading linears refitted by least squares" if how["reconstruct"] else ""
    return f"{how['method']} importance, {scope}{refitted}"


def space_lines(shape: Any, space: SearchSpace, args: MaskSearchArguments) -> list[str]:
    """Of a search that has not begun: the smallest network, how many there are, and the budget.

    Raises:
        ValueError: If no network of the space meets the budget, or there is not exactly one.
    """
    budget = None if args.latency else make_budget(shape, space, *args.limits)
    return [
        shape_line("smallest", smallest_shape(shape, space)),
        f"  {number_of_networks(shape, space):.3g} networks",
        _budget_line(budget, args.latency),
    ]


def _budget_line(budget: SearchBudget | None, latency: LatencyLimit | None) -> str:
    if budget is None:
        assert latency is not None
        what = f"{latency} of the original's time" if latency.is_share else f"{latency} ms"
        return f"  budget          {what}, one image at a time on this device"
    kind = {"macs": "MACs", "params": "parameters"}[budget.kind]
    return f"  budget          {budget.limit:,} {kind} ({budget.fraction:.1%})"


def prune_lines(model: Any, args: PruneArguments) -> list[str]:
    """Of a pruning that has not begun: the smallest network that it can leave, and the budget. The model may be on the
    meta device.

    Raises:
        ValueError: If the budget cannot be kept.
    """
    budget = None if args.latency else stated_budget(physical_shape(model), *args.limits)
    return [shape_line("smallest", smallest_reachable(model, args)), _budget_line(budget, args.latency)]


def shape_line(name: str, shape: Any) -> str:
    """What a network of these sizes costs."""
    return f"  {name:<15} {count_parameters(shape):,} parameters, {count_macs(shape) / 1e9:,.4g} GMACs an image"


__all__ = [
    "latency_line",
    "one_shot_line",
    "plot_mask_search",
    "plot_pruned",
    "prune_lines",
    "shape_line",
    "space_lines",
    "told",
]
