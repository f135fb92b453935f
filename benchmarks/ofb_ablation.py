"""OFB's claims (Table 5) on one model and dataset: bi-mask search against its ablations and against pruning at once.

    python benchmarks/ofb_ablation.py --config recipes/ofb_vit/deit_tiny_cpu.yaml --model.name DEIT \\
        --data.source DATASET --data.label_mapping LABELS.json --output_dir runs/ofb_ablation \\
        --budgets 0.5 0.75 --seeds 0 1

Every method has the same images, steps, rates and augmentation and the same limit of MACs:

- original: not cut and not trained; trained: not cut, trained for as many steps as the searches, with the recipe's
  `mix_after`;
- bimask: the search as the recipe has it; no_pmim: without PMIM; ordinal: units ranked by index;
- random, magnitude, taylor: pruned before the first step (`supersam_hf.prune`), every layer alike, the embedding
  whole, then trained like `trained`; taylor_isomorphic, taylor_global: ranked within each kind, and all together;
  refit: taylor, and what stays is fitted by least squares to make up for what left;
- whole_first: a quarter of the steps train the whole network, then refit, then the rest, learning from that network:
  what `--method one-shot` does. whole_first_no_kd, whole_first_no_refit: without the one or the other.

`NAME+kd`: the same, learning from the original as it was, too (soft, temperature 3, half of the loss).

More of Table 5 by name (`--methods constant_mask no_entropy no_variance no_l1 ordinal_no_pmim`). `--methods`,
`--budgets`, `--seeds` choose; a finished run is not run again, so that several processes can share the work: start it
once more when all are done, on a machine that does nothing else, for the latencies (batches of `--latency_batches`,
all models in turn, over the original's). Writes `results.{json,md}` in `output_dir`.
"""

import argparse
import copy
import json
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import latency_ratios, spread

from supersam_hf.bimask.cost import physical_shape
from supersam_hf.classification import evaluate_classifier
from supersam_hf.cli import recipe_parser
from supersam_hf.elastic.cost import count_macs, count_parameters
from supersam_hf.files import write_json
from supersam_hf.measure import hardware
from supersam_hf.models.classifiers import load_classifier
from supersam_hf.ofb_recipe import OfbRecipe
from supersam_hf.oneshot import PruneArguments, prune_once
from supersam_hf.oneshot.batches import calibration_batches, class_loss
from supersam_hf.pipeline.ofb_context import OfbRun
from supersam_hf.training.bimask import train_bimask
from supersam_hf.training.finetune import ClassifierFinetuneArguments, finetune_classifier


ONE_SHOT: dict[str, dict[str, Any]] = {
    "random": {"method": "random", "reconstruct": False},
    "magnitude": {"method": "magnitude", "reconstruct": False},
    "taylor": {"reconstruct": False},
    "taylor_isomorphic": {"scope": "isomorphic", "reconstruct": False},
    "taylor_global": {"scope": "global", "reconstruct": False},
    "refit": {},
    "whole_first": {},
    "whole_first_no_kd": {},
    "whole_first_no_refit": {"reconstruct": False},
}
METHODS = ("original", "trained", "bimask", "no_pmim", "ordinal", *ONE_SHOT)
# Further rows of Table 5, by name: its (b) and (d).
VARIANTS: dict[str, dict[str, Any]] = {
    "bimask": {},
    "no_pmim": {"pmim": False},
    "ordinal": {"ordinal": True},
    "ordinal_no_pmim": {"ordinal": True, "pmim": False},
    "constant_mask": {"mask_ratio_start": 0.25},
    "no_entropy": {"entropy_weight": 0.0},
    "no_variance": {"variance_weight": 0.0},
    "no_l1": {"l1_attention": 0.0, "l1_other": 0.0},
}


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--methods",
        nargs="+",
        default=list(METHODS),
        choices=(*METHODS, *VARIANTS, *(f"{name}+kd" for name in ("trained", *ONE_SHOT))),
    )
    parser.add_argument("--budgets", nargs="+", type=float, default=[0.5, 0.75])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--latency_batches", type=int, nargs="+", default=[1], help="images")
    args, rest = parser.parse_known_args(sys.argv[1:])
    recipe = ofb_recipe(rest)
    for seed in args.seeds:
        for budget in args.budgets:
            for method in args.methods:
                one(recipe, method, budget, seed)
    summarise(Path(recipe.output_dir), args.latency_batches)


def ofb_recipe(argv: list[str]) -> OfbRecipe:
    parser = recipe_parser("search", "ofb")
    parsed = vars(parser.instantiate(parser.parse_args(argv)))
    return OfbRecipe(**{name: parsed[name] for name in OfbRecipe.__dataclass_fields__})


def one(recipe: OfbRecipe, method: str, budget: float, seed: int) -> None:
    """Searches or prunes, trains, evaluates; a line in `result.json`."""
    folder = Path(recipe.output_dir) / f"{method}-{budget:g}-{seed}"
    if (folder / "result.json").exists():
        return
    search = replace(recipe.search, max_macs=budget, seed=seed, **VARIANTS.get(method, {}))
    data = replace(recipe.data, seed=seed)
    run = OfbRun(replace(recipe, output_dir=str(folder), data=data, search=search))
    model, started, cpu = run.original(), time.perf_counter(), time.process_time()
    original = count_macs(physical_shape(model))
    base, _, distilled = method.partition("+")
    args, decided = same_training(search), None
    if method == "original":
        pass  # as it is: what pruning and training start from
    elif base == "trained":
        model = finetune_classifier(model, run.train_loader, args, folder / "train")
    elif base in ONE_SHOT:
        prune = PruneArguments(max_macs=budget, seed=seed, **ONE_SHOT[base])
        model = trained_at_once(model, run, prune, args, base, bool(distilled), folder)
    else:
        model, report = train_bimask(model, recipe.space, run.train_loader, search, folder / "train")
        decided = report["decided_by_search"]
    cpu = time.process_time() - cpu
    scores = evaluate_classifier(model.eval(), run.eval_loader)
    shape = physical_shape(model)
    result = {"method": method, "budget": budget, "seed": seed, "macs": count_macs(shape), "original": original}
    result |= {"params": count_parameters(shape), "top1": scores.top1, "top5": scores.top5, "decided": decided}
    result |= {
        "steps": search.max_steps,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": cpu,
        "hardware": hardware(run.state.device),
    }
    model.save_pretrained(folder / "model")
    write_json(folder / "result.json", result)
    print(json.dumps({k: v for k, v in result.items() if k != "hardware"}), flush=True)


def trained_at_once(
    model: Any,
    run: OfbRun,
    prune: PruneArguments,
    args: ClassifierFinetuneArguments,
    base: str,
    kd: bool,
    folder: Path,
) -> Any:
    """Pruned and trained, in as many steps as `args` has; `whole_first` spends a quarter of them before it prunes."""
    teacher = copy.deepcopy(model) if kd else None
    if base.startswith("whole_first"):
        first = args.max_steps // 4
        model = finetune_classifier(model, run.train_loader, replace(args, max_steps=first), folder / "whole")
        args = replace(args, max_steps=args.max_steps - first)
        teacher = None if base == "whole_first_no_kd" else copy.deepcopy(model)
    model = pruned_at_once(model, run, prune)
    if teacher is not None:
        args = replace(args, loss=replace(args.loss, distillation="soft", temperature=3.0, distillation_weight=0.5))
    return finetune_classifier(model, run.train_loader, args, folder / "train", teacher=teacher)


def same_training(search: Any) -> ClassifierFinetuneArguments:
    """Plain training with the search's steps, rate, decay and regularisation."""
    shared = ("max_steps", "learning_rate", "lr_schedule", "min_lr_ratio", "warmup_steps", "weight_decay", "seed")
    shared += ("max_grad_norm", "drop_path_rate", "mixed_precision", "save_steps", "loss")
    shared += ("gradient_accumulation_steps", "gradient_checkpointing")
    values = {name: getattr(search, name) for name in shared}
    return ClassifierFinetuneArguments(**values, mix=search.mix_after, layer_decay=1.0, ema_decay=None)


def pruned_at_once(model: Any, run: OfbRun, args: PruneArguments) -> Any:
    batches = calibration_batches(run.calibration_loader(), args.num_images, model.device) if args.needs_images else []
    return prune_once(model, args, batches, class_loss)[0]


def latencies(folders: list[Path], batch: int) -> dict[str, float]:
    """Time of a forward by folder, over the first original's, in interleaved rounds."""
    folders = sorted(folders, key=lambda folder: not folder.name.startswith("original"))
    models = {folder.name: load_classifier(folder / "model").eval() for folder in folders}
    config = next(iter(models.values())).config
    pixels = torch.randn(batch, config.num_channels, config.image_size, config.image_size)
    return latency_ratios(models, pixels, 15)


def summarise(folder: Path, batches: list[int]) -> None:
    paths = sorted(folder.glob("*/result.json"))
    rows = [json.loads(path.read_text()) for path in paths]
    if any(row["method"] == "original" for row in rows):
        for batch in batches:
            ratios = latencies([path.parent for path in paths], batch)
            for row, path in zip(rows, paths):
                row.setdefault("latency_ratios", {})[str(batch)] = ratios[path.parent.name]
                row["latency_hardware"] = hardware("cpu")
    write_json(folder / "results.json", rows)
    text = "\n".join([*table(rows), "", *gaps(rows)]) + "\n"
    (folder / "results.md").write_text(text)
    print(text)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """A line a budget and method: means and standard deviations over the seeds."""
    batches = list(dict.fromkeys(batch for row in rows for batch in row.get("latency_ratios", ())))
    heads = ["budget", "method", "steps", "CPU s", "MACs", *(f"latency, batch of {batch}" for batch in batches)]
    heads += ["top-1", "top-5", "runs"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for budget, method in groups(rows):
        mine = [row for row in rows if (row["budget"], row["method"]) == (budget, method)]
        steps = "" if method == "original" else str(mine[0]["steps"])
        seconds = f"{statistics.mean(row['cpu_seconds'] for row in mine):.0f}"
        cells = [
            f"{budget:.0%}",
            method,
            steps,
            seconds,
            f"{statistics.mean(r['macs'] / r['original'] for r in mine):.1%}",
        ]
        cells += [f"{statistics.mean(row['latency_ratios'][batch] for row in mine):.2f}" for batch in batches]
        cells += [spread([row[key] for row in mine], 1) for key in ("top1", "top5")]
        lines.append(f"| {' | '.join([*cells, str(len(mine))])} |")
    return lines


def gaps(rows: list[dict[str, Any]]) -> list[str]:
    """How far each method is from plain Taylor pruning, the simplest alternative, seed by seed."""
    found = {(row["budget"], row["method"], row["seed"]): row["top1"] for row in rows}
    lines = []
    for budget, method in groups(rows):
        seeds = [seed for b, m, seed in found if (b, m) == (budget, "taylor") and (budget, method, seed) in found]
        apart = [found[budget, method, seed] - found[budget, "taylor", seed] for seed in seeds]
        if apart and method != "taylor":
            each = ", ".join(f"{100 * gap:+.1f}" for gap in apart)
            lines.append(f"- {budget:.0%}: top-1 of {method} - taylor, by seed: {spread(apart, 1)} ({each})")
    return lines


def groups(rows: list[dict[str, Any]]) -> list[tuple[float, str]]:
    """The budgets and methods that were run, in the order of the methods."""
    methods = [name + kd for name in dict.fromkeys((*METHODS, *VARIANTS)) for kd in ("", "+kd")]
    return sorted({(row["budget"], row["method"]) for row in rows}, key=lambda one: (one[0], methods.index(one[1])))


if __name__ == "__main__":
    main()
