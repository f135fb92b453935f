"""Parameter groups with a learning rate that falls from the head down to the embeddings."""

import re
from typing import Any

import torch


__all__ = ["layer_decay_groups"]


# One prefix at most: `mask_decoder.transformer.layers.0` is part of a head, not of the encoder.
LAYER = re.compile(r"^(?:\w+\.)?layers\.(\d+)\.")
EMBEDDINGS = re.compile(r"^(?:\w+\.)?(?:embeddings|patch_embed|pos_embed)\b")
TOKENS = ("cls_token", "distillation_token", "mask_token")
POSITIONS = ("position_embeddings", "pos_embed", "rel_pos_h", "rel_pos_w")


def layer_decay_groups(
    model: torch.nn.Module, learning_rate: float, weight_decay: float, decay: float
) -> list[dict[str, Any]]:
    """Layer-wise learning-rate decay (BEiT, MAE): with n layers, the head and the last LayerNorm have the rate
    `learning_rate`, layer i has `learning_rate * decay ** (n - i)`, the embeddings `learning_rate * decay ** (n + 1)`.
    1-D tensors, tokens and positions have no weight decay.

    Args:
        model (`nn.Module`): [`OfbViTForImageClassification`], a ViT or DeiT of transformers, or [`SuperSamModel`],
            whose encoder has the layers; neck, prompt encoder and mask decoder count as head.
        learning_rate (`float`): Peak rate of the head.
        weight_decay (`float`): Of all other tensors.
        decay (`float`): In (0, 1]. 1: groups with and without weight decay only.

    Returns:
        `list[dict]`: Groups of the trainable parameters for torch's optimisers, the head's first.

    Raises:
        ValueError: If the decay is out of its range, or below 1 for a model without `layers`.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"`layer_decay` must lie in (0, 1], got {decay}.")
    found = [LAYER.match(name) for name, _ in model.named_parameters()]
    depth = 1 + max((int(match[1]) for match in found if match), default=-1)
    if decay < 1 and not depth:
        raise ValueError(f"`layer_decay` below 1 needs an encoder with `layers`, unlike {type(model).__name__}.")
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = decay ** (depth + 1 - _level(name, depth))
            undecayed = parameter.ndim < 2 or name.endswith(TOKENS + POSITIONS)
            groups.setdefault((factor, 0.0 if undecayed else weight_decay), []).append(parameter)
    return [
        {"params": parameters, "lr": learning_rate * factor, "weight_decay": group_decay}
        for (factor, group_decay), parameters in sorted(groups.items(), key=lambda item: item[0], reverse=True)
    ]


def _level(name: str, depth: int) -> int:
    """0 for the embeddings, i + 1 for layer i, depth + 1 for the head."""
    match = LAYER.match(name)
    if match:
        return int(match[1]) + 1
    return 0 if EMBEDDINGS.match(name) else depth + 1
