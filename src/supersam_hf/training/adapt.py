"""Adapters: LoRA of one SAM, or elastic LoRA of a supernet by the sandwich rule. The weights under them stay."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from accelerate.utils import set_seed
from torch.utils.data import DataLoader

from ..fields import BelowOne, Count, FieldError, Place, Positive, Text, Whole
from ..measure.cost import CostMeter
from ..models.supersam import ElasticSpace, SuperSamModel
from .arguments import EngineArguments
from .classify import seed_step
from .context import data_context
from .engine import Engine
from .losses import LossArguments
from .sandwich import SandwichArguments, sandwich_step, subnets_of_step


if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

# (IA)³ scales keys and values (here with the queries, which share a layer) and the inner units of the MLPs.
IA3_TARGETS = r"vision_encoder\.layers\.\d+\.(attn\.qkv|mlp\.lin2)|mask_decoder\.transformer\..+\.([kv]_proj|lin2)"
IA3_FEEDFORWARD = "lin2"


@dataclass
class AdaptArguments(EngineArguments):
    """A small adapter on frozen weights: elastic LoRA of a supernet, plain LoRA or (IA)³ of any other SAM."""

    method: Literal["lora", "ia3"] = "lora"
    """lora: low-rank updates, on a supernet for all its subnets at once; ia3: scales, not on a supernet."""
    r: Count = 8
    """Rank of LoRA."""
    alpha: Count = 16
    """LoRA's product is scaled by alpha / r."""
    dropout: BelowOne = 0.0
    """Dropout of LoRA's input, 0 to 1."""
    targets: list[Text] | None = None
    """Names of the linear layers to adapt, as peft's target_modules; null: encoder, and the decoder's transformer."""
    learning_rate: Positive = 1e-3
    """AdamW's peak learning rate."""
    num_sampled: Whole = 1
    """On a supernet: sampled subnets a batch, beside the largest and the smallest."""
    loss: LossArguments = field(default_factory=LossArguments)
    """Loss terms."""
    eval_sampled: Whole = 5
    """On a supernet: sampled subnets evaluated before and after, beside the largest and the smallest."""
    subnet: Place | None = None
    """Of a supernet, also write this subnet with its slice of the adapter: `largest`, `smallest`, or a JSON file."""
    merge: bool = False
    """Also write the model with the adapter merged into its weights."""
    base: Place | None = None
    """Hub id of the model under the adapter, as adapter_config.json names it; null: `model.name`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.targets is not None and not self.targets:
            raise FieldError("targets", "must name at least one linear layer, got []; null takes the defaults.")


def adapter_config(args: AdaptArguments, elastic: bool) -> "PeftConfig":
    """peft's config of the adapter that the arguments ask for.

    Raises:
        ValueError: If (IA)³ is asked for on a supernet.
    """
    from peft import IA3Config, LoraConfig

    from ..elastic.lora import DEFAULT_TARGETS, elastic_lora_config

    if args.method == "ia3":
        if elastic:
            raise ValueError("`method` ia3 adapts one subnet, not a supernet: choose lora, or extract a subnet first.")
        if args.targets is None:
            return IA3Config(target_modules=IA3_TARGETS, feedforward_modules=[IA3_FEEDFORWARD])
        feedforward = [name for name in args.targets if name.endswith(IA3_FEEDFORWARD)]
        return IA3Config(target_modules=args.targets, feedforward_modules=feedforward)
    if elastic:
        return elastic_lora_config(args.r, args.alpha, args.dropout, args.targets)
    targets = DEFAULT_TARGETS if args.targets is None else args.targets
    return LoraConfig(r=args.r, lora_alpha=args.alpha, lora_dropout=args.dropout, target_modules=targets)


def add_adapter(model: SuperSamModel, args: AdaptArguments, elastic: bool, revision: str | None = None) -> "PeftModel":
    """Wraps `model` in place with a new adapter, the only thing that is trained of it from here on.

    Args:
        elastic (`bool`): Whether the model is a supernet, whose subnets share the adapter.
        revision (`str`, *optional*): Of the model on the Hub; the adapter's config records it, unless `args.base`
            names another repository.

    Raises:
        ValueError: If the method does not fit the model, or the targets of a supernet are not all linear layers.
    """
    from peft import get_peft_model

    from ..elastic.lora import check_layers

    config = adapter_config(args, elastic)
    set_seed(args.seed)  # A is drawn at random: a resumed run draws the same
    adapted: Any = get_peft_model(model, config, revision=revision)
    if elastic:
        check_layers(model)
    if args.base not in (None, config.base_model_name_or_path):
        config.base_model_name_or_path, config.revision = args.base, None
    return adapted


def train_adapter(
    model: torch.nn.Module,
    loader: DataLoader,
    args: AdaptArguments,
    output_dir: Path | str,
    *,
    space: ElasticSpace | None = None,
    evaluate: Callable[[Engine], dict[str, float]] | None = None,
    meter: CostMeter | None = None,
) -> None:
    """Trains the adapter of `model` in place.

    Args:
        model (`PeftModel`): From [`add_adapter`].
        loader (`DataLoader`): From `data.build_loader`, training mode.
        output_dir (`Path` or `str`): Takes the checkpoints, from which an interrupted run goes on, and the log.
        space ([`ElasticSpace`], *optional*): Train largest, smallest and sampled subnets of it on every batch (the
            sandwich rule); left out: the model as it is.
        evaluate (`Callable`, *optional*): Metrics by name, every `eval_steps`.
        meter ([`CostMeter`], *optional*): Counts what the training costs.
    """
    rule = SandwichArguments(args.max_steps, seed=args.seed, num_sampled=args.num_sampled, loss=args.loss)
    context = {"space": None if space is None else space.to_dict(), "data": data_context(loader)}
    # What is done with the adapter afterwards does not make it another training.
    deciding = replace(args, eval_sampled=0, subnet=None, merge=False, base=None)
    engine = Engine(model, loader, deciding, output_dir, context, meter=meter)

    def step(engine: Engine, batches: list[dict[str, torch.Tensor]]) -> dict[str, float]:
        seed_step(args.seed, engine.global_step, engine.accelerator.process_index)  # dropout
        subnets = {"model": None} if space is None else subnets_of_step(space, rule, engine.global_step)
        return sandwich_step(engine, batches, subnets, rule)

    engine.fit(step, evaluate, "adapt")
