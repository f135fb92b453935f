"""What pruning costs on other tasks: a DeiT and the network that OFB found in it, fine-tuned in as many steps.

    python benchmarks/downstream.py --models full=DEIT found=runs/mine/finetuned --classification CIFAR10 \\
        --segmentation nuclei=DSB2018 mitochondria=DROSOPHILA [--seeds 0 1 2] [--output_dir runs/downstream]

Transfer by `recipes/ofb_vit/transfer_cifar10_cpu.yaml` (top-1), segmentation with SETR's naive head by
`recipes/segmentation/foreground_cpu.yaml` (mIoU, mAcc, aAcc): the same images, steps and rates for all models. The
first model is what the others' latency is compared with, in interleaved rounds. Finished runs are not run again, so
that several processes can share the work: start it once more when all are done, on a machine that does nothing else,
for the latencies. Writes `downstream.{json,md}` in `output_dir`.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from common import latency_ratios, spread

from supersam_hf import OfbViTForSemanticSegmentation
from supersam_hf.files import write_json
from supersam_hf.measure import hardware
from supersam_hf.models.classifiers import load_classifier
from supersam_hf_cli import main as supersam_hf


RECIPES = Path(__file__).parents[1] / "recipes"
TRANSFER, SEGMENT = RECIPES / "ofb_vit/transfer_cifar10_cpu.yaml", RECIPES / "segmentation/foreground_cpu.yaml"
METRICS = {"transfer": ("top1", "top5"), "segmentation": ("miou", "macc", "aacc")}
NAMES = {"top1": "top-1", "top5": "top-5", "miou": "mIoU", "macc": "mAcc", "aacc": "aAcc"}
Row = dict[str, Any]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--models", nargs="+", type=_pair, required=True, metavar="NAME=MODEL")
    parser.add_argument("--classification", help="folder or id of CIFAR-10, or alike")
    parser.add_argument("--segmentation", nargs="*", type=_pair, default=[], metavar="NAME=DATASET")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="of each training; default: the recipes'")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/downstream"))
    return parser.parse_args()


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME=VALUE")
    return name, value


def run_verb(*words: object) -> None:
    if supersam_hf([str(word) for word in words]):
        raise SystemExit(f"supersam-hf {' '.join(map(str, words))} failed")


def transfer(model: str, source: str, folder: Path, seed: int, steps: int | None) -> Row:
    options = ["--config", TRANSFER, "--model.name", model, "--data.source", source, "--output_dir", folder]
    options += ["--seed", seed, *([] if steps is None else ["--finetune.max_steps", steps])]
    if not (folder / "results.json").exists():
        run_verb("ofb", "finetune", *options)
        run_verb("ofb", "evaluate", *options)
    rows = {row["name"]: row for row in json.loads((folder / "results.json").read_text())["rows"]}
    return {key: rows["finetuned"][key] for key in ("top1", "top5", "params", "macs")}


def segmentation(model: str, source: str, folder: Path, seed: int, steps: int | None) -> Row:
    options = ["--config", SEGMENT, "--model.name", model, "--data.source", source, "--output_dir", folder]
    options += ["--data.seed", seed, "--train.seed", seed, *([] if steps is None else ["--train.max_steps", steps])]
    if not (folder / "results.json").exists():
        run_verb("segment", *options)
    found = json.loads((folder / "results.json").read_text())
    names = {"parameters": "params", "backbone_macs": "macs"}
    return {names.get(key, key): found[key] for key in ("miou", "macc", "aacc", *names)}


def latencies(folders: dict[str, Path], load: Callable[[Path], Any]) -> dict[str, float]:
    """Time of a forward of one image by name, over the first's."""
    models = {name: load(folder).eval() for name, folder in folders.items()}
    config = next(iter(models.values())).config
    pixels = torch.randn(1, config.num_channels, config.image_size, config.image_size)
    return latency_ratios(models, pixels, 30)


def rows_of(args: argparse.Namespace, task: str, source: str, seed: int) -> list[Row]:
    """All models on one task with one seed."""
    run = transfer if task == "transfer" else segmentation
    folders = {name: args.output_dir / f"{task}-{name}-{seed}" for name, _ in args.models}
    rows = [
        {"task": task, "model": name, "seed": seed, **run(model, source, folders[name], seed, args.steps)}
        for name, model in args.models
    ]
    saved = "finetuned" if task == "transfer" else "segmenter"
    load = load_classifier if task == "transfer" else OfbViTForSemanticSegmentation.from_pretrained
    ratios = latencies({name: folder / saved for name, folder in folders.items()}, load)
    return [{**row, "latency_ratio": ratios[row["model"]]} for row in rows]


def table(rows: Sequence[Row], models: Sequence[str]) -> str:
    """Mean and standard deviation over seeds, in percent, and each model's gap to the first, seed by seed."""
    lines = []
    for task in dict.fromkeys(row["task"] for row in rows):
        metrics = METRICS["transfer" if task == "transfer" else "segmentation"]
        heads = [task, "parameters", "GMACs", "latency", *(NAMES[metric] for metric in metrics), "seeds"]
        lines += ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
        by = {name: [row for row in rows if (row["task"], row["model"]) == (task, name)] for name in models}
        for name, own in by.items():
            cells = [name, f"{own[0]['params'] / 1e6:.2f} M", f"{own[0]['macs'] / 1e9:.4g}"]
            cells.append(f"{statistics.mean(row['latency_ratio'] for row in own):.2f}")
            cells += [spread([row[metric] for row in own], 2) for metric in metrics]
            lines.append("| " + " | ".join([*cells, str(len(own))]) + " |")
        lines.append("")
        for name in models[1:]:
            gaps = [one[metrics[0]] - other[metrics[0]] for one, other in zip(by[name], by[models[0]])]
            each = ", ".join(f"{100 * gap:+.2f}" for gap in gaps)
            lines += [f"{NAMES[metrics[0]]} of {name} - {models[0]}, by seed: {spread(gaps, 2)} ({each})", ""]
    return "\n".join(lines)


def main() -> None:
    args = parse()
    tasks = [*([("transfer", args.classification)] if args.classification else []), *args.segmentation]
    rows = [row for seed in args.seeds for task, source in tasks for row in rows_of(args, task, source, seed)]
    settings = {"seeds": args.seeds, "steps": args.steps, "recipes": [path.name for path in (TRANSFER, SEGMENT)]}
    written = {"rows": rows, "settings": settings, "hardware": hardware("cpu")}
    write_json(args.output_dir / "downstream.json", written)
    text = table(rows, [name for name, _ in args.models])
    (args.output_dir / "downstream.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
