"""The same pruning by Torch-Pruning's own code, as its users run it: rows for `ofb_ablation.py`'s table.

    pip install --no-deps torch-pruning==1.6.1
    python benchmarks/by_torch_pruning.py --config recipes/ofb_vit/deit_tiny_cpu.yaml --model.name DEIT \\
        --data.source DATASET --data.label_mapping LABELS.json --output_dir runs/ofb_ablation \\
        --budgets 0.5 --seeds 0 1 2

A stock `ViTForImageClassification` of the same weights is pruned by `BasePruner`, in 200 small steps until the
multiply-accumulates are within the budget, and trained with the same images, steps, rate and augmentation:

- tp_taylor: `GroupTaylorImportance` of 10 batches, isomorphic; the embedding is cut like everything else;
- tp_taylor_whole: the same, the embedding left whole;
- tp_magnitude: `GroupMagnitudeImportance`, isomorphic, the embedding cut.

`NAME+kd`: the same, learning from the original as it was, too (soft, temperature 3, half of the loss).
"""

import argparse
import copy
import json
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
from ofb_ablation import ofb_recipe, same_training
from torch.utils.flop_counter import FlopCounterMode
from transformers import ViTForImageClassification

from supersam_hf.classification import evaluate_classifier
from supersam_hf.files import write_json
from supersam_hf.measure import hardware
from supersam_hf.pipeline.ofb_context import OfbRun
from supersam_hf.training.finetune import finetune_classifier


METHODS = ("tp_taylor", "tp_taylor_whole", "tp_magnitude")
STEPS, TAYLOR_BATCHES = 200, 10


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    names = [name + kd for name in METHODS for kd in ("", "+kd")]
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=names)
    parser.add_argument("--budgets", nargs="+", type=float, default=[0.5])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args, rest = parser.parse_known_args(sys.argv[1:])
    recipe = ofb_recipe(rest)
    for seed in args.seeds:
        for budget in args.budgets:
            for method in args.methods:
                one(recipe, method, budget, seed)


def one(recipe: Any, method: str, budget: float, seed: int) -> None:
    """Prunes, trains, evaluates; a line in `result.json`."""
    folder = Path(recipe.output_dir) / f"{method}-{budget:g}-{seed}"
    if (folder / "result.json").exists():
        return
    recipe = replace(recipe, output_dir=str(folder), data=replace(recipe.data, seed=seed))
    search = replace(recipe.search, max_macs=budget, seed=seed)
    run = OfbRun(replace(recipe, search=search))
    run.original().save_pretrained(folder / "original")
    # eager attention, so that the counter sees its products
    model = ViTForImageClassification.from_pretrained(folder / "original", attn_implementation="eager").eval()
    torch.manual_seed(seed)
    started, cpu, original = time.perf_counter(), time.process_time(), macs(model)
    base, _, distilled = method.partition("+")
    args, teacher = same_training(search), None
    if distilled:
        teacher = copy.deepcopy(model)
        args = replace(args, loss=replace(args.loss, distillation="soft", temperature=3.0, distillation_weight=0.5))
    prune(model, run, base, round(budget * original))
    kept = macs(model)
    model = finetune_classifier(model, run.train_loader, args, folder / "train", teacher=teacher)
    cpu = time.process_time() - cpu
    scores = evaluate_classifier(model.eval(), run.eval_loader)
    result = {"method": method, "budget": budget, "seed": seed, "macs": kept, "original": original}
    result |= {"params": model.num_parameters(), "top1": scores.top1, "top5": scores.top5, "decided": None}
    result |= {"steps": search.max_steps, "seconds": time.perf_counter() - started, "cpu_seconds": cpu}
    write_json(folder / "result.json", result | {"hardware": hardware("cpu")})
    print(json.dumps(result), flush=True)


def prune(model: Any, run: OfbRun, method: str, limit: int) -> None:
    """Prunes in place until at most `limit` multiply-accumulates are left."""
    heads = model.config.num_attention_heads
    attentions = [layer.attention for layer in model.vit.layers]
    taylor = method.startswith("tp_taylor")
    kept = [model.classifier]
    if method == "tp_taylor_whole":
        kept.append(model.vit.embeddings.patch_embeddings.projection)
        kept += [linear for layer in model.vit.layers for linear in (layer.attention.o_proj, layer.mlp.fc2)]
    pruner = tp.pruner.BasePruner(
        model,
        pixels(model),
        importance=tp.importance.GroupTaylorImportance() if taylor else tp.importance.GroupMagnitudeImportance(),
        global_pruning=True,
        isomorphic=True,
        pruning_ratio=0.95,
        iterative_steps=STEPS,
        num_heads={linear: heads for one in attentions for linear in (one.q_proj, one.k_proj, one.v_proj)},
        unwrapped_parameters=[(model.vit.embeddings.cls_token, 2), (model.vit.embeddings.position_embeddings, 2)],
        ignored_layers=kept,
        output_transform=lambda out: out.logits.sum(),
    )
    if taylor:
        for batch in islice(run.calibration_loader(), TAYLOR_BATCHES):
            loss = torch.nn.functional.cross_entropy(model(batch["pixel_values"]).logits, batch["labels"])
            loss.backward()
    while macs(model) > limit:
        pruner.step()
        for attention in attentions:
            attention.head_dim = attention.q_proj.out_features // heads
    model.zero_grad(set_to_none=True)


def pixels(model: Any) -> torch.Tensor:
    size = model.config.image_size
    return torch.randn(1, model.config.num_channels, size, size)


def macs(model: Any) -> int:
    """Multiply-accumulates of one image: of linears, convolutions and attention products."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(pixels(model))
    return counter.get_total_flops() // 2


if __name__ == "__main__":
    main()
