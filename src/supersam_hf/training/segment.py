"""Training of a segmenter: cross entropy over labelled pixels, of its head and its auxiliary heads."""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from torch import nn
from torch.utils.data import DataLoader

from ..fields import BelowOne, Fraction, NonNegative, Positive, Whole
from ..measure.cost import CostMeter
from ..segmentation import check_classes
from .context import data_context
from .drop_path import DropPath
from .engine import Engine
from .finetune import Evaluate, RetrainingArguments, fit, new_ema, parameter_groups


@dataclass
class SegmenterArguments(RetrainingArguments):
    """Fine-tuning of a backbone with a new head for semantic segmentation."""

    learning_rate: Positive = 1e-4
    """AdamW's peak learning rate of the head (SETR: SGD at 0.01 or 0.001)."""
    lr_schedule: Literal["exponential", "cosine", "linear"] = "linear"
    """Shape of the decay (SETR: polynomial, power 0.9)."""
    min_lr_ratio: Fraction = 0.01
    """Floor of the learning rate, as a fraction of the peak."""
    warmup_steps: Whole = 20
    """Steps of linear warm-up."""
    weight_decay: NonNegative = 0.01
    """AdamW's weight decay; none on biases, norms, tokens and positions."""
    max_grad_norm: Positive | None = 1.0
    """Clip the gradient norm of each parameter group to this; null: no clipping."""
    layer_decay: Fraction = 0.9
    """Factor of the learning rate from each layer to the one below, in (0, 1]; 1: one rate for all."""
    drop_path_rate: BelowOne = 0.1
    """Stochastic depth of the last layer, in [0, 1); the first layer has none."""


def train_segmenter(
    model: Any,
    loader: DataLoader,
    args: SegmenterArguments,
    output_dir: Path | str,
    *,
    evaluate: Evaluate | None = None,
    meter: CostMeter | None = None,
) -> Any:
    """Trains a segmenter in place; returns it.

    Args:
        model (`OfbViTForSemanticSegmentation`): With as many labels as the data has classes. On several GPUs the batch
            norms of its head are over the images of all; on CPUs, where torch has no such norms, of each process.
        loader (`DataLoader`): Of a `SemanticDataset`, from `data.build_loader`, training mode.
        output_dir (`Path` or `str`): Takes the checkpoints, from which an interrupted run goes on, and the log.
        evaluate (`Callable`, *optional*): Metrics by name, every `eval_steps`; with `ema_decay`, of the average.

    Raises:
        ValueError: If model and data have different numbers of classes.
    """
    check_classes(model, loader)
    model = synchronised(model, PartialState())
    groups, ema = parameter_groups(model, args), new_ema(model, args)
    drop_path = DropPath(model, args.drop_path_rate)
    try:
        engine = Engine(
            model,
            loader,
            args,
            output_dir,
            {"data": data_context(loader)},
            parameters=groups,
            stateful=[ema] if ema else [],
            meter=meter,
        )
        return fit(engine, segmenter_step, evaluate, "segment", ema)
    finally:
        drop_path.remove()


def synchronised(model: nn.Module, state: PartialState) -> nn.Module:
    """The model with batch norms over all processes' images, where there are several GPUs."""
    if state.num_processes == 1 or state.device.type != "cuda":
        return model
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def segmenter_step(engine: Engine, batches: list[dict[str, torch.Tensor]]) -> dict[str, float]:
    """One optimiser step: forward and backward of every micro-batch. Returns the mean loss."""
    total = 0.0
    for i, batch in enumerate(batches):
        # DDP averages the gradients over processes in the last backward before a step, and only there
        with nullcontext() if i + 1 == len(batches) else engine.no_sync():
            loss = engine.model(pixel_values=batch["pixel_values"], labels=batch["labels"]).loss
            engine.accelerator.backward(loss / len(batches))
        total += loss.item() / len(batches)
    norm = engine.optimizer_step()
    return {"loss": total} if norm is None else {"loss": total, "grad_norm": norm}


__all__ = ["SegmenterArguments", "segmenter_step", "synchronised", "train_segmenter"]
