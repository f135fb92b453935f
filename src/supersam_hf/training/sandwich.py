"""Sandwich training of a supernet: largest, smallest and sampled subnets on every batch (SuperSAM, section III)."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader

from ..elastic.reorder import reorder
from ..evaluation import PROMPTS
from ..measure.cost import CostMeter
from ..models.supersam import ElasticSpace, Subnet, SuperSamModel
from .arguments import EngineArguments
from .context import data_context
from .engine import Engine
from .losses import LossArguments, mask_loss
from .milestone import Milestone, MilestoneWatch, prompted_objects


@dataclass
class SandwichArguments(EngineArguments):
    """Sandwich training."""

    mode: Literal["accumulate", "sequential"] = "accumulate"
    """accumulate: losses averaged, one optimiser step a batch; sequential: a step after each subnet (the paper)."""
    num_sampled: int = 1
    """Sampled subnets a batch, beside the largest and the smallest."""
    reorder_every: int = 0
    """Reorder the elastic dimensions by Wanda every this many steps, moments too; 0: only before training."""
    loss: LossArguments = field(default_factory=LossArguments)
    """Loss terms."""
    milestone: Milestone | None = None
    """mIoU of a subnet at which to take down the cost so far, and perhaps to end; null: none. Needs `eval_steps`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.milestone is not None and self.eval_steps < 1:
            raise ValueError("`milestone` is looked for at each evaluation: set `eval_steps` to 1 or more.")
        if self.mode not in ("accumulate", "sequential"):
            raise ValueError(f"`mode` must be accumulate or sequential, got {self.mode!r}.")
        if self.num_sampled < 0:
            raise ValueError(f"`num_sampled` must be 0 or more, got {self.num_sampled}.")


def subnets_of_step(space: ElasticSpace, args: SandwichArguments, step: int) -> dict[str, Subnet]:
    """The subnets of the sandwich rule at `step`: drawn from (seed, step), so all processes draw the same."""
    generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
    subnets = {"largest": space.largest(), "smallest": space.smallest()}
    for i in range(args.num_sampled):
        subnets["sampled" if args.num_sampled == 1 else f"sampled_{i}"] = space.sample(generator)
    return subnets


def sandwich_step(
    engine: Engine,
    batches: list[dict[str, torch.Tensor]],
    subnets: Mapping[str, Subnet | None],
    args: SandwichArguments,
) -> dict[str, float]:
    """One batch: forward and backward of every subnet, and the optimiser step or steps. Returns the mean losses."""
    logs = dict.fromkeys((f"loss_{name}" for name in subnets), 0.0)
    teachers: list[torch.Tensor | None] = [None] * len(batches)
    accumulate = args.mode == "accumulate"
    backwards = len(batches) * (len(subnets) if accumulate else 1)
    done = 0
    for name, subnet in subnets.items():
        for i, batch in enumerate(batches):
            done += 1
            last = done == backwards
            # DDP averages the gradients over processes in the last backward before a step, and only there
            with nullcontext() if last else engine.no_sync():
                outputs = predict(engine.model, batch, subnet)
                logits = outputs.pred_masks[:, :, 0]
                loss = mask_loss(logits, outputs.iou_scores[:, :, 0], batch["low_res_masks"], args.loss, teachers[i])
                engine.accelerator.backward(loss / backwards)
            if name == "largest":
                teachers[i] = logits.detach()
            logs[f"loss_{name}"] += loss.item() / len(batches)
            if last:
                done = 0
                norm = engine.optimizer_step()
                if norm is not None:
                    logs["grad_norm"] = norm
    return logs


def predict(model: torch.nn.Module, batch: dict[str, torch.Tensor], subnet: Subnet | None) -> Any:
    """Single masks (mask token 0) for the batch's prompts: `pred_masks` of shape (batch, prompts, 1, side, side)."""
    prompts = {name: batch[name] for name in PROMPTS if name in batch}
    return model(pixel_values=batch["pixel_values"], multimask_output=False, subnet=subnet, **prompts)


def freeze_prompt_encoder(model: SuperSamModel) -> None:
    """Image encoder and mask decoder are trained, the prompt encoder is not (SuperSAM, Fig. 1)."""
    model.prompt_encoder.requires_grad_(False)
    model.shared_image_embedding.requires_grad_(False)


def train_sandwich(
    model: SuperSamModel,
    space: ElasticSpace,
    loader: DataLoader,
    args: SandwichArguments,
    output_dir: Path | str,
    *,
    evaluate: Callable[[Engine], dict[str, float]] | None = None,
    calibration: Iterable[torch.Tensor] = (),
    meter: CostMeter | None = None,
    milestone_file: Path | None = None,
) -> SuperSamModel:
    """Trains `model` in place so that every subnet of `space` works; returns it.

    Args:
        loader (`DataLoader`): From `data.build_loader`, training mode.
        output_dir (`Path` or `str`): Takes the checkpoints, from which an interrupted run goes on, and the log.
        evaluate (`Callable`, *optional*): Metrics by name, every `eval_steps`.
        calibration (`Iterable[torch.Tensor]`, *optional*): `pixel_values` for `reorder_every`.
        meter ([`CostMeter`], *optional*): Counts what the training costs.
        milestone_file (`Path`, *optional*): Takes what the milestone took; `milestone.json` in `output_dir` if not
            given.

    Raises:
        ValueError: If `reorder_every` is set without calibration images, or `milestone` without `evaluate`.
    """
    if args.reorder_every and not calibration:
        raise ValueError("`reorder_every` needs `calibration` images for Wanda.")
    if args.milestone is not None and evaluate is None:
        raise ValueError("`milestone` needs `evaluate`, which tells the mIoU.")
    meter = meter or CostMeter(None)
    freeze_prompt_encoder(model)
    context = {"space": space.to_dict(), "data": data_context(loader)}
    # A milestone that ends nothing does not make it another training.
    deciding = args if args.milestone is None or args.milestone.stop else replace(args, milestone=None)
    # Reordering permutes whole dimensions, which no process holds of a sharded model.
    engine = Engine(model, loader, deciding, output_dir, context, sharding=not args.reorder_every, meter=meter)
    watch = None
    if args.milestone is not None:
        file = milestone_file or Path(output_dir) / "milestone.json"
        watch = MilestoneWatch(args.milestone, engine, meter, file)

    def step(engine: Engine, batches: list[dict[str, torch.Tensor]]) -> dict[str, float]:
        if args.reorder_every and engine.global_step and engine.global_step % args.reorder_every == 0:
            reorder(engine.unwrapped, space, "wanda", calibration, optimizer=engine.optimizer.optimizer)
        meter.add(samples=prompted_objects(batches, engine.accelerator.num_processes))
        return sandwich_step(engine, batches, subnets_of_step(space, args, engine.global_step), args)

    engine.fit(step, evaluate, "sandwich", watch)
    return engine.unwrapped
