"""SAM's image encoder against stock transformers (sdpa) with the same weights: forward, and forward with backward.

    python benchmarks/encoder.py [--model sam-vit-base] [--dtype bf16] [--image_size 1024] [--rounds 3] [--compile]

`--model` is a folder or id of a SAM, or `sam-vit-base`: a ViT-B with random weights. Ratios are to the time of
stock, in interleaved rounds of one process. No gradient checkpointing.
`--compile` adds both under torch.compile, ours layer by layer. `own_ms` in the JSON are profiles of one run each.
"""

import argparse
import copy
from collections.abc import Callable
from typing import Any

import torch
from common import DTYPES, NORMAL_WEIGHTS, floor_ms, main, measured_rates, most_of, operations
from transformers import SamConfig, SamModel

from supersam_hf import SuperSamConfig, SuperSamModel, compile_layers, count_macs
from supersam_hf.measure import compare_latency


RANDOM = "sam-vit-base"
TINY = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 2, "global_attn_indexes": [1]}
Forward = Callable[[], Any]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default=RANDOM, help=f"folder or id of a SAM, or {RANDOM} with random weights")
    parser.add_argument("--image_size", type=int, default=1024, help="pixels a side; of random weights only")
    parser.add_argument("--batch_size", type=int, default=1, help="images")
    parser.add_argument("--rounds", type=int, default=3, help="rounds that are timed")
    parser.add_argument("--compile", action="store_true", help="also both under torch.compile")


def encoders(args: argparse.Namespace) -> tuple[Any, Any]:
    """Image encoders of stock and of ours, with the same weights."""
    if args.model == RANDOM:
        vision = {"image_size": args.image_size, **NORMAL_WEIGHTS, **(TINY if args.quick else {})}
        prompts = {"image_size": args.image_size, "image_embedding_size": args.image_size // 16}
        config = SamConfig(vision_config=vision, prompt_encoder_config=prompts)
        stock = SamModel._from_config(config, attn_implementation="sdpa")
        ours = SuperSamModel(SuperSamConfig(**config.to_dict()))
        ours.load_state_dict(stock.state_dict())
    else:
        stock = SamModel.from_pretrained(args.model, attn_implementation="sdpa")
        ours = SuperSamModel.from_pretrained(args.model)
    return tuple(m.vision_encoder.to(args.device, DTYPES[args.dtype]).eval() for m in (stock, ours))


def forward_of(encoder: Any, images: torch.Tensor) -> Forward:
    def run() -> torch.Tensor:
        with torch.inference_mode():
            return encoder(images).last_hidden_state

    return run


def backward_of(encoder: Any, images: torch.Tensor) -> Forward:
    def run() -> None:
        encoder.zero_grad()
        encoder(images).last_hidden_state.square().mean().backward()

    return run


def measure(args: argparse.Namespace) -> dict[str, Any]:
    if args.quick:
        args.image_size, args.rounds = 256, 1
    stock, ours = encoders(args)
    size = stock.config.image_size
    images = torch.randn(args.batch_size, 3, size, size, device=args.device, dtype=DTYPES[args.dtype])
    difference = (forward_of(stock, images)() - forward_of(ours, images)()).abs().max().item()
    variants = {"stock": stock, "ours": ours}
    if args.compile:
        compiled = copy.deepcopy(ours)
        compile_layers(compiled)
        variants |= {"stock, compiled": torch.compile(stock), "ours, compiled": compiled}
    macs = args.batch_size * count_macs(SuperSamConfig(vision_config=stock.config.to_dict()))
    rows: list[dict[str, Any]] = []
    profiles: dict[str, dict[str, float]] = {}
    for what, make, factor in (("forward", forward_of, 1), ("forward + backward", backward_of, 3)):
        runs = {name: make(encoder, images) for name, encoder in variants.items()}
        times = compare_latency(runs, args.rounds, device=args.device)
        profiles |= {f"{what}, {name}": most_of(operations(runs[name], 1)) for name in ("stock", "ours")}
        floor = floor_ms(factor * macs, 0, measured_rates(args.device, args.dtype))
        for name, compared in times.items():
            rows.append(
                {
                    "name": f"{what}, {name}",
                    "ms": compared.latency.median_ms,
                    "ratio": compared.ratio,
                    "ratio_p10": compared.ratio_p10,
                    "ratio_p90": compared.ratio_p90,
                    "times_as_fast": 1 / compared.ratio,
                    "floor_ms": floor,
                }
            )
    settings = {"model": args.model, "image_size": size, "batch_size": args.batch_size, "rounds": args.rounds}
    return {"rows": rows, "settings": settings, "max_difference": difference, "macs": macs, "own_ms": profiles}


if __name__ == "__main__":
    main(__doc__, arguments, measure)
