"""Budgets in milliseconds: ten asked, and each network timed anew against the whole one; and what pruning takes.

    python benchmarks/latency_budgets.py --output benchmarks/results/latency_budgets

Weights are random (a DeiT-S, a Swin-T, a SAM of 256 px, and with `--large` a SAM ViT-B at 1024 px): time and pruning
do not look at what they mean. A budget is met if the network, built anew and timed in other interleaved rounds, takes
at most 5 % more and at least 5 % less than was asked for.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import SamConfig, SamPromptEncoderConfig, SamVisionConfig

from supersam_hf import OfbSwinForImageClassification, OfbViTForImageClassification, SuperSamModel, prune
from supersam_hf.bimask.families import family_of
from supersam_hf.files import write_whole
from supersam_hf.measure import compare_latency, example_inputs, hardware
from supersam_hf.models.ofb_swin import OfbSwinConfig
from supersam_hf.models.ofb_vit import OfbViTConfig
from supersam_hf.models.supersam import SuperSamConfig
from supersam_hf.oneshot.batches import forward_only


ASKED = {"DeiT-S": (80, 70, 60, 50), "Swin-T": (80, 65, 50), "SAM, 256 px": (80, 70, 60)}
WITHIN = 0.05
ROUNDS, PRECISION = 300, 0.007


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/latency_budgets"), help="takes results.md")
    parser.add_argument("--large", action="store_true", help="prune a SAM ViT-B too")
    parser.add_argument("--images", type=int, default=320, help="that Taylor importance and the refit look at")
    args = parser.parse_args()
    torch.manual_seed(0)
    kept = [asked(name, share) for name, shares in ASKED.items() for share in shares]
    took = [pruned(name, args.images) for name in ("DeiT-S", *(["SAM ViT-B, 1024 px"] if args.large else []))]
    met = sum(one.met for one in kept)
    lines = [f"{met} of {len(kept)} budgets met within {WITHIN:.0%}. {hardware('cpu')}", ""]
    lines += ["| model | asked | measured | of the MACs | seconds to find | met |", "|---|---|---|---|---|---|"]
    lines += [one.row() for one in kept]
    lines += ["", "| pruned to half of the MACs | images | minutes |", "|---|---|---|", *took]
    write_whole(args.output / "results.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


@dataclass
class Kept:
    """A budget, asked and measured, as shares of the whole network's time."""

    name: str
    asked: float
    measured: float
    macs: float
    seconds: float

    @property
    def met(self) -> bool:
        return abs(self.measured / self.asked - 1) <= WITHIN

    def row(self) -> str:
        said = "yes" if self.met else "no"
        return (
            f"| {self.name} | {self.asked:.0%} | {self.measured:.1%} | {self.macs:.0%} | {self.seconds:.0f} | {said} |"
        )


def asked(name: str, share: int) -> Kept:
    """Prunes to a share of the time, and times what came out anew."""
    model, started = made(name), time.perf_counter()
    smaller = prune(model, max_latency_ms=f"{share}%", method="magnitude", reconstruct=False)
    seconds, report = time.perf_counter() - started, smaller.config.search
    for one in (model, smaller):
        randomise(one)  # what was cut and what is new, alike
    both = {"whole": forward(model), "smaller": forward(smaller)}
    timed = compare_latency(both, ROUNDS, until=PRECISION)["smaller"]
    kept = Kept(name, share / 100, timed.ratio, report["macs"] / report["original"]["macs"], seconds)
    print(kept.row(), flush=True)
    return kept


def pruned(name: str, images: int) -> str:
    """A row: Taylor importance (for a SAM Wanda, of its encoder alone) and the refit, to half of the MACs."""
    model, size = made(name), 1 if "ViT-B" in name else 16
    side = getattr(model.config, "vision_config", model.config).image_size
    images = min(images, 32) if "ViT-B" in name else images
    sam = isinstance(model, SuperSamModel)
    batches = [
        {"pixel_values": torch.randn(size, 3, side, side), "labels": torch.randint(10, (size,))}
        for _ in range(images // size)
    ]
    started = time.perf_counter()
    how: Any = {"method": "wanda", "loss": forward_only} if sam else {}
    prune(model, batches, max_macs=0.5, **how)
    row = f"| {name} | {images} | {(time.perf_counter() - started) / 60:.1f} |"
    print(row, flush=True)
    return row


def made(name: str) -> Any:
    """A model of these sizes, with random weights."""
    if name == "DeiT-S":
        config = OfbViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536, num_labels=10)
        return randomise(OfbViTForImageClassification(config))
    if name == "Swin-T":
        return randomise(OfbSwinForImageClassification(OfbSwinConfig(num_labels=10)))
    small = {"hidden_size": 192, "num_attention_heads": 3, "image_size": 256, "global_attn_indexes": [2, 5, 8, 11]}
    vision = SamVisionConfig(**({} if "ViT-B" in name else small))
    prompts = SamPromptEncoderConfig(image_size=vision.image_size)
    config = SamConfig(vision_config=vision.to_dict(), prompt_encoder_config=prompts.to_dict())
    return randomise(SuperSamModel(SuperSamConfig.from_dict(config.to_dict())))


def randomise(model: Any) -> Any:
    """Weights as trained ones are spread: SAM's own initial range gives numbers that CPUs multiply slowly."""
    family_of(model)  # is one that can be pruned
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter.data, std=0.02)
    return model.eval()


def forward(model: Any) -> Any:
    inputs = example_inputs(model)
    return torch.inference_mode()(lambda: model(**inputs))


if __name__ == "__main__":
    main()
