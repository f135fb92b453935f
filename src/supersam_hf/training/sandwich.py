"""Sandwich training of a supernet: largest, smallest and sampled subnets on every batch (SuperSAM, section III)."""

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader

from ..elastic.reorder import reorder
from ..evaluation import PROMPTS
from ..fields import ClosedUnitInterval, FieldError, Whole
from ..measure.cost import CostMeter
from ..models.supersam import ElasticSpace, Subnet, SuperSamModel
from ..models.supersam.compiling import compile_layers
from ..search.near_budget import Limits
from .arguments import EngineArguments
from .context import data_context
from .engine import Engine
from .imitation import EMBEDDINGS, Teacher, encoder_engine, imitated
from .losses import LossArguments, mask_loss
from .milestone import Milestone, MilestoneWatch, prompted_objects
from .shared_layers import share


# Makes a subnet keep a budget by random steps down.
Narrow = Callable[[Subnet, torch.Generator], Subnet]


@dataclass
class SandwichArguments(EngineArguments):
    """Sandwich training."""

    mode: Literal["accumulate", "sequential"] = "accumulate"
    """accumulate: losses averaged, one optimiser step a batch; sequential: a step after each subnet (the paper)."""
    num_sampled: Whole = 1
    """Sampled subnets a batch, beside the largest and the smallest."""
    near_budget: ClosedUnitInterval = 0.5
    """Share of the sampled subnets that are drawn near the search's budget, 0 to 1; without `search.max_params` and
    `search.max_macs`, none. 0: all from the whole space (the paper)."""
    reorder_every: Whole = 0
    """Reorder the elastic dimensions by Wanda every this many steps, moments too; 0: only before training."""
    torch_compile: bool = False
    """torch.compile the encoder's layers, a few graphs for all widths: minutes at the start, faster steps on GPUs."""
    loss: LossArguments = field(default_factory=LossArguments)
    """Loss terms."""
    milestone: Milestone | None = None
    """mIoU of a subnet at which to take down the cost so far, and perhaps to end; null: none. Needs `eval_steps`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.milestone is not None and self.eval_steps < 1:
            raise FieldError("milestone", "is looked for at each evaluation: set `eval_steps` to 1 or more.")


def subnets_of_step(
    space: ElasticSpace, args: SandwichArguments, step: int, narrow: Narrow | None = None
) -> dict[str, Subnet]:
    """The subnets of the sandwich rule at `step`: drawn from (seed, step), so all processes draw the same.

    Args:
        narrow (`Callable`, *optional*): Narrows a subnet until it keeps a budget. The `near_budget` share of the
            sampled ones goes through it, spread evenly over the steps.
    """
    generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
    subnets = {"largest": space.largest(), "smallest": space.smallest()}
    for i in range(args.num_sampled):
        drawn = space.sample(generator)
        if narrow is not None and is_near(args.near_budget, step * args.num_sampled + i):
            drawn = narrow(drawn, generator)
        subnets["sampled" if args.num_sampled == 1 else f"sampled_{i}"] = drawn
    return subnets


def is_near(share: float, number: int) -> bool:
    """Whether the sampled subnet of this number, from 0, is one of the share that is drawn near the budget: of 0.5
    every other one."""
    return math.floor((number + 1) * share) > math.floor(number * share)


def sandwich_step(
    engine: Engine,
    batches: list[dict[str, torch.Tensor]],
    subnets: Mapping[str, Subnet | None],
    args: SandwichArguments,
) -> dict[str, float]:
    """One batch: forward and backward of every subnet, and the optimiser step or steps. Returns the mean losses."""
    learn = accumulated_step if args.mode == "accumulate" else sequential_steps
    losses, norm = learn(engine, batches, subnets, args.loss)
    # a GPU is waited for once a step: (subnets, micro-batches) of losses are read together
    means = torch.stack([torch.stack(losses[name]) for name in subnets]).mean(1).tolist()
    logs = {f"loss_{name}": mean for name, mean in zip(subnets, means)}
    return logs if norm is None else {**logs, "grad_norm": norm}


def accumulated_step(
    engine: Engine,
    batches: list[dict[str, torch.Tensor]],
    subnets: Mapping[str, Subnet | None],
    args: LossArguments,
) -> tuple[dict[str, list[torch.Tensor]], float | None]:
    """One optimiser step on the mean loss of all subnets; what they share of a micro-batch is computed once.

    Returns the losses by subnet, one a micro-batch, and the norm of the gradients where they were clipped.
    """
    losses: dict[str, list[torch.Tensor]] = {name: [] for name in subnets}
    terms = len(batches) * len(subnets)
    for i, batch in enumerate(batches):
        shared, teacher = share(engine, batch, subnets), None
        for j, (name, subnet) in enumerate(subnets.items()):
            last = j + 1 == len(subnets)
            # DDP averages the gradients over processes in the last backward before a step, and only there
            with nullcontext() if last and i + 1 == len(batches) else engine.no_sync():
                inputs = None if shared is None else shared.inputs(last)
                loss, logits = forward_backward(engine, batch, subnet, args, terms, teacher, inputs)
            if name == "largest":
                teacher = logits
            losses[name].append(loss)
    return losses, engine.optimizer_step()


def sequential_steps(
    engine: Engine,
    batches: list[dict[str, torch.Tensor]],
    subnets: Mapping[str, Subnet | None],
    args: LossArguments,
) -> tuple[dict[str, list[torch.Tensor]], float | None]:
    """An optimiser step after each subnet. The weights move in between, so that nothing is shared. Returns as
    [`accumulated_step`], with the norm before the last step."""
    losses: dict[str, list[torch.Tensor]] = {name: [] for name in subnets}
    teachers: list[torch.Tensor | None] = [None] * len(batches)
    norm = None
    for name, subnet in subnets.items():
        for i, batch in enumerate(batches):
            with nullcontext() if i + 1 == len(batches) else engine.no_sync():
                loss, logits = forward_backward(engine, batch, subnet, args, len(batches), teachers[i])
            if name == "largest":
                teachers[i] = logits
            losses[name].append(loss)
        norm = engine.optimizer_step()
    return losses, norm


def forward_backward(
    engine: Engine,
    batch: dict[str, torch.Tensor],
    subnet: Subnet | None,
    args: LossArguments,
    terms: int,
    teacher: torch.Tensor | None,
    shared: dict[str, Any] | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Adds the gradients of a subnet's loss, one of the `terms` of a mean. Returns the loss and the mask logits,
    (batch, prompts, side, side), without their graph; None of pictures without labels."""
    if EMBEDDINGS in batch:
        loss = imitated(engine, batch, subnet, args, shared)
        engine.accelerator.backward(loss / terms)
        return loss.detach(), None
    outputs = predict(engine.model, batch, subnet, shared)
    logits = outputs.pred_masks[:, :, 0]
    loss = mask_loss(logits, outputs.iou_scores[:, :, 0], batch["low_res_masks"], args, teacher)
    engine.accelerator.backward(loss / terms)
    return loss.detach(), logits.detach()


def predict(
    model: torch.nn.Module,
    batch: dict[str, torch.Tensor],
    subnet: Subnet | None,
    shared: dict[str, Any] | None = None,
) -> Any:
    """Single masks (mask token 0) for the batch's prompts: `pred_masks` of shape (batch, prompts, 1, side, side).
    The subnet goes on from what is `shared`, where given, in place of the batch's images."""
    prompts = {name: batch[name] for name in PROMPTS if name in batch}
    images = {"pixel_values": batch["pixel_values"]} if shared is None else shared
    return model(multimask_output=False, subnet=subnet, **images, **prompts)


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
    teacher: Teacher | None = None,
    limits: Limits | None = None,
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
        teacher ([`Teacher`], *optional*): For pictures without labels: the original, whose embeddings the image
            encoder imitates.
        limits ([`Limits`], *optional*): Budget near which the `near_budget` share of the sampled subnets is drawn.

    Raises:
        ValueError: If `reorder_every` is set without calibration images, or `milestone` without `evaluate`.
    """
    if args.reorder_every and not calibration:
        raise ValueError("`reorder_every` needs `calibration` images for Wanda.")
    if args.milestone is not None and evaluate is None:
        raise ValueError("`milestone` needs `evaluate`, which tells the mIoU.")
    meter = meter or CostMeter(None)
    freeze_prompt_encoder(model)
    if args.torch_compile:
        compile_layers(model.vision_encoder)
    context = {"space": space.to_dict(), "data": data_context(loader)}
    near = limits if args.near_budget else None
    if near is not None:
        context["near"] = near.to_dict()
    # A milestone that ends nothing does not make it another training.
    deciding = args if args.milestone is None or args.milestone.stop else replace(args, milestone=None)
    # Reordering permutes whole dimensions, which no process holds of a sharded model.
    if teacher is None:
        engine = Engine(model, loader, deciding, output_dir, context, sharding=not args.reorder_every, meter=meter)
    else:
        engine = encoder_engine(model, teacher, loader, deciding, output_dir, context, meter=meter)
    watch = None
    if args.milestone is not None:
        file = milestone_file or Path(output_dir) / "milestone.json"
        watch = MilestoneWatch(args.milestone, engine, meter, file)

    narrow = None if near is None else near.narrowed

    def step(engine: Engine, batches: list[dict[str, torch.Tensor]]) -> dict[str, float]:
        if args.reorder_every and engine.global_step and engine.global_step % args.reorder_every == 0:
            reorder(engine.unwrapped, space, "wanda", calibration, optimizer=engine.optimizer.optimizer)
        meter.add(samples=prompted_objects(batches, engine.accelerator.num_processes))
        if teacher is not None:
            batches = [teacher.added_to(batch, engine, args.loss) for batch in batches]
        return sandwich_step(engine, batches, subnets_of_step(space, args, engine.global_step, narrow), args)

    engine.fit(step, evaluate, "sandwich", watch)
    return engine.unwrapped
