"""How much faster are extracted subnets, against how much less work they are? And ONNX Runtime, int8, `subnet=`?

    python benchmarks/subnet_latency.py                        # ViT-B, 1024 px, random weights
    python benchmarks/subnet_latency.py --model runs/a/supernet --dtype bf16
    python benchmarks/subnet_latency.py --quick                # a tiny model

The whole model runs: one image, one box prompt. Rows of one section are timed in interleaved rounds:

- extracted subnets (smallest; median of 101 sampled by MACs; depth-only: full widths without the prunable layers)
  against the largest, `ratio` beside `macs_ratio`; `over` is the one by the other. Where it is beyond 1.1, profiles
  of both name the operations that hold it: `held_by` has the milliseconds each takes beyond its share of the MACs.
- each subnet inside the supernet (`subnet=`) against itself extracted.
- with fp32 on the CPU, the largest and the smallest in PyTorch against ONNX Runtime and int8 (extras `onnx`, `int8`).
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from common import NORMAL_WEIGHTS, Rates, floor_ms, main, measured_rates, operations

from supersam_hf import ElasticSpace, Subnet, SuperSamConfig, SuperSamModel, count_macs, count_parameters
from supersam_hf.deploy.requirements import require_int8, require_onnx
from supersam_hf.measure import compare_latency, example_inputs


ALLOWED = 1.1
SECTIONS = ("extracted", "subnet=", "deployed")
TINY = {
    **{"hidden_size": 48, "num_hidden_layers": 6, "num_attention_heads": 3, "mlp_dim": 192, "image_size": 64},
    **{"window_size": 3, "global_attn_indexes": [1, 4], "output_channels": 32, "num_pos_feats": 16},
}
TINY_CONFIG: dict[str, Any] = {
    "vision_config": {**TINY, **NORMAL_WEIGHTS},
    "prompt_encoder_config": {"image_size": 64, "hidden_size": 32},
    "mask_decoder_config": {"hidden_size": 32, "mlp_dim": 64, "iou_head_hidden_dim": 32},
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Its own options."""
    parser.add_argument("--model", help="supernet: folder or id on the Hub (ViT-B of random weights)")
    parser.add_argument("--image_size", type=int, help="px a side, if not the model's own")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS, help="(all)")
    parser.add_argument("--rounds", type=int, default=10, help="interleaved rounds (10; 3 with --quick)")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Rows of all sections."""
    rounds = 3 if args.quick else args.rounds
    as_deployed = args.dtype == "fp32" and torch.device(args.device).type == "cpu" and "deployed" in args.sections
    if as_deployed:  # now, not when everything else has been measured
        require_onnx()
        require_int8()
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    model = load(args).to(args.device, dtype).eval()
    subnets, rates = named_subnets(model), measured_rates(args.device, args.dtype)
    rows = against_macs(model, subnets, rates, rounds) if "extracted" in args.sections else []
    rows += inside_supernet(model, subnets, rounds) if "subnet=" in args.sections else []
    if as_deployed:
        for name in ("largest", "smallest"):
            rows += deployed(model.extract(subnets[name]).eval(), name, rounds)
    settings = {"model": args.model or "random", "image_size": model.config.vision_config.image_size}
    settings |= {"rounds": rounds, "subnets": {name: subnet.to_dict() for name, subnet in subnets.items()}}
    return {"rows": rows, "settings": settings}


def load(args: argparse.Namespace) -> Any:
    """The supernet; of random weights, unless one is given: they change no time."""
    if args.model is not None:
        return SuperSamModel.from_pretrained(args.model, image_size=args.image_size)
    torch.manual_seed(0)
    config = SuperSamConfig(**(TINY_CONFIG if args.quick else {"vision_config": NORMAL_WEIGHTS}))
    if args.quick:
        config.elastic_space = ElasticSpace.for_config(config, prunable_layers=(2, 3)).to_dict()
    model = SuperSamModel(config)
    return model if args.image_size is None else model.resized(args.image_size)


def named_subnets(model: Any) -> dict[str, Subnet]:
    """Largest, smallest, median by MACs, and, where layers may go, the largest without them."""
    space, generator = model.elastic_space, torch.Generator().manual_seed(0)
    sampled = sorted((space.sample(generator) for _ in range(101)), key=lambda s: count_macs(model.config, s))
    largest = space.largest()
    kept = [i for i in range(len(largest.layers)) if i not in space.prunable_layers]
    shallow = Subnet(tuple(kept), tuple(largest.mlp_dim[i] for i in kept), tuple(largest.head_dim[i] for i in kept))
    named = {"largest": largest, "smallest": space.smallest(), "median": sampled[50]}
    return {**named, "depth-only": shallow} if space.prunable_layers else named


def forward_of(model: Any, **options: Any) -> Callable[[], Any]:
    """One image with one box through the model."""
    inputs = example_inputs(model)
    return torch.inference_mode()(lambda: model(**inputs, **options))


def timed(section: str, forwards: Mapping[str, Callable[[], Any]], rounds: int, device: Any) -> list[dict[str, Any]]:
    """Rows of things timed side by side, ratios to the first."""
    found = compare_latency(forwards, rounds, device=device)
    return [
        {
            "name": f"{section}: {name}",
            "ms": entry.latency.median_ms,
            "ratio": entry.ratio,
            "ratio_p10": entry.ratio_p10,
            "ratio_p90": entry.ratio_p90,
        }
        for name, entry in found.items()
    ]


def against_macs(model: Any, subnets: dict[str, Subnet], rates: Rates, rounds: int) -> list[dict[str, Any]]:
    """Extracted subnets against the largest, and what holds those that are slower than their work."""
    extracted = {name: model.extract(subnet).eval() for name, subnet in subnets.items()}
    forwards = {name: forward_of(small) for name, small in extracted.items()}
    rows = timed("extracted", forwards, rounds, model.device)
    whole = count_macs(model.config, num_prompts=1)
    for row, (name, subnet) in zip(rows, subnets.items()):
        macs = count_macs(model.config, subnet, num_prompts=1)
        row["macs_ratio"], row["over"] = macs / whole, row["ratio"] / (macs / whole)
        row["floor_ms"] = floor_ms(macs, count_parameters(model.config, subnet) * model.dtype.itemsize, rates)
        if row["over"] > ALLOWED:
            row["held_by"] = held_by(forwards["largest"], forwards[name], macs / whole)
    return rows


def held_by(whole: Callable[[], Any], part: Callable[[], Any], share: float, top: int = 5) -> dict[str, float]:
    """The operations that take most beyond `share` of the time they take in the whole: milliseconds beyond it."""
    before, after = operations(whole), operations(part)
    beyond = {name: after[name] - share * before.get(name, 0.0) for name in after}
    worst = sorted(beyond, key=lambda name: beyond[name], reverse=True)[:top]
    return {name: round(beyond[name], 3) for name in worst}


def inside_supernet(model: Any, subnets: dict[str, Subnet], rounds: int) -> list[dict[str, Any]]:
    """Each subnet as an argument of the supernet, against itself extracted."""
    rows = []
    for name, subnet in list(subnets.items())[1:]:
        forwards = {"extracted": forward_of(model.extract(subnet).eval()), "subnet=": forward_of(model, subnet=subnet)}
        rows += timed(name, forwards, rounds, model.device)
    return rows


def deployed(model: Any, name: str, rounds: int) -> list[dict[str, Any]]:
    """PyTorch, torchao's int8, ONNX Runtime, and that with int8."""
    from supersam_hf.deploy import OnnxSam, export_onnx, quantize_model, quantize_onnx

    with TemporaryDirectory() as folder:
        quantize_onnx(export_onnx(model, folder))
        sizes = {path.name: path.stat().st_size for path in Path(folder).glob("*.onnx")}
        forms = {
            "PyTorch": model,
            "PyTorch, int8": quantize_model(model),
            "ONNX Runtime": OnnxSam(folder),
            "ONNX Runtime, int8": OnnxSam(folder, int8=True),
        }
        inputs = example_inputs(model)
        forwards = {key: torch.inference_mode()(lambda form=form: form(**inputs)) for key, form in forms.items()}
        rows = timed(name, forwards, rounds, model.device)
    for row, int8 in zip(rows[2:], (False, True)):
        row["mb"] = sum(size for file, size in sizes.items() if ("_int8" in file) == int8) / 1e6
    return rows


if __name__ == "__main__":
    main(__doc__, arguments, measure)
