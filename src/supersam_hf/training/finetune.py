"""Plain training of one model: a SAM by the sandwich trainer's loss, a classifier by cross-entropy and distillation.

Retraining a subnet, transferring it to other data, and training a small model from nothing are all this.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader

from ..classification import check_labels
from ..fields import BelowOne, FieldError, Fraction, NonNegative, OpenUnitInterval, Place, Positive, Whole
from ..files import fingerprint
from ..measure.cost import CostMeter
from ..models.supersam import SuperSamModel
from .arguments import EngineArguments
from .classify import ClassificationLossArguments, MixArguments, classifier_step
from .context import data_context
from .drop_path import DropPath
from .ema import Ema
from .engine import Engine
from .imitation import Teacher, encoder_engine
from .layer_decay import layer_decay_groups
from .losses import LossArguments
from .sandwich import SandwichArguments, freeze_prompt_encoder, sandwich_step


Evaluate = Callable[[Engine], dict[str, float]]


@dataclass
class RetrainingArguments(EngineArguments):
    """What plain training has beside the engine's arguments, whatever the model."""

    layer_decay: Fraction = 1.0
    """Factor of the learning rate from each encoder layer to the one below, in (0, 1]; 1: one rate for all."""
    ema_decay: OpenUnitInterval | None = None
    """Average the weights over the steps with this decay; the average is evaluated and returned; null: no average."""
    ema_warmup: bool = True
    """Average over about the last tenth of the run until `ema_decay` spans more."""


@dataclass
class FinetuneArguments(RetrainingArguments):
    """Plain fine-tuning of one model."""

    train_prompt_encoder: bool = False
    """Train the prompt encoder too (its positional embedding stays)."""
    loss: LossArguments = field(default_factory=LossArguments)
    """Loss terms."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss is not None and self.loss.distillation_weight:
            text = "needs a larger subnet in the same step, and one network alone is trained here: leave it at 0."
            raise FieldError("loss.distillation_weight", text)


@dataclass
class ClassifierFinetuneArguments(RetrainingArguments):
    """Retraining or transfer of a classifier. Rates and decays are those of OFB's released retraining, mixing is
    DeiT's."""

    learning_rate: Positive = 1.5e-4
    """AdamW's peak learning rate: 1.5e-4 for 256 images a step, so 6e-4 at the released 1,024."""
    lr_schedule: Literal["exponential", "cosine", "linear"] = "cosine"
    """Shape of the decay."""
    min_lr_ratio: Fraction = 1 / 60
    """Floor of the learning rate, as a fraction of the peak (1e-5 of 6e-4)."""
    warmup_steps: Whole = 20
    """Steps of linear warm-up (released: 5 epochs of 300)."""
    weight_decay: NonNegative = 0.05
    """AdamW's weight decay; none on biases, norms, tokens and positions."""
    layer_decay: Fraction = 0.95
    """Factor of the learning rate from each layer to the one below, in (0, 1]; 1: one rate for all."""
    ema_decay: OpenUnitInterval | None = 0.99996
    """Average the weights over the steps with this decay; the average is evaluated and returned; null: no average."""
    drop_path_rate: BelowOne = 0.1
    """Stochastic depth of the last layer, in [0, 1); the first layer has none."""
    teacher: Place | None = None
    """Classifier to distil from (Hub id or folder), with the same labels; needs `loss.distillation`."""
    mix: MixArguments = field(default_factory=MixArguments)
    """Mixup and CutMix."""
    loss: ClassificationLossArguments = field(default_factory=ClassificationLossArguments)
    """Label smoothing and distillation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teacher is not None and self.loss.distillation == "none":
            raise FieldError("teacher", "is given, but `loss.distillation` is none: choose soft or hard.")


def finetune(
    model: SuperSamModel,
    loader: DataLoader,
    args: FinetuneArguments,
    output_dir: Path | str,
    *,
    evaluate: Evaluate | None = None,
    description: str = "finetune",
    meter: CostMeter | None = None,
    teacher: Teacher | None = None,
) -> SuperSamModel:
    """Trains `model` as it is (a supernet's largest subnet, or an extracted subnet) in place; returns it.

    Checkpoints, resuming and logging are the sandwich trainer's. With `ema_decay`, the average of the weights is what
    `evaluate` sees and what is returned. With a `teacher`, whose embeddings it imitates, the image encoder alone is
    trained, on pictures without labels.
    """
    freeze_prompt_encoder(model)
    if teacher is not None:
        model.mask_decoder.requires_grad_(False)
    if args.train_prompt_encoder:
        model.prompt_encoder.requires_grad_(True)
        # The random Fourier features of positions are shared with the image side and never trained.
        model.prompt_encoder.shared_embedding.requires_grad_(False)
    alone = SandwichArguments(loss=args.loss)

    def step(engine: Engine, batches: list[dict[str, torch.Tensor]]) -> dict[str, float]:
        if teacher is not None:
            batches = [teacher.added_to(batch, engine, args.loss) for batch in batches]
        logs = sandwich_step(engine, batches, {"largest": None}, alone)
        return {"loss" if name == "loss_largest" else name: value for name, value in logs.items()}

    groups = parameter_groups(model, args) if args.layer_decay < 1 else None
    ema = new_ema(model, args)
    context = {"data": data_context(loader)}
    stateful = [ema] if ema else []
    options: dict[str, Any] = {"parameters": groups, "stateful": stateful, "meter": meter}
    if teacher is None:
        engine = Engine(model, loader, args, output_dir, context, **options)
    else:
        engine = encoder_engine(model, teacher, loader, args, output_dir, context, **options)
    return fit(engine, step, evaluate, description, ema)


def finetune_classifier(
    model: Any,
    loader: DataLoader,
    args: ClassifierFinetuneArguments,
    output_dir: Path | str,
    *,
    evaluate: Evaluate | None = None,
    teacher: torch.nn.Module | None = None,
    description: str = "finetune",
    meter: CostMeter | None = None,
) -> Any:
    """Trains a classifier in place; returns it.

    Args:
        model (`OfbViTForImageClassification`): A ViT or DeiT of transformers works too. Where it has a head on the
            distillation token, the mean of both heads is trained.
        loader (`DataLoader`): Of an `ImageDataset`, from `data.build_loader`, training mode.
        output_dir (`Path` or `str`): Takes the checkpoints, from which an interrupted run goes on, and the log.
        evaluate (`Callable`, *optional*): Metrics by name, every `eval_steps`; with `ema_decay`, of the average.
        teacher (`nn.Module`, *optional*): For `loss.distillation`: `teacher(pixel_values=...).logits` of the same
            labels. It sees the mixed images.

    Raises:
        ValueError: If model and data have different numbers of labels, or only one of teacher and distillation is
            given.
    """
    check_labels(model, loader)
    if (teacher is None) != (args.loss.distillation == "none"):
        given = "no" if teacher is None else "a"
        raise ValueError(
            f"`loss.distillation` is {args.loss.distillation}, and {given} teacher is given: give both or neither."
        )
    context = {"data": data_context(loader), "teacher": None if teacher is None else fingerprint(teacher)}
    groups, ema = parameter_groups(model, args), new_ema(model, args)
    drop_path = DropPath(model, args.drop_path_rate)
    try:
        stateful = [ema] if ema else []
        engine = Engine(model, loader, args, output_dir, context, parameters=groups, stateful=stateful, meter=meter)
        if teacher is not None:
            teacher = teacher.to(engine.accelerator.device).eval()

        def step(engine: Engine, batches: list[dict[str, torch.Tensor]]) -> dict[str, float]:
            return classifier_step(engine, batches, args.mix, args.loss, teacher)

        return fit(engine, step, evaluate, description, ema)
    finally:
        drop_path.remove()


def parameter_groups(model: torch.nn.Module, args: RetrainingArguments) -> list[dict[str, Any]]:
    """[`layer_decay_groups`] at these arguments."""
    return layer_decay_groups(model, args.learning_rate, args.weight_decay, args.layer_decay)


def new_ema(model: torch.nn.Module, args: RetrainingArguments) -> Ema | None:
    """The average of the weights, where these arguments want one."""
    return None if args.ema_decay is None else Ema(model, args.ema_decay, args.ema_warmup)


def fit(
    engine: Engine,
    step: Callable[[Engine, list[dict[str, torch.Tensor]]], dict[str, float]],
    evaluate: Evaluate | None,
    description: str,
    ema: Ema | None,
) -> Any:
    """Runs the engine to its end and returns the model. The average, if any, follows each step, is evaluated, and is
    what the returned model has."""
    if ema is None:
        engine.fit(step, evaluate, description)
        return engine.unwrapped

    def averaged_step(engine: Engine, batches: list[dict[str, torch.Tensor]]) -> dict[str, float]:
        logs = step(engine, batches)
        ema.update(engine.unwrapped)
        return logs

    def evaluate_average(engine: Engine) -> dict[str, float]:
        with ema.average_parameters(engine.unwrapped):
            return {} if evaluate is None else evaluate(engine)

    engine.fit(averaged_step, None if evaluate is None else evaluate_average, description)
    ema.copy_to(engine.unwrapped)
    return engine.unwrapped
