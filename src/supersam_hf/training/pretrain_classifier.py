"""A small ViT or Swin of one's own, from scratch: something to search in where no checkpoint fits."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader

from ..fields import BelowOne, Count, FieldError, Fraction, OpenUnitInterval, Positive, Side, Whole
from ..measure.cost import CostMeter
from ..models.classifiers import CLASSIFIERS
from ..models.ofb_swin import OfbSwinConfig
from ..models.ofb_vit import OfbViTConfig
from .classify import MixArguments
from .finetune import ClassifierFinetuneArguments, finetune_classifier


__all__ = ["PretrainClassifierArguments", "new_classifier", "pretrain_classifier"]


@dataclass
class PretrainClassifierArguments(ClassifierFinetuneArguments):
    """A small ViT or Swin, trained from scratch."""

    enabled: bool = False
    """Run this stage; false: `model.name` is loaded."""
    image_size: Side = 32
    """Input size, px a side."""
    patch_size: Side = 4
    """Patch size, px a side."""
    hidden_size: Count = 96
    """Width of the embedding; of a Swin, of the first stage: each further one has twice as many channels."""
    num_hidden_layers: Count = 6
    """Layers of a ViT."""
    num_attention_heads: Count = 4
    """Heads a layer; of a Swin, of the first stage: each further one has twice as many."""
    depths: list[Count] | None = None
    """Blocks of each stage of a Swin ([2, 2, 6, 2], ...); null: a ViT."""
    window_size: Count = 4
    """Window of a Swin, patches a side."""
    mlp_ratio: Positive = 4.0
    """MLP width over embedding width."""
    learning_rate: Positive = 1e-3
    """AdamW's peak learning rate."""
    min_lr_ratio: Fraction = 0.01
    """Floor of the learning rate, as a fraction of the peak."""
    lr_schedule: Literal["exponential", "cosine", "linear"] = "cosine"
    """Shape of the decay."""
    warmup_steps: Whole = 50
    """Steps of linear warm-up."""
    max_grad_norm: Positive | None = 1.0
    """Clip the gradient norm of each parameter group to this."""
    layer_decay: Fraction = 1.0
    """Factor of the learning rate from each layer to the one below, in (0, 1]; 1: one rate for all."""
    ema_decay: OpenUnitInterval | None = None
    """Average the weights over the steps with this decay; the average is evaluated and returned; null: no average."""
    drop_path_rate: BelowOne = 0.0
    """Stochastic depth of the last layer, in [0, 1)."""
    mix: MixArguments = field(default_factory=lambda: MixArguments(mixup_alpha=0.0, cutmix_alpha=0.0))
    """Mixup and CutMix: none, which learns faster in a short training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size % self.patch_size:
            raise FieldError(
                "image_size", f"must be a multiple of `patch_size` {self.patch_size}, got {self.image_size}."
            )
        if self.depths is not None and (not self.depths or min(self.depths) < 1):
            raise FieldError("depths", f"must be numbers of 1 or more, one a stage, or null, got {self.depths}.")
        if self.hidden_size % self.num_attention_heads:
            raise FieldError(
                "hidden_size",
                f"must be a multiple of `num_attention_heads` {self.num_attention_heads}, got {self.hidden_size}.",
            )
        if int(self.hidden_size * self.mlp_ratio) < 1:
            raise FieldError("mlp_ratio", f"must give the MLP 1 unit or more, got {self.mlp_ratio}.")


def new_classifier(args: PretrainClassifierArguments, label_names: Sequence[str]) -> Any:
    """An untrained ViT or Swin of these sizes with a head for these labels; its weights depend on `args.seed`
    alone."""
    common: dict[str, Any] = {
        "image_size": args.image_size,
        "patch_size": args.patch_size,
        "id2label": dict(enumerate(label_names)),
        "label2id": {name: i for i, name in enumerate(label_names)},
    }
    config: Any = _vit_config(args, common) if args.depths is None else _swin_config(args, args.depths, common)
    torch.manual_seed(args.seed)
    return CLASSIFIERS[config.model_type](config)


def _vit_config(args: PretrainClassifierArguments, common: dict[str, Any]) -> OfbViTConfig:
    return OfbViTConfig(
        hidden_size=args.hidden_size,
        num_hidden_layers=args.num_hidden_layers,
        num_attention_heads=args.num_attention_heads,
        intermediate_size=int(args.hidden_size * args.mlp_ratio),
        # the published ViT and DeiT checkpoints' value
        layer_norm_eps=1e-6,
        **common,
    )


def _swin_config(args: PretrainClassifierArguments, depths: list[int], common: dict[str, Any]) -> OfbSwinConfig:
    return OfbSwinConfig(
        embed_dim=args.hidden_size,
        depths=list(depths),
        num_heads=[args.num_attention_heads * 2**stage for stage in range(len(depths))],
        window_size=args.window_size,
        mlp_ratio=args.mlp_ratio,
        drop_path_rate=0.0,  # the trainings' own
        **common,
    )


def pretrain_classifier(
    model: Any,
    loader: DataLoader,
    args: PretrainClassifierArguments,
    output_dir: Any,
    *,
    meter: CostMeter | None = None,
) -> Any:
    """Trains a [`new_classifier`]; [`finetune_classifier`] under another name in the progress bar."""
    return finetune_classifier(model, loader, args, output_dir, description="pretrain", meter=meter)
