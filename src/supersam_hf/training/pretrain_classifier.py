"""A small ViT of one's own, from scratch: something to search in where no checkpoint fits."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader

from ..measure.cost import CostMeter
from ..models.ofb_vit import OfbViTConfig, OfbViTForImageClassification
from .classify import MixArguments
from .finetune import ClassifierFinetuneArguments, finetune_classifier


__all__ = ["PretrainClassifierArguments", "new_vit", "pretrain_classifier"]


@dataclass
class PretrainClassifierArguments(ClassifierFinetuneArguments):
    """A small ViT, trained from scratch."""

    enabled: bool = False
    """Run this stage; false: `model.name` is loaded."""
    image_size: int = 32
    """Input size, px a side."""
    patch_size: int = 4
    """Patch size, px a side."""
    hidden_size: int = 96
    """Width of the embedding."""
    num_hidden_layers: int = 6
    """Layers."""
    num_attention_heads: int = 4
    """Heads a layer."""
    mlp_ratio: float = 4.0
    """MLP width over embedding width."""
    learning_rate: float = 1e-3
    """AdamW's peak learning rate."""
    min_lr_ratio: float = 0.01
    """Floor of the learning rate, as a fraction of the peak."""
    lr_schedule: Literal["exponential", "cosine", "linear"] = "cosine"
    """Shape of the decay."""
    warmup_steps: int = 50
    """Steps of linear warm-up."""
    max_grad_norm: float | None = 1.0
    """Clip the gradient norm of each parameter group to this."""
    layer_decay: float = 1.0
    """Factor of the learning rate from each layer to the one below, in (0, 1]; 1: one rate for all."""
    ema_decay: float | None = None
    """Average the weights over the steps with this decay; the average is evaluated and returned; null: no average."""
    drop_path_rate: float = 0.0
    """Stochastic depth of the last layer, in [0, 1)."""
    mix: MixArguments = field(default_factory=lambda: MixArguments(mixup_alpha=0.0, cutmix_alpha=0.0))
    """Mixup and CutMix: none, which learns faster in a short training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("image_size", "patch_size", "hidden_size", "num_hidden_layers", "num_attention_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be 1 or more, got {getattr(self, name)}.")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"`image_size` must be a multiple of `patch_size` {self.patch_size}, got {self.image_size}."
            )
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"`hidden_size` must be a multiple of `num_attention_heads` {self.num_attention_heads}, got "
                f"{self.hidden_size}."
            )
        if int(self.hidden_size * self.mlp_ratio) < 1:
            raise ValueError(f"`mlp_ratio` must give the MLP 1 unit or more, got {self.mlp_ratio}.")


def new_vit(args: PretrainClassifierArguments, label_names: Sequence[str]) -> OfbViTForImageClassification:
    """An untrained ViT of these sizes with a head for these labels; its weights depend on `args.seed` alone."""
    config = OfbViTConfig(
        image_size=args.image_size,
        patch_size=args.patch_size,
        hidden_size=args.hidden_size,
        num_hidden_layers=args.num_hidden_layers,
        num_attention_heads=args.num_attention_heads,
        intermediate_size=int(args.hidden_size * args.mlp_ratio),
        # the published ViT and DeiT checkpoints' value
        layer_norm_eps=1e-6,
        id2label=dict(enumerate(label_names)),
        label2id={name: i for i, name in enumerate(label_names)},
    )
    torch.manual_seed(args.seed)
    return OfbViTForImageClassification(config)


def pretrain_classifier(
    model: OfbViTForImageClassification,
    loader: DataLoader,
    args: PretrainClassifierArguments,
    output_dir: Any,
    *,
    meter: CostMeter | None = None,
) -> OfbViTForImageClassification:
    """Trains a [`new_vit`]; [`finetune_classifier`] under another name in the progress bar."""
    return finetune_classifier(model, loader, args, output_dir, description="pretrain", meter=meter)
