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
from functools import partial
from typing import Any

import torch
from common import floor_ms, main, measured_rates
from transformers import SamModel

from supersam_hf import ElasticSpace, Subnet, SuperSamConfig, SuperSamModel, SuperSamProcessor
from supersam_hf.data import DataArguments, PromptDataset, build_loader, shapes
from supersam_hf.elastic.cost import SamShape, count_macs, count_parameters, layer_macs
from supersam_hf.measure import compare_latency
from supersam_hf.measure.training_memory import LiveBytes
from supersam_hf.models.supersam.elastic_supersam import shared_depth
from supersam_hf.models.supersam.extraction_supersam import stock_sam_config, subnet_config
from supersam_hf.training.engine import Engine
from supersam_hf.training.losses import LossArguments, mask_loss
from supersam_hf.training.sandwich import (
    SandwichArguments,
    forward_backward,
    freeze_prompt_encoder,
    predict,
    sandwich_step,
)
from supersam_hf.training.shared_layers import share


LOSS = LossArguments()
ADAMW_BYTES = 7 * 4  # a parameter's value and moments are read and written, its gradient is read
TINY = {"image_size": 64, "hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 3, "mlp_dim": 192}


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
        measured = measure_model(name, new_model(name, args.image_size), args)
        rows += measured["rows"]
        settings[name] = measured["settings"]
    return {"rows": rows, "settings": settings}


def new_model(name: str, image_size: int | None) -> SuperSamModel:
    """The checkpoint, or a model of random weights."""
    if name not in ("sam-vit-base", "tiny"):
        return SuperSamModel.from_pretrained(name, image_size=image_size)
    vision = {**(TINY if name == "tiny" else {}), "initializer_range": 0.02, "scale": 1.0}
    if image_size is not None:
        vision["image_size"] = image_size
    prompt = {"image_size": vision.get("image_size", 1024)}
    return SuperSamModel(SuperSamConfig(vision_config=vision, prompt_encoder_config=prompt))


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
    floors = floors_ms(shape, subnets, args)
    size = model.config.vision_config.image_size
    rows = []
    for key, compared in timed.items():
        row = {"name": f"{name.rstrip('/').split('/')[-1]} {size} px: {key}", "ms": compared.latency.median_ms}
        row |= {"ratio": compared.ratio, "ratio_p10": compared.ratio_p10, "ratio_p90": compared.ratio_p90}
        row |= {"floor_ms": floors[key], "peak_mib": peaks.get(key)}
        rows.append(row)
    times = {key: compared.ratio for key, compared in timed.items()}
    for row, key in zip(rows, timed):
        if key in PARTS:
            row["share"] = PARTS[key] * times[key] / times["sandwich step"]
    settings = {f"{key}_subnet": subnet.to_dict() for key, subnet in subnets.items()}
    settings |= {"shared_depth": shared_depth(subnets.values(), len(shape.layers))}
    settings |= {"peak_of_one_largest_step": peaks["sandwich step"] / peaks["one step of the largest"]}
    return {"rows": rows, "settings": settings}


# How often each part is in a sandwich step.
PARTS = {"shared layers": 1, "prompts, decoder and loss": 3, "AdamW": 1}


def new_engine(model: SuperSamModel, args: argparse.Namespace, folder: str) -> Engine:
    """The training engine on a batch of generated scenes."""
    freeze_prompt_encoder(model)
    processor = SuperSamProcessor.for_config(model.config)
    scenes = shapes(args.batch_size, image_size=max(32, model.config.vision_config.image_size))
    data = DataArguments(max_objects=args.prompts)
    dataset = PromptDataset(scenes, processor.image_processor, data, training=True)
    precision: Any = "bf16" if args.dtype == "bf16" else "no"
    rule = SandwichArguments(save_steps=0, mixed_precision=precision)
    engine = Engine(model, build_loader(dataset, args.batch_size, seed=0), rule, folder)
    if engine.accelerator.device.type != torch.device(args.device).type:
        raise ValueError(f"`--device` is {args.device}, but training takes {engine.accelerator.device}: hide that.")
    model.train()
    return engine


def supernet_runs(
    engine: Engine, batch: dict[str, torch.Tensor], subnets: dict[str, Subnet]
) -> dict[str, Callable[[], Any]]:
    """The sandwich step, the same without sharing, a step of the largest alone, and the parts of a step."""
    rule, model = SandwichArguments(), engine.unwrapped

    def unshared() -> None:
        for subnet in subnets.values():
            forward_backward(engine, batch, subnet, LOSS, len(subnets), None)
        engine.optimizer_step()

    def shared_layers() -> None:
        shared = share(engine, batch, subnets)
        shared.inputs(last=True)["hidden_states"].sum().backward()
        engine.optimizer.zero_grad()

    grid = model.config.vision_config.image_size // model.config.vision_config.patch_size
    channels = model.config.vision_config.output_channels
    embedding = torch.randn(len(batch["pixel_values"]), channels, grid, grid, device=engine.accelerator.device)
    embedding.requires_grad_()

    def decoder() -> None:
        outputs = predict(engine.model, batch, None, {"image_embeddings": embedding})
        logits, scores = outputs.pred_masks[:, :, 0], outputs.iou_scores[:, :, 0]
        mask_loss(logits, scores, batch["low_res_masks"], LOSS).backward()
        engine.optimizer.zero_grad()

    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    gradients = {p: p.grad for p in model.parameters() if p.requires_grad}

    def adamw() -> None:
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
        engine.optimizer_step()

    return {
        "sandwich step": partial(sandwich_step, engine, [batch], subnets, rule),
        "sandwich step, nothing shared": unshared,
        "one step of the largest": partial(sandwich_step, engine, [batch], {"largest": subnets["largest"]}, rule),
        "shared layers": shared_layers,
        "prompts, decoder and loss": decoder,
        "AdamW": adamw,
    }


def stock_runs(
    engine: Engine, batch: dict[str, torch.Tensor], subnets: dict[str, Subnet]
) -> dict[str, Callable[[], Any]]:
    """A training step of stock SAM at each subnet's depth and mean width, one after the other; and the largest's."""
    config = engine.unwrapped.config
    steps = {}
    for name, subnet in subnets.items():
        depth, mean = len(subnet.layers), round(sum(subnet.mlp_dim) / len(subnet.layers))
        uniform = Subnet(subnet.layers, (mean,) * depth, subnet.head_dim)
        model = SamModel(stock_sam_config(subnet_config(config, uniform))).to(engine.accelerator.device).train()
        freeze_prompt_encoder(model)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)
        steps[name] = partial(stock_step, engine, model, optimizer, batch)

    def three_steps() -> None:
        for step in steps.values():
            step()

    return {"three steps of stock SAM": three_steps, "one step of stock SAM, largest": steps["largest"]}


def stock_step(
    engine: Engine, model: SamModel, optimizer: torch.optim.Optimizer, batch: dict[str, torch.Tensor]
) -> None:
    images, boxes = batch["pixel_values"], batch["input_boxes"]
    with engine.accelerator.autocast():
        outputs = model(pixel_values=images, input_boxes=boxes, multimask_output=False)
    logits, scores = outputs.pred_masks[:, :, 0], outputs.iou_scores[:, :, 0]
    mask_loss(logits, scores, batch["low_res_masks"], LOSS).backward()
    optimizer.step()
    optimizer.zero_grad()


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
