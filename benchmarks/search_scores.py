"""Does a bi-mask search learn which units matter? Its scores against Taylor importance, and the class loss, by step.

    python benchmarks/search_scores.py --config recipes/ofb_vit/deit_tiny_cpu.yaml --model.name DEIT \\
        --data.source DATASET --data.label_mapping LABELS.json --output_dir runs/search_scores

Every ten steps the Taylor importance of the units that are still there is measured on the masked network as it is,
with ten training batches, and ranked against the scores S, layer by layer (Spearman; 1: the same order, 0: no
relation). Of each layer too: the share of the units in the better half by S that are in the better half by importance
(chance: 0.5). Writes `scores.csv` and prints it as a table.
"""

import csv
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from ofb_ablation import ofb_recipe

from supersam_hf.bimask.masking import MaskedModel
from supersam_hf.bimask.submodules import kind_of
from supersam_hf.oneshot.batches import calibration_batches, class_loss
from supersam_hf.oneshot.importance import taylor
from supersam_hf.pipeline.ofb_context import OfbRun
from supersam_hf.training.bimask import train_bimask


EVERY, IMAGES = 10, 320


def main() -> None:
    recipe = ofb_recipe(sys.argv[1:])
    recipe.search.eval_steps, recipe.search.save_steps = EVERY, 10**6
    run, folder = OfbRun(recipe), Path(recipe.output_dir)
    batches = calibration_batches(run.calibration_loader(), IMAGES, run.state.device)
    rows: list[dict[str, float]] = []

    def measure(engine: Any) -> dict[str, float]:
        rows.append({"step": engine.global_step, **measured(engine.unwrapped, batches)})
        return rows[-1]

    train_bimask(run.original(), recipe.space, run.train_loader, recipe.search, folder / "search", evaluate=measure)
    with (folder / "scores.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), restval="")
        writer.writeheader()
        writer.writerows(rows)
    print("| " + " | ".join(rows[0]) + " |", "|---" * len(rows[0]) + "|", sep="\n")
    for row in rows:
        print("| " + " | ".join(f"{row.get(name, float('nan')):.3g}" for name in rows[0]) + " |")


def measured(masked: MaskedModel, batches: list[Any]) -> dict[str, float]:
    """By kind of submodule: rank correlation and overlap of the better halves; and the class loss."""
    sizes = {name: {"groups": mask.groups, "units": mask.units} for name, mask in masked.masks.items()}
    submodules = {name: replace(one, **sizes[name]) for name, one in masked.submodules.items()}  # after the cuts
    importance = taylor(masked, submodules, batches, class_loss)
    found: dict[str, list[torch.Tensor]] = {}
    for name, mask in masked.masks.items():
        score, matters = mask.score.detach().flatten(), importance[name].flatten().float()
        kind = kind_of(name)
        found.setdefault(f"correlation, {kind}", []).append(correlation(score, matters))
        found.setdefault(f"overlap, {kind}", []).append(overlap(score, matters))
    with torch.no_grad():
        loss = torch.stack([class_loss(masked, batch) for batch in batches]).mean()
    return {name: float(torch.stack(values).mean()) for name, values in found.items()} | {"class loss": float(loss)}


def correlation(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Spearman's rank correlation."""
    ranks = torch.stack([one.argsort().argsort().float() for one in (first, second)])
    return torch.corrcoef(ranks)[0, 1]


def overlap(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Share of the better half by one that is in the better half by the other."""
    half = max(1, len(first) // 2)
    best = [set(one.topk(half).indices.tolist()) for one in (first, second)]
    return torch.tensor(len(best[0] & best[1]) / half)


if __name__ == "__main__":
    main()
