"""A classifier's training for tests, and in a process of its own where it must be killed.

usage: classify_script.py OUTPUT_DIR KILL_AFTER_STEP
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from supersam_hf.data import build_loader
from supersam_hf.models.ofb_vit import OfbViTForImageClassification
from supersam_hf.training.engine import Engine
from supersam_hf.training.finetune import ClassifierFinetuneArguments, finetune_classifier
from supersam_hf.training.pretrain_classifier import PretrainClassifierArguments, new_vit


LABELS = ["red", "green", "blue"]


@dataclass
class StripesArguments:
    noise: float = 0.3
    seed: int = 0


class Stripes(Dataset):
    """Noise of 16 px a side, brighter in the channel of its label."""

    def __init__(self, size: int, args: StripesArguments, training: bool = True) -> None:
        self.size, self.args, self.training, self.label_names = size, args, training, LABELS

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, item: tuple[int, int]) -> dict[str, torch.Tensor]:
        epoch, index = item
        generator = torch.Generator().manual_seed(1000 * epoch + index)
        image = self.args.noise * torch.randn(3, 16, 16, generator=generator)
        label = index % len(LABELS)
        image[label] += 0.5
        return {"pixel_values": image, "labels": torch.tensor(label)}


def stripes(size: int = 20, batch_size: int = 4, **args: float) -> DataLoader:
    return build_loader(Stripes(size, StripesArguments(**args)), batch_size)


def tiny_vit(seed: int = 0, labels: list[str] = LABELS) -> OfbViTForImageClassification:
    """16 px, 16 patches, 3 layers of width 32."""
    args = PretrainClassifierArguments(
        image_size=16,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        mlp_ratio=2.0,
        seed=seed,
    )
    return new_vit(args, labels)


def train(output: Path | str) -> torch.nn.Module:
    """Mixing, drop path, average and layer decay together: 12 steps of 5 an epoch, checkpoints at 5 and 10."""
    args = ClassifierFinetuneArguments(
        max_steps=12, learning_rate=1e-3, warmup_steps=2, drop_path_rate=0.3, save_steps=5, logging_steps=1
    )
    return finetune_classifier(tiny_vit(), stripes(), args, output)


def kill_after(step: int) -> None:
    """Makes the engine die as by kill -9 once it has done `step` steps."""
    log = Engine.log

    def log_and_die(engine: Engine, values: dict[str, float]) -> None:
        log(engine, values)
        if engine.global_step == step:
            os.kill(os.getpid(), 9)

    Engine.log = log_and_die


if __name__ == "__main__":
    kill_after(int(sys.argv[2]))
    train(sys.argv[1])
