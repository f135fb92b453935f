"""A small SAM of one's own: from scratch, or around the encoder of a ViT or DeiT checkpoint."""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from transformers import AutoConfig, AutoModel

from ..fields import Count, FieldError, NonNegative, Place, Positive, Side, Whole
from ..measure.cost import CostMeter
from ..models.supersam import SuperSamConfig, SuperSamModel
from .finetune import FinetuneArguments, finetune
from .losses import LossArguments


@dataclass
class PretrainArguments(FinetuneArguments):
    """A small SAM, trained from scratch or from a ViT/DeiT encoder."""

    enabled: bool = False
    """Run this stage; false: `model.name` is loaded."""
    encoder: Place | None = None
    """ViT or DeiT checkpoint (Hub or folder) to start the encoder from; its shape replaces the four below."""
    image_size: Side = 96
    """Input size, px a side."""
    patch_size: Side = 16
    """Patch size, px a side."""
    hidden_size: Count = 128
    """Width of the encoder."""
    num_hidden_layers: Count = 12
    """Depth of the encoder."""
    num_attention_heads: Count = 4
    """Heads of the encoder."""
    mlp_ratio: Positive = 4.0
    """MLP width over encoder width."""
    window_size: Whole = 0
    """Attention windows of this many patches a side; 0: global attention everywhere."""
    global_attn_indexes: list[Whole] = field(default_factory=lambda: [2, 5, 8, 11])
    """Layers with global attention where `window_size` is set."""
    decoder_size: Count = 256
    """Width of the prompt encoder and the mask decoder."""
    learning_rate: Positive = 5e-4
    """AdamW's peak learning rate."""
    lr_schedule: Literal["exponential", "cosine", "linear"] = "cosine"
    """Shape of the decay."""
    warmup_steps: Whole = 50
    """Steps of linear warm-up."""
    weight_decay: NonNegative = 0.01
    """AdamW's weight decay."""
    max_grad_norm: Positive | None = 1.0
    """Clip the gradient norm to this."""
    train_prompt_encoder: bool = True
    """The prompt encoder starts from nothing, so it is trained."""
    loss: LossArguments = field(default_factory=lambda: LossArguments(bce_weight=1.0, iou_weight=1.0))
    """Loss terms."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decoder_size % 16:
            raise FieldError("decoder_size", f"must be a multiple of 16, got {self.decoder_size}.")
        if self.encoder is not None:
            return
        for name, unit in (("image_size", "patch_size"), ("hidden_size", "num_attention_heads")):
            value, divisor = vars(self)[name], vars(self)[unit]
            if value % divisor:
                raise FieldError(name, f"must be a multiple of `{unit}` {divisor}, got {value}.")
        if int(self.hidden_size * self.mlp_ratio) < 1:
            raise FieldError("mlp_ratio", f"must give the MLP 1 unit or more, got {self.mlp_ratio}.")


def sam_config(args: PretrainArguments) -> SuperSamConfig:
    """The config of a SAM of these sizes; with `encoder`, of that encoder's.

    Raises:
        ValueError: If `encoder` is no ViT or DeiT, or the image is not a whole number of patches.
    """
    shape: dict[str, Any] = {
        "hidden_size": args.hidden_size,
        "num_hidden_layers": args.num_hidden_layers,
        "num_attention_heads": args.num_attention_heads,
        "mlp_dim": int(args.hidden_size * args.mlp_ratio),
        "patch_size": args.patch_size,
    }
    if args.encoder is not None:
        vit = vit_config(args.encoder)
        shape = {"hidden_size": vit.hidden_size, "num_hidden_layers": vit.num_hidden_layers}
        shape |= {"num_attention_heads": vit.num_attention_heads, "mlp_dim": vit.intermediate_size}
        shape |= {"patch_size": vit.patch_size, "layer_norm_eps": vit.layer_norm_eps}
    patch, decoder = shape["patch_size"], args.decoder_size
    if args.image_size % patch:
        raise ValueError(f"`image_size` must be a multiple of the patch size {patch}, got {args.image_size}.")
    return SuperSamConfig(
        vision_config={
            "image_size": args.image_size,
            "output_channels": decoder,
            "num_pos_feats": decoder // 2,
            # as in the original SAM; the stock default starts prompt positions as noise
            "scale": 1.0,
            "window_size": args.window_size,
            "global_attn_indexes": args.global_attn_indexes,
            **shape,
        },
        prompt_encoder_config={"image_size": args.image_size, "patch_size": patch, "hidden_size": decoder},
        mask_decoder_config={"hidden_size": decoder, "iou_head_hidden_dim": decoder, "mlp_dim": 8 * decoder},
    )


def new_sam(args: PretrainArguments) -> SuperSamModel:
    """An untrained SAM of these sizes.

    Weights start with unit gain: the stock config's `initializer_range` (1e-10 in the encoder, 0.02 elsewhere) starts
    the neck at zero and lets signals of a narrow model die out. Raises `ValueError` as [`sam_config`] does.
    """
    config = sam_config(args)
    torch.manual_seed(args.seed)
    model = SuperSamModel(config)
    _unit_gain(model)
    encoder: Any = model.vision_encoder
    # Positions that start at zero leave patches indistinguishable to a model that learns them from nothing.
    torch.nn.init.trunc_normal_(encoder.pos_embed, std=0.02)
    if args.encoder is not None:
        vit = AutoModel.from_pretrained(args.encoder, add_pooling_layer=False, trust_remote_code=False)
        encoder.load_state_dict(vit_encoder_weights(vit, encoder.pos_embed.shape[1]), strict=False)
    return model


def _unit_gain(model: torch.nn.Module) -> None:
    """Weights of every linear and convolution from N(0, 1 / inputs of one output)."""
    for module in model.modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            torch.nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
        elif isinstance(module, torch.nn.ConvTranspose2d):
            # kernel = stride: each output pixel has one input pixel
            torch.nn.init.normal_(module.weight, std=module.weight.shape[0] ** -0.5)


def vit_config(name: str) -> Any:
    """The config of a ViT or DeiT checkpoint; `ValueError` for another architecture, or one with code of its own."""
    config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    if config.model_type not in ("vit", "deit"):
        raise ValueError(f"`encoder` must be a ViT or DeiT checkpoint, but {name!r} is of type {config.model_type!r}.")
    return config


@torch.no_grad()
def vit_encoder_weights(vit: Any, grid: int) -> dict[str, torch.Tensor]:
    """A ViT's weights under the names of SAM's encoder; class tokens dropped, positions interpolated to the grid."""
    positions = vit.embeddings.position_embeddings[0]
    tokens = positions.shape[0] - vit.embeddings.patch_embeddings.num_patches
    side = round(vit.embeddings.patch_embeddings.num_patches**0.5)
    # (tokens + side * side, channel) -> (1, channel, side, side) -> (1, grid, grid, channel)
    positions = positions[tokens:].T.reshape(1, -1, side, side)
    positions = F.interpolate(positions, size=(grid, grid), mode="bicubic", align_corners=False).permute(0, 2, 3, 1)
    state = {"pos_embed": positions}
    for name in ("weight", "bias"):
        state[f"patch_embed.projection.{name}"] = getattr(vit.embeddings.patch_embeddings.projection, name)
        for i, layer in enumerate(vit.layers):
            attention, prefix = layer.attention, f"layers.{i}."
            parts = [getattr(linear, name) for linear in (attention.q_proj, attention.k_proj, attention.v_proj)]
            state[f"{prefix}attn.qkv.{name}"] = torch.cat(parts)
            state[f"{prefix}attn.proj.{name}"] = getattr(attention.o_proj, name)
            state[f"{prefix}layer_norm1.{name}"] = getattr(layer.layernorm_before, name)
            state[f"{prefix}layer_norm2.{name}"] = getattr(layer.layernorm_after, name)
            state[f"{prefix}mlp.lin1.{name}"] = getattr(layer.mlp.fc1, name)
            state[f"{prefix}mlp.lin2.{name}"] = getattr(layer.mlp.fc2, name)
    return state


def pretrain(
    model: SuperSamModel,
    loader: DataLoader,
    args: PretrainArguments,
    output_dir: Any,
    *,
    meter: CostMeter | None = None,
) -> SuperSamModel:
    """Trains a [`new_sam`] on single masks, prompt encoder included; [`finetune`] under another name."""
    return finetune(model, loader, args, output_dir, description="pretrain", meter=meter)
