"""What a bi-mask search leaves to look at, whatever it searched."""

import json
from pathlib import Path
from typing import Any

from ..plots import plot_architecture, plot_bimask, plot_losses, plot_macs


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


def told(report: dict[str, Any]) -> str:
    """What came out, in a line; whether the search decided it or the budget had to be enforced."""
    kind, unit = report["budget_kind"], {"macs": "MACs", "params": "parameters"}[report["budget_kind"]]
    share = report[kind] / report["original"][kind]
    how = "decided by the search" if report["decided_by_search"] else "not decided by the search alone"
    cuts = f", {len(report['enforced'])} cuts to keep the budget" if report["enforced"] else ""
    return f"found {report[kind]:,} {unit} ({share:.1%} of the original; budget {report['budget']:,}), {how}{cuts};"


__all__ = ["plot_mask_search", "told"]
