"""SuperSAM, OFB and one-shot pruning on one SAM, to the same number of parameters: which pays, for which training?

    python benchmarks/two_methods.py --config recipes/supersam/nuclei.yaml --model.name SAM --data.source DATASET \
        [--steps 100] [--finetune_steps 50] [--seeds 0 1 2] [--output_dir runs/two_methods]

Of each seed, with what the config and further recipe options say:

- `SuperSAM`: layers ranked, channels reordered, a supernet trained for `--steps` by the sandwich rule (three subnets a
  step), the best subnet of the recipe's budget searched on the holdout, extracted, and fine-tuned.
- `bi-mask`: bi-mask search of the image encoder in as many steps, to the parameters of that subnet; fine-tuned.
- `bi-mask, 3 x steps`: the same with three times the steps: as many forwards and backwards as the supernet had.
- `one-shot`, and with three times the steps: pruned at once to as many parameters (Taylor, every layer alike,
  refitted), then trained for all of the steps; `random, 3 x steps`: the same with random units and no refit.
- `original`: the SAM itself, fine-tuned for steps and fine-tuning together.

The search of the bi-mask takes the first two thirds of its steps. mIoU is that of the evaluation split, which nothing
was chosen by. A killed run goes on. Writes `two_methods.{json,md}`.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import latency_ratios, spread

from supersam_hf import SuperSamModel, count_macs, count_parameters
from supersam_hf.evaluation import evaluate
from supersam_hf.files import write_json
from supersam_hf.measure import example_inputs, hardware
from supersam_hf.pipeline.context import Run
from supersam_hf_cli import main as supersam_hf


Row = dict[str, Any]
# How many times `--steps` each is trained for, beside the fine-tuning.
METHODS = {"SuperSAM": 1, "bi-mask": 1, "bi-mask, 3 x steps": 3}
METHODS |= {"one-shot": 1, "one-shot, 3 x steps": 3, "random, 3 x steps": 3}


def parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--finetune_steps", type=int, default=50)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--alpha_learning_rate", type=float, default=0.05, help="of the bi-mask search")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/two_methods"))
    return parser.parse_known_args()


def run_verb(verb: str, *options: object) -> float:
    """Seconds that it took."""
    started = time.perf_counter()
    if supersam_hf([verb, *map(str, options)]):
        raise SystemExit(f"supersam-hf {verb} failed")
    return time.perf_counter() - started


def found_by(method: str, args: argparse.Namespace, common: list[str], folder: Path, max_params: int | None) -> Row:
    """Runs a method in `folder`, unless it is done: seconds of finding and of fine-tuning."""
    done = folder / "seconds.json"
    if done.exists():
        return json.loads(done.read_text())
    options = [*common, "--output_dir", folder]
    if method == "original":
        seconds = {"find": 0.0}
        steps = args.steps + args.finetune_steps
    elif method == "SuperSAM":
        off = ("--evaluate.before", "false", "--evaluate.num_sampled", 0, "--measure.enabled", "false")
        seconds = {"find": run_verb("run", *options, *off, "--train.max_steps", args.steps)}
        steps = args.finetune_steps
    elif method.startswith(("one-shot", "random")):
        how = ("--prune.method", "random", "--prune.reconstruct", "false") if method.startswith("random") else ()
        seconds = {"find": run_verb("prune", *options, "--prune.max_params", max_params, *how)}
        steps = args.steps * METHODS[method] + args.finetune_steps
    else:
        total = args.steps * METHODS[method]
        search = ("--bimask.max_steps", total, "--bimask.search_steps", 2 * total // 3, "--bimask.prune_steps", 10)
        rate = ("--bimask.alpha_learning_rate", args.alpha_learning_rate)
        budget = ("--bimask.max_params", max_params)
        seconds = {"find": run_verb("bimask", *options, *search, *rate, *budget)}
        steps = args.finetune_steps
    seconds["finetune"] = run_verb("finetune", *options, "--finetune.max_steps", steps)
    write_json(done, seconds)
    return seconds


def row_of(method: str, seed: int, run: Run, folder: Path, seconds: Row) -> Row:
    found = SuperSamModel.from_pretrained(folder / "finetuned").eval()
    values = {"method": method, "seed": seed, "seconds": seconds}
    values |= {"params": count_parameters(found.config), "macs": count_macs(found.config)}
    values["miou"] = evaluate(found, run.eval_loader, multimask=False).miou
    report = folder / "bimask.json"
    if report.exists():
        values["search"] = {k: v for k, v in json.loads(report.read_text()).items() if k != "enforced"}
    return values


def latencies(folders: dict[str, Path]) -> dict[str, float]:
    """Time of each one's image encoder over the original's, in interleaved rounds."""
    models = {name: SuperSamModel.from_pretrained(folder / "finetuned").eval() for name, folder in folders.items()}
    pixels = example_inputs(models["original"])["pixel_values"]
    return latency_ratios({name: model.get_image_embeddings for name, model in models.items()}, pixels, 15)


def table(rows: Sequence[Row]) -> str:
    lines = ["| | parameters | GMACs (encoder) | latency | mIoU | s to find | s in all |", "|---" * 7 + "|"]
    for method in ("original", *METHODS):
        own = [row for row in rows if row["method"] == method]
        cells = [f"{statistics.mean(r['params'] for r in own) / 1e6:.2f} M"]
        cells.append(f"{statistics.mean(r['macs'] for r in own) / 1e9:.3f}")
        cells.append(f"{statistics.mean(r['latency_ratio'] for r in own):.2f}")
        cells.append(spread([row["miou"] for row in own], 4, scale=1))
        cells.append(f"{statistics.mean(row['seconds']['find'] for row in own):.0f}")
        cells.append(f"{statistics.mean(sum(row['seconds'].values()) for row in own):.0f}")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    seeds = sorted({row["seed"] for row in rows})
    by = {(row["method"], row["seed"]): row["miou"] for row in rows}
    lines.append("")
    for method in list(METHODS)[1:]:
        gaps = [by[method, seed] - by["SuperSAM", seed] for seed in seeds]
        each = ", ".join(f"{gap:+.4f}" for gap in gaps)
        lines.append(f"{method} - SuperSAM, by seed: {spread(gaps, 4, scale=1)} ({each})")
    return "\n".join(lines) + "\n"


def recipe_run(common: list[str], folder: Path) -> Run:
    from supersam_hf.cli import recipe_parser
    from supersam_hf.recipe import Recipe

    parser = recipe_parser("evaluate")
    values = vars(parser.instantiate(parser.parse_args([*common, "--output_dir", str(folder)])))
    return Run(Recipe(**{key: values[key] for key in Recipe.__dataclass_fields__}))


def main() -> None:
    args, given = parse()
    rows: list[Row] = []
    for seed in args.seeds:
        common, base = [*given, "--seed", str(seed)], args.output_dir / f"seed_{seed}"
        run, own, max_params = recipe_run(common, base / "evaluation"), [], None
        for method in ("original", *METHODS):
            folder = base / method.replace(",", "").replace(" ", "_")
            seconds = found_by(method, args, common, folder, max_params)
            own.append(row_of(method, seed, run, folder, seconds) | {"folder": str(folder)})
            if method == "SuperSAM":
                max_params = own[-1]["params"]
        ratios = latencies({row["method"]: Path(row.pop("folder")) for row in own})
        rows += [row | {"latency_ratio": ratios[row["method"]]} for row in own]
        text = table(rows)
        settings = {name: value for name, value in vars(args).items() if name != "output_dir"}
        write_json(
            args.output_dir / "two_methods.json", {"rows": rows, "settings": settings, "hardware": hardware("cpu")}
        )
        (args.output_dir / "two_methods.md").write_text(text)
        print(text, flush=True)


if __name__ == "__main__":
    main()
