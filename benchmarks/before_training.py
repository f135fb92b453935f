"""What holds before any training: mIoU at each MLP window for every reordering, and layer removal (SuperSAM, Fig. 3).

    python benchmarks/before_training.py --config recipes/supersam/nuclei.yaml --model.name SAM --data.source DATASET

Reads the evaluation split (nothing is chosen from it here) and writes `before_training.{json,md}` and the two plots
into `--output_dir`. Calibration of Wanda uses training images, three disjoint sets of them for the spread.
"""

import json
import statistics
import sys
from functools import partial
from pathlib import Path

from torch.utils.data import DataLoader

from supersam_hf import ElasticSpace, SuperSamModel
from supersam_hf.cli import recipe_parser
from supersam_hf.elastic.cost import SamShape, count_parameters
from supersam_hf.elastic.importance import LayerRanking, rank_layers
from supersam_hf.elastic.reorder import reorder
from supersam_hf.evaluation import calibration_images, quality_of
from supersam_hf.files import fingerprint, write_json
from supersam_hf.measure import hardware
from supersam_hf.pipeline.context import Run
from supersam_hf.pipeline.journal import Journal
from supersam_hf.plots import plot_layer_ranking, plot_windows
from supersam_hf.recipe import Recipe


METHODS = ("none", "magnitude", "wanda", "wanda (score)")


def recipe_from(argv: list[str]) -> Recipe:
    parser = recipe_parser("evaluate")
    values = vars(parser.instantiate(parser.parse_args(argv)))
    return Recipe(**{key: values[key] for key in Recipe.__dataclass_fields__})


def windows(run: Run, journal: Journal, calibrations: int = 3) -> dict[str, dict[int, list[float]]]:
    """mIoU with every elastic MLP at one window, all layers kept; for Wanda once a calibration set."""
    images = run.recipe.reorder.num_images
    table: dict[str, dict[int, list[float]]] = {}
    for method in METHODS:
        for repeat in range(calibrations if method == "wanda" else 1):
            model = run.original()
            space = ElasticSpace.for_config(model.config.vision_config, prunable_layers=())
            batches = calibration_images(run.train_loader, images * (repeat + 1))[
                -images // run.recipe.data.batch_size :
            ]
            combine = "score" if method.endswith("(score)") else "rank"
            reorder(model, space, method.split()[0], batches, combine=combine)
            quality = quality_of(model, run.eval_loader)
            for window in space.mlp_windows:
                subnet = space.subnet(mlp_dim=window)
                value = journal.get(f"{method} {repeat} {window}", lambda s=subnet, q=quality: q(s))
                table.setdefault(method, {}).setdefault(window, []).append(value)
                print(f"{method} {repeat} window {window}: {value:.4f}", flush=True)
    return table


def removal(model: SuperSamModel, loader: DataLoader, journal: Journal) -> LayerRanking:
    space = ElasticSpace.for_config(model.config.vision_config, prunable_layers=())
    shape, quality = SamShape.from_config(model.config), quality_of(model, loader)
    return rank_layers(
        space,
        lambda subnets: [journal.get(s.to_json(), partial(quality, s)) for s in subnets],
        lambda subnet: count_parameters(shape, subnet),
        max_removed=6,
    )


def markdown(table: dict[str, dict[int, list[float]]], ranking: LayerRanking) -> str:
    widths = sorted(next(iter(table.values())))
    full = ranking.full.quality
    lines = [f"mIoU of the whole model: {full:.4f}", "", "| reordering | " + " | ".join(map(str, widths)) + " |"]
    lines += ["|" + "---|" * (len(widths) + 1)]
    for method, row in table.items():
        cells = [
            f"{row[w][0]:.4f}"
            if len(row[w]) == 1
            else f"{statistics.mean(row[w]):.4f} ± {statistics.stdev(row[w]):.4f}"
            for w in widths
        ]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    lines += ["", "| removed | mIoU | drop | parameters |", "|---|---|---|---|"]
    for removed in (*ranking.single, *ranking.greedy):
        drop, size = 1 - removed.quality / full, removed.params / ranking.full.params
        lines.append(f"| {', '.join(map(str, removed.layers))} | {removed.quality:.4f} | {drop:.1%} | {size:.0%} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    run = Run(recipe_from(sys.argv[1:]))
    model = run.original()
    context = {**run.recipe.sections("data", "reorder"), "weights": fingerprint(model)}
    journal = Journal(run.folder / "before_training.jsonl", context)
    table = windows(run, journal)
    ranking = removal(model, run.eval_loader, journal)
    text = markdown(table, ranking)
    results = {"windows": table, "removal": ranking.to_dict(), "hardware": hardware(), **context}
    write_json(run.folder / "before_training.json", results)
    Path(run.folder / "before_training.md").write_text(text)
    means = {method: {w: statistics.mean(v) for w, v in row.items()} for method, row in table.items()}
    plot_windows(means, run.folder / "windows.png")
    plot_layer_ranking(ranking.to_dict(), run.folder / "removal.png")
    print(json.dumps({"images": len(run.eval_loader.dataset)}), text, sep="\n")


if __name__ == "__main__":
    main()
