"""Adapters against full training at equal steps: recovery of an untrained subnet, and elastic LoRA of a supernet.

    python benchmarks/lora.py --config recipes/supersam/nuclei.yaml --model.name SAM --data.source DATASET \
        --space.prunable_layers '[3, 6, 8, 9, 10]' --adapt.max_steps 100 --adapt.learning_rate 2e-3 \
        --adapt.warmup_steps 10 --adapt.max_grad_norm 1.0 --output_dir runs/lora

The SAM is reordered by Wanda and not trained further. Then, each for `adapt.max_steps`: its smallest subnet, taken
out, by LoRA, (IA)³ and full fine-tuning; the supernet by elastic LoRA and by full sandwich training. Full training has
`train.learning_rate`, (IA)³ ten times the rate of LoRA. A killed run goes on. Writes `lora.{json,md}`.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from supersam_hf import SuperSamModel
from supersam_hf.cli import recipe_parser
from supersam_hf.elastic.lora import load_elastic_adapter
from supersam_hf.elastic.lora_extraction import extract_adapter
from supersam_hf.files import write_json
from supersam_hf.measure import hardware
from supersam_hf.pipeline import stages
from supersam_hf.pipeline.adapt import Plan, adapt, qualities
from supersam_hf.pipeline.context import Run
from supersam_hf.recipe import Recipe
from supersam_hf.training.arguments import EngineArguments
from supersam_hf.training.finetune import FinetuneArguments, finetune
from supersam_hf.training.sandwich import SandwichArguments, predict, train_sandwich


Row = dict[str, Any]


def recipe_from(argv: list[str]) -> Recipe:
    parser = recipe_parser("adapt")
    values = vars(parser.instantiate(parser.parse_args(argv)))
    return Recipe(**{key: values[key] for key in Recipe.__dataclass_fields__})


def beside(run: Run, name: str, model: Path, **changed: Any) -> Run:
    """A run of its own in a folder below, from another model, with other values of `adapt`."""
    recipe = run.recipe
    args = replace(recipe.adapt, **{"subnet": None, "merge": False, **changed})
    start = replace(recipe.model, name=str(model))
    return Run(replace(recipe, output_dir=str(run.folder / name), model=start, adapt=args))


def adapter_rows(run: Run, method: str) -> list[Row]:
    if not (run.folder / "adapt.json").exists():
        adapt(run)
    facts = json.loads((run.folder / "adapt.json").read_text())
    keys = ("trainable_params", "trainable_share", "adapter_bytes")
    return [{"method": method, **row, **{key: facts[key] for key in keys}} for row in facts["rows"]]


def full_rows(run: Run, method: str, before: list[Row], train: Callable[[SuperSamModel, Path], Any]) -> list[Row]:
    """Full training of the same model, with the rows of its adapter's run as what was before."""
    if not run.has_model("trained"):
        run.save_model(train(run.original(), run.folder / "train"), "trained")
    trained = run.load(run.folder / "trained")
    after = qualities(run, trained, Plan.of(run, run.original()).subnets)
    total = sum(p.numel() for p in trained.parameters())
    frozen = [trained.prompt_encoder, trained.shared_image_embedding]
    trainable = total - sum(p.numel() for p in {p for module in frozen for p in module.parameters()})
    size = (run.folder / "trained" / "model.safetensors").stat().st_size
    cost = {"trainable_params": trainable, "trainable_share": trainable / total, "adapter_bytes": size}
    kept = ("name", "params", "before")
    return [{"method": method, **{k: r[k] for k in kept}, "after": after[r["name"]], **cost} for r in before]


@torch.no_grad()
def exactness(run: Run, count: int = 20) -> dict[str, float]:
    """Largest difference, relative to the largest logit, over random subnets of the real adapted supernet."""
    adapted = load_elastic_adapter(run.original(), run.folder / "adapter").eval()
    space, batch = run.space(run.original()), next(iter(run.eval_loader))
    batch = {name: value[:2] for name, value in batch.items()}
    generator, worst = torch.Generator().manual_seed(1), {"extracted": 0.0, "merged": 0.0}
    for _ in range(count):
        subnet = space.sample(generator)
        live = predict(adapted, batch, subnet).pred_masks
        extracted: Any = extract_adapter(adapted, subnet)
        unmerged = predict(extracted, batch, None).pred_masks
        merged = predict(extracted.merge_and_unload(), batch, None).pred_masks
        for name, a, b in (("extracted", unmerged, live), ("merged", merged, unmerged)):
            worst[name] = max(worst[name], float((a - b).abs().max() / b.abs().max()))
    return {**worst, "subnets": count}


def speed(run: Run, rounds: int = 7) -> dict[str, float]:
    """Seconds of forward and backward of the smallest subnet: elastic LoRA, and stock peft, whose layers run whole."""
    space, batch = run.space(run.original()), next(iter(run.train_loader))
    load: dict[str, Any] = {"elastic": load_elastic_adapter, "stock": PeftModel.from_pretrained}
    models = {n: f(run.original(), str(run.folder / "adapter"), is_trainable=True) for n, f in load.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds):  # interleaved
        for name, model in models.items():
            started = time.perf_counter()
            predict(model.train(), batch, space.smallest()).pred_masks.square().mean().backward()
            seconds[name].append(time.perf_counter() - started)
    return {name: sorted(values[1:])[len(values[1:]) // 2] for name, values in seconds.items()}


def markdown(rows: list[Row], exact: dict[str, float], seconds: dict[str, float], steps: int) -> str:
    lines = [
        "| trained | method | parameters trained | size | subnet | mIoU before | after |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        share = f"{row['trainable_params']:,} ({row['trainable_share']:.1%})"
        cells = [row["trained"], row["method"], share, f"{row['adapter_bytes'] / 1e6:.2f} MB", row["name"]]
        cells += [f"{row['before']:.4f}", f"{row['after']:.4f}"]
        lines.append(f"| {' | '.join(cells)} |")
    ratio = seconds["elastic"] / seconds["stock"]
    return "\n".join(lines) + (
        f"\n\n{steps} steps each. Over {exact['subnets']} random subnets of the adapted supernet, the extracted "
        f"ones differ by {exact['extracted']:.1e} of the largest logit from the live ones, and merged from unmerged "
        f"by {exact['merged']:.1e}.\nForward and backward of the smallest subnet: {seconds['elastic']:.2f} s with "
        f"elastic LoRA, {seconds['stock']:.2f} s with stock peft on the supernet ({ratio:.2f}×).\n"
    )


def main() -> None:
    run = Run(recipe_from(sys.argv[1:]))
    args, rates = run.recipe.adapt, run.recipe.train.learning_rate
    if not run.has_model("reordered"):
        stages.reorder(run)
    if not run.has_model("subnet"):
        stages.extract(run, "smallest")
    engine = {k: v for k, v in asdict(args).items() if k in EngineArguments.__dataclass_fields__}
    engine["learning_rate"] = rates
    subnet, supernet = run.folder / "subnet", run.folder / "reordered"
    lora = adapter_rows(beside(run, "subnet_lora", subnet), "LoRA")
    scaled = beside(run, "subnet_ia3", subnet, method="ia3", learning_rate=10 * args.learning_rate)
    tuned = beside(run, "subnet_full", subnet)
    full = full_rows(tuned, "full", lora, lambda m, f: finetune(m, tuned.train_loader, FinetuneArguments(**engine), f))
    alone = [*lora, *adapter_rows(scaled, "(IA)³"), *full]
    elastic_run, sandwich_run = beside(run, "supernet_lora", supernet), beside(run, "supernet_full", supernet)
    elastic = adapter_rows(elastic_run, "elastic LoRA")

    def sandwich(model: SuperSamModel, folder: Path) -> Any:
        arguments = SandwichArguments(**engine, num_sampled=args.num_sampled)
        return train_sandwich(model, sandwich_run.space(model), sandwich_run.train_loader, arguments, folder)

    together = [*elastic, *full_rows(sandwich_run, "full", elastic, sandwich)]
    rows = [{"trained": "smallest, extracted", **row, "name": "smallest"} for row in alone]
    rows += [{"trained": "supernet", **row} for row in together]
    exact, seconds = exactness(elastic_run), speed(elastic_run)
    text = markdown(rows, exact, seconds, args.max_steps)
    values = {"rows": rows, "exactness": exact, "seconds": seconds, "recipe": asdict(run.recipe)}
    write_json(run.folder / "lora.json", {**values, "hardware": hardware()})
    (run.folder / "lora.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
