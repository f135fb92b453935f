"""A sandwich run for tests that need processes of their own: killed, resumed, or two at once.

usage: train_script.py STOCK_FOLDER OUTPUT_DIR [key=value ...]
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from conftest import tiny_config
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from supersam_hf import ElasticSpace, SuperSamModel, SuperSamProcessor
from supersam_hf.data import DataArguments, PromptDataset, build_loader, shapes
from supersam_hf.training.engine import Engine
from supersam_hf.training.losses import LossArguments
from supersam_hf.training.sandwich import (
    SandwichArguments,
    freeze_prompt_encoder,
    sandwich_step,
    subnets_of_step,
    train_sandwich,
)
from supersam_hf.training.sharding import local, whole


def loader(batch_size: int, seed: int = 0) -> torch.utils.data.DataLoader:
    args = DataArguments(box_padding=3, max_objects=3, min_area=20, flip=True)
    processor = SuperSamProcessor.for_config(tiny_config())
    dataset = PromptDataset(shapes(20, image_size=64, seed=3), processor.image_processor, args, training=True)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    return build_loader(dataset, batch_size, seed=seed, rank=rank, world=world)


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


class ShardedEngine(Engine):
    """As under Accelerate's FSDP 2, which it has for GPUs alone: each layer of the encoder a unit of `fully_shard`."""

    def _prepare(self, model: Any, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        names = {parameter: name for name, parameter in model.named_parameters()}
        mesh = init_device_mesh("cpu", (self.accelerator.num_processes,))
        for layer in model.vision_encoder.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        sharded = dict(model.named_parameters())
        for group in optimizer.param_groups:
            group["params"] = [sharded[names[parameter]] for parameter in group["params"]]
        return model, optimizer


def gradients(stock: Path | str, output: Path | str) -> None:
    """Three steps' subnets, and the gradients of one step of two micro-batches with in-place distillation, which are
    then clipped: every process writes what it has.

    Several processes do it again with the weights sharded over them, and with a rank that takes another subnet.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    loss = LossArguments(distillation_weight=0.4)
    args = SandwichArguments(
        max_steps=10, resume_from_checkpoint=None, max_grad_norm=0.1, loss=loss, gradient_accumulation_steps=2
    )
    for kind in ("", "-sharded", "-rogue") if world > 1 else ("",):
        engine_class = ShardedEngine if kind == "-sharded" else Engine
        # float64: what cancels in softmax and normalisation leaves no rounding errors of its own size
        model = SuperSamModel.from_pretrained(stock).double()
        freeze_prompt_encoder(model)
        space = ElasticSpace.for_config(model.config, prunable_layers=(1, 2, 3))
        engine = engine_class(model, loader(6 // world), args, output, sharding=kind == "-sharded")
        sampled = space.subnet(removed=(2,), mlp_dim=96)
        if kind == "-rogue" and rank == 1:
            sampled = space.subnet(removed=(1, 3), mlp_dim=60)
        subnets = {"largest": space.largest(), "smallest": space.smallest(), "sampled": sampled}
        kept: dict[str, torch.Tensor] = {}

        def keep(engine: Engine = engine, kept: dict[str, torch.Tensor] = kept) -> float:
            named = engine.accelerator.unwrap_model(engine.model).named_parameters()
            kept.update({name: whole(p.grad).clone() for name, p in named if p.grad is not None})
            optimizer, engine.optimizer = engine.optimizer, Unstepped(engine.optimizer)
            try:
                return Engine.optimizer_step(engine) or 0.0
            finally:
                engine.optimizer = optimizer

        engine.optimizer_step = keep
        batches = [
            {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}
            for batch in next(engine.batches())
        ]
        logs = sandwich_step(engine, batches, subnets, args)
        drawn = [[s.to_json() for s in subnets_of_step(space, args, step).values()] for step in range(3)]
        weights = {name: value.clone() for name, value in engine.unwrapped.state_dict().items()}
        found = {"gradients": kept, "norm": logs["grad_norm"], "drawn": drawn, "weights": weights}
        torch.save(found, f"{output}/gradients-{world}-{rank}{kind}.pt")
    if world > 1:
        torch.save(sharded_round_trip(stock, Path(output) / "sharded"), f"{output}/resumed-{world}-{rank}.pt")


def sharded_round_trip(stock: Path | str, output: Path) -> dict[str, list[torch.Tensor]]:
    """This process's parts of weights and moments, in a training whose weights are sharded and in its continuation."""
    args = SandwichArguments(max_steps=10, learning_rate=1e-3)
    parts: dict[str, list[torch.Tensor]] = {}
    for name in ("written", "read"):
        model = SuperSamModel.from_pretrained(stock)
        freeze_prompt_encoder(model)
        space = ElasticSpace.for_config(model.config, prunable_layers=(1, 2, 3))
        engine = ShardedEngine(model, loader(2), args, output, sharding=True)
        if name == "written":
            sandwich_step(engine, next(engine.batches()), {"largest": space.largest()}, args)
            engine.global_step = 1
            engine.save_checkpoint()
        moments = [value for state in engine.optimizer.state_dict()["state"].values() for value in state.values()]
        parts[name] = [local(value).clone() for value in (*engine.model.state_dict().values(), *moments)]
        assert all(isinstance(value, DTensor) == bool(value.ndim) for value in moments)
    return parts


class Unstepped:
    """An optimiser that clips but leaves weights and gradients as they are."""

    def __init__(self, optimizer: Any) -> None:
        self.param_groups = optimizer.param_groups

    def step(self) -> None: ...

    def zero_grad(self) -> None: ...


if __name__ == "__main__":
    verb, *positional = [a for a in sys.argv[1:] if "=" not in a]
    options = {
        k: int(v) if v.lstrip("-").isdigit() else v for k, v in (a.split("=") for a in sys.argv[1:] if "=" in a)
    }
    {"run": run, "gradients": gradients}[verb](*positional, **options)
