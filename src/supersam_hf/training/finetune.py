"""Plain fine-tuning: the largest subnet only, or an extracted subnet, by the sandwich trainer's loss."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from ..models.supersam import SuperSamModel
from .engine import Engine, EngineArguments
from .losses import LossArguments
from .sandwich import SandwichArguments, data_context, freeze_prompt_encoder, sandwich_step


@dataclass
class FinetuneArguments(EngineArguments):
    """Plain fine-tuning of one model."""

    train_prompt_encoder: bool = False
    """Train the prompt encoder too (its positional embedding stays)."""
    loss: LossArguments = field(default_factory=LossArguments)
    """Loss terms."""


def finetune(
    model: SuperSamModel,
    loader: DataLoader,
    args: FinetuneArguments,
    output_dir: Path | str,
    *,
    evaluate: Callable[[Engine], dict[str, float]] | None = None,
    description: str = "finetune",
) -> SuperSamModel:
    """Trains `model` as it is (a supernet's largest subnet, or an extracted subnet) in place; returns it.

    Checkpoints, resuming and logging are the sandwich trainer's.
    """
    freeze_prompt_encoder(model)
    if args.train_prompt_encoder:
        model.prompt_encoder.requires_grad_(True)
        # The random Fourier features of positions are shared with the image side and never trained.
        model.prompt_encoder.shared_embedding.requires_grad_(False)
    engine = Engine(model, loader, args, output_dir, {"data": data_context(loader)})
    alone = SandwichArguments(loss=args.loss)

    def step(engine: Engine, batches: list[dict[str, torch.Tensor]]) -> dict[str, float]:
        logs = sandwich_step(engine, batches, {"largest": None}, alone)
        return {"loss" if name == "loss_largest" else name: value for name, value in logs.items()}

    engine.fit(step, evaluate, description)
    return engine.unwrapped
