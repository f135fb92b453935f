"""A sandwich step against three plain steps of stock `SamModel`s of the same sizes: time, memory, and where it goes.

    python benchmarks/train_step.py [--model sam-vit-base /path/to/sam-tiny-256] [--dtype bf16] [--output X.json]

`sam-vit-base` is SAM ViT-B with random weights, at 1024 px unless `--image_size` says otherwise. The sandwich is the
largest, the smallest and one sampled subnet of the paper's space. Stock SAM has one MLP width for all layers: the
three stock models have the depths of the subnets and their mean widths, which are as many MACs. Both sides train image
encoder and mask decoder with the same loss on the same batch, in fp32 or under bf16 autocast, and update by fused
AdamW: the stock models each their own weights, the supernet once.

All rows are timed in interleaved rounds, ratios are to the three stock steps. `share` is a row's part of the sandwich
step (the decoder runs three times in it). `peak_mib` is what is there at once beyond weights and moments: the sum of
all live tensors on a CPU, the allocator's on a GPU. The floor of a row is its MACs, three times those of the forward,
at the rate of a matmul, or the bytes that AdamW reads and writes at the rate of a copy, whichever is longer.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import floor_ms, main, measured_rates
from train_step_runs import new_engine, new_model, stock_runs, supernet_runs

from supersam_hf import ElasticSpace, Subnet, SuperSamModel
from supersam_hf.elastic.cost import SamShape, count_macs, count_parameters, layer_macs
from supersam_hf.measure import compare_latency
from supersam_hf.measure.training_memory import LiveBytes
from supersam_hf.models.supersam.elastic_supersam import shared_depth


# How often each part is in a sandwich step.
PARTS = {"shared layers": 1, "prompts, decoder and loss": 3, "AdamW": 1}
ADAMW_BYTES = 7 * 4  # a parameter's value and moments are read and written, its gradient is read


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", nargs="+", default=["sam-vit-base"], help="sam-vit-base, or checkpoints")
    parser.add_argument("--image_size", type=int, help="px a side (default: the model's own)")
    parser.add_argument("--batch_size", type=int, default=1, help="images")
    parser.add_argument("--prompts", type=int, default=8, help="boxes an image")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="draws the sampled subnet")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    names = ["tiny"] if args.quick else args.model
    keys = ("image_size", "batch_size", "prompts", "rounds", "seed")
    settings: dict[str, Any] = {key: vars(args)[key] for key in keys}
    rows: list[dict[str, Any]] = []
    for name in names:
        label = Path(name).name
        measured = measure_model(label, new_model(name, args.image_size), args)
        rows += measured["rows"]
        settings[label] = measured["settings"]
    return {"rows": rows, "settings": settings}


def measure_model(name: str, model: SuperSamModel, args: argparse.Namespace) -> dict[str, Any]:
    space = ElasticSpace.for_config(model.config)
    sampled = space.sample(torch.Generator().manual_seed(args.seed))
    subnets = {"largest": space.largest(), "smallest": space.smallest(), "sampled": sampled}
    with tempfile.TemporaryDirectory() as folder:
        engine = new_engine(model, args, folder)
        (batch,) = next(engine.batches())
        runs = {**stock_runs(engine, batch, subnets), **supernet_runs(engine, batch, subnets)}
        timed = compare_latency(runs, 2 if args.quick else args.rounds, device=args.device)
        peaks = {key: peak_mib(runs[key], args.device) for key in runs if "step" in key}
    shape = SamShape.from_config(model.config)
    floors, rows = floors_ms(shape, subnets, args), []
    for key, compared in timed.items():
        row = {"name": f"{name} {model.config.vision_config.image_size} px: {key}"}
        row |= {"ms": compared.latency.median_ms, "ratio": compared.ratio}
        row |= {"ratio_p10": compared.ratio_p10, "ratio_p90": compared.ratio_p90}
        share = PARTS[key] * compared.ratio / timed["sandwich step"].ratio if key in PARTS else None
        rows.append({**row, "floor_ms": floors[key], "peak_mib": peaks.get(key), "share": share})
    settings: dict[str, Any] = {f"{key}_subnet": subnet.to_dict() for key, subnet in subnets.items()}
    settings["shared_depth"] = shared_depth(subnets.values(), len(shape.layers))
    settings["peak_of_one_largest_step"] = peaks["sandwich step"] / peaks["one step of the largest"]
    return {"rows": rows, "settings": settings}


def peak_mib(run: Callable[[], Any], device: str) -> float:
    """What a run adds at its peak to what was there before."""
    if torch.device(device).type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    with LiveBytes() as live:
        run()  # weights count as made when they are first seen
        before = live.peak = live.live
        run()
    return (live.peak - before) / 2**20


def floors_ms(shape: SamShape, subnets: dict[str, Subnet], args: argparse.Namespace) -> dict[str, float]:
    rates = measured_rates(args.device, args.dtype)
    whole = {name: count_macs(shape, subnet, args.prompts) for name, subnet in subnets.items()}
    depth = shared_depth(subnets.values(), len(shape.layers))
    shared = shape.grid**2 * shape.hidden_size * shape.num_channels * shape.patch_size**2
    shared += sum(layer_macs(shape, shape.layers[i]) for i in subnets["largest"].layers if i < depth)
    weights = {name: count_parameters(shape, subnet) for name, subnet in subnets.items()}

    def floor(macs: int, parameters: int) -> float:
        return floor_ms(3 * args.batch_size * macs, ADAMW_BYTES * parameters, rates)

    every, largest = sum(whole.values()), whole["largest"]
    return {
        "three steps of stock SAM": floor(every, sum(weights.values())),
        "one step of stock SAM, largest": floor(largest, weights["largest"]),
        "sandwich step": floor(every - 2 * shared, weights["largest"]),
        "sandwich step, nothing shared": floor(every, weights["largest"]),
        "one step of the largest": floor(largest, weights["largest"]),
        "shared layers": floor(shared, 0),
        "prompts, decoder and loss": floor(largest - count_macs(shape, subnets["largest"]), 0),
        "AdamW": floor(0, weights["largest"]),
    }


if __name__ == "__main__":
    main(__doc__, arguments, measure)
