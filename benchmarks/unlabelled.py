"""A SAM made smaller without labels, measured with them: smallest and found subnet after the same number of steps.

    python benchmarks/unlabelled.py --model sam-tiny-256 --data dsb2018 --output runs/unlabelled --seed 0

Both ways begin with the same layers, which the unlabelled one ranks; labels are only looked at for the table, and by
the labelled way. One line a way and subnet is added to `--csv`.
"""

import argparse
import csv
import json
import time
from pathlib import Path
from typing import Any

import torch

from supersam_hf import SuperSamModel
from supersam_hf.data import DataArguments, PromptDataset, build_loader, load_source
from supersam_hf.evaluation import SubnetEvaluator
from supersam_hf.models.supersam import Subnet
from supersam_hf.pipeline import stages
from supersam_hf.pipeline.context import Run
from supersam_hf.recipe import (
    MeasureArguments,
    ModelArguments,
    RankArguments,
    Recipe,
    ReorderArguments,
    SandwichArguments,
    SearchArguments,
    SpaceArguments,
)
from supersam_hf.training.losses import LossArguments


STAGES = {
    "rank-layers": stages.rank_layers,
    "reorder": stages.reorder,
    "train": stages.train,
    "search": stages.search,
}


def data_of(args: argparse.Namespace, **values: Any) -> DataArguments:
    """The data section of `nuclei.yaml`, at this batch size."""
    shared: dict[str, Any] = {"min_area": 71, "crop_train": [112, 224], "crop_eval": 176, "flip": True}
    return DataArguments(str(args.data), batch_size=args.batch_size, **{**shared, **values})


def recipe_of(args: argparse.Namespace, data: DataArguments, folder: Path, layers: list[int] | None) -> Recipe:
    """The run of one way; `layers` are the prunable ones, if they are known."""
    loss = LossArguments(original_mask_weight=args.original_mask_weight if data.unlabelled else 0.0)
    training = {"max_steps": args.steps, "learning_rate": 2e-4, "warmup_steps": 20, "lr_schedule": "cosine"}
    return Recipe(
        str(folder),
        holdout_images=args.holdout,
        seed=args.seed,
        model=ModelArguments(str(args.model)),
        data=data,
        space=SpaceArguments(prunable_layers=layers, mlp_windows=[96, 192, 384, 576], attention_windows=[96, 192]),
        rank_layers=RankArguments(num_images=args.holdout, max_removed=7, max_prunable=7, max_drop=0.9),
        reorder=ReorderArguments(num_images=32),
        train=SandwichArguments(max_grad_norm=1.0, save_steps=0, loss=loss, **training),  # type: ignore[arg-type]
        search=SearchArguments(trials=max(1, args.trials), max_params=0.6),
        measure=MeasureArguments(enabled=False),
    )


def run_of(recipe: Recipe, names: list[str]) -> tuple[Run, dict[str, float]]:
    """Runs stages; returns the run and the CPU seconds of each."""
    run, seconds = Run(recipe), {}
    for name in names:
        began = time.process_time()
        STAGES[name](run)
        seconds[name] = round(time.process_time() - began, 1)
    return run, seconds


def labelled_quality(args: argparse.Namespace, run: Run) -> dict[str, float]:
    """mIoU with labels, on the evaluation split, of the largest, the smallest and the found subnet."""
    data = data_of(args, prompt="box", box_padding=5, max_eval_images=args.eval_images)
    samples = PromptDataset(load_source(data, "eval"), run.processor.image_processor, data, training=False)
    model = SuperSamModel.from_pretrained(run.folder / "supernet").eval()
    space = model.elastic_space
    subnets = {"largest": space.largest(), "smallest": space.smallest()}
    if args.trials:
        best = json.loads((run.folder / "search.json").read_text())["best"]["subnet"]
        subnets["found"] = Subnet.from_dict(best)
    found = SubnetEvaluator(model, build_loader(samples, 8), space=space).mious(list(subnets.values()))
    return dict(zip(subnets, found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a SAM at 256 px")
    parser.add_argument("--data", type=Path, required=True, help="folder of parquet with `image` and `instances`")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs, new")
    parser.add_argument("--csv", type=Path, default=Path("benchmarks/results/unlabelled.csv"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--holdout", type=int, default=24, help="training pictures held out")
    parser.add_argument("--trials", type=int, default=20, help="of the search; 0: none")
    parser.add_argument("--prunable_layers", type=int, nargs="+", help="for both ways; unless given they are ranked")
    parser.add_argument("--eval_images", type=int, default=128)
    parser.add_argument("--prompts_per_side", type=int, default=4)
    parser.add_argument("--original_mask_weight", type=float, default=0.0)
    parser.add_argument("--only_unlabelled", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    pictures = data_of(args, format="images", prompt="point", prompts_per_side=args.prompts_per_side)
    names = ["reorder", "train", *(["search"] if args.trials else [])]
    ranked = [] if args.prunable_layers else ["rank-layers"]
    run, seconds = run_of(recipe_of(args, pictures, args.output / "unlabelled", args.prunable_layers), ranked + names)
    ways = {"unlabelled": (labelled_quality(args, run), seconds)}
    write(args, ways)
    if not args.only_unlabelled:
        layers = list(SuperSamModel.from_pretrained(run.folder / "supernet").elastic_space.prunable_layers)
        boxes = data_of(args, prompt="box", box_padding=5, max_objects=8)
        run, seconds = run_of(recipe_of(args, boxes, args.output / "labelled", layers), names)
        write(args, {"labelled": (labelled_quality(args, run), seconds)})


def write(args: argparse.Namespace, ways: dict[str, tuple[dict[str, float], dict[str, float]]]) -> None:
    """Adds a line a way and subnet, and prints it."""
    new = not args.csv.exists()
    with args.csv.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(["way", "seed", "steps", "batch", "mask_weight", "subnet", "miou", "cpu_s_of_stages"])
        for way, (qualities, seconds) in ways.items():
            for name, quality in qualities.items():
                weight = args.original_mask_weight if way == "unlabelled" else ""
                row = [way, args.seed, args.steps, args.batch_size, weight, name, f"{quality:.4f}"]
                writer.writerow([*row, json.dumps(seconds)])
                print(*row, seconds, flush=True)


if __name__ == "__main__":
    main()
