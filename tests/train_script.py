"""A sandwich run for tests that need processes of their own: killed, resumed, or two at once.

usage: train_script.py STOCK_FOLDER OUTPUT_DIR [key=value ...]
"""

import os
import sys
from pathlib import Path

import torch
from conftest import tiny_config

from supersam_hf import ElasticSpace, SuperSamModel, SuperSamProcessor
from supersam_hf.data import DataArguments, PromptDataset, build_loader, shapes
from supersam_hf.training.engine import Engine
from supersam_hf.training.sandwich import SandwichArguments, freeze_prompt_encoder, sandwich_step, train_sandwich


def loader(batch_size: int, seed: int = 0) -> torch.utils.data.DataLoader:
    args = DataArguments(box_padding=3, max_objects=3, min_area=20, flip=True)
    processor = SuperSamProcessor.for_config(tiny_config())
    dataset = PromptDataset(shapes(20, image_size=64, seed=3), processor.image_processor, args, training=True)
    return build_loader(dataset, batch_size, seed=seed)


def killed_at(step: int) -> None:
    """Makes the engine die as by kill -9 once it has done `step` steps."""
    save = Engine.log

    def log(engine: Engine, values: dict[str, float]) -> None:
        save(engine, values)
        if engine.global_step == step:
            os.kill(os.getpid(), 9)

    Engine.log = log


def run(stock: str, output: str, *, kill: int = 0, **options: object) -> None:
    if kill:
        killed_at(kill)
    model = SuperSamModel.from_pretrained(stock)
    space = ElasticSpace.for_config(model.config, prunable_layers=(1, 2, 3), attention_windows=(24, 48))
    args = SandwichArguments(max_steps=12, learning_rate=1e-3, save_steps=5, logging_steps=1, **options)
    model = train_sandwich(model, space, loader(4), args, output)
    model.save_pretrained(Path(output) / "final")


def gradients(stock: str, output: str, *, rogue: int = 0) -> None:
    """One sandwich step; every process writes the gradients it ends with. `rogue`: rank 1 takes another subnet."""
    model = SuperSamModel.from_pretrained(stock)
    freeze_prompt_encoder(model)
    space = ElasticSpace.for_config(model.config, prunable_layers=(1, 2, 3))
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    args = SandwichArguments(max_steps=10, resume=False)
    engine = Engine(model, loader(8 // world), args, output)
    kept = {}

    def keep() -> None:
        kept.update({name: p.grad.clone() for name, p in engine.unwrapped.named_parameters() if p.grad is not None})

    engine.optimizer_step = keep
    sampled = space.subnet(removed=(2,), mlp_dim=96)
    if rogue and rank == 1:
        sampled = space.subnet(removed=(1, 3), mlp_dim=60)
    subnets = {"largest": space.largest(), "smallest": space.smallest(), "sampled": sampled}
    sandwich_step(engine, next(engine.batches()), subnets, args)
    torch.save(kept, f"{output}/gradients-{world}-{rank}.pt")


if __name__ == "__main__":
    verb, *positional = [a for a in sys.argv[1:] if "=" not in a]
    options = {
        k: int(v) if v.lstrip("-").isdigit() else v for k, v in (a.split("=") for a in sys.argv[1:] if "=" in a)
    }
    {"run": run, "gradients": gradients}[verb](*positional, **options)
