"""Parameter groups with a learning rate that falls from the head down to the embeddings."""

import re
from typing import Any

import torch


__all__ = ["layer_decay_groups"]


# One prefix at most: `mask_decoder.transformer.layers.0` is part of a head, not of the encoder.
LAYER = re.compile(r"^(?:\w+\.)?layers\.(\d+)\.")
# The layers of a Swin are stages of blocks; merging patches is the end of a stage.
STAGE = re.compile(r"^(?:\w+\.)?encoder\.layers\.(\d+)\.(?:blocks\.(\d+)|downsample)\.")
EMBEDDINGS = re.compile(r"^(?:\w+\.)?(?:embeddings|patch_embed|pos_embed)\b")
TOKENS = ("cls_token", "distillation_token", "mask_token")
POSITIONS = ("position_embeddings", "pos_embed", "rel_pos_h", "rel_pos_w", "relative_position_bias_table")


def layer_decay_groups(
    model: torch.nn.Module, learning_rate: float, weight_decay: float, decay: float
) -> list[dict[str, Any]]:
    """Layer-wise learning-rate decay (BEiT, MAE): with n layers, the head and the last LayerNorm have the rate
    `learning_rate`, layer i has `learning_rate * decay ** (n - i)`, the embeddings `learning_rate * decay ** (n + 1)`.
    1-D tensors, tokens and positions have no weight decay.

    Args:
        model (`nn.Module`): [`OfbViTForImageClassification`] or alike, a ViT, DeiT or Swin, or [`SuperSamModel`],
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
    names = [name for name, _ in model.named_parameters()]
    layers = {layer for name in names if (layer := _layer(name))}
    levels = {layer: i + 1 for i, layer in enumerate(sorted(layers))}
    depth = len(levels)
    if decay < 1 and not depth:
        raise ValueError(f"`layer_decay` below 1 needs an encoder with `layers`, unlike {type(model).__name__}.")
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = decay ** (depth + 1 - _level(name, levels))
            undecayed = parameter.ndim < 2 or name.endswith(TOKENS + POSITIONS)
            groups.setdefault((factor, 0.0 if undecayed else weight_decay), []).append(parameter)
    return [
        {"params": parameters, "lr": learning_rate * factor, "weight_decay": group_decay}
        for (factor, group_decay), parameters in sorted(groups.items(), key=lambda item: item[0], reverse=True)
    ]


def _layer(name: str) -> tuple[int, int] | None:
    """Stage and block of a parameter of a layer, in the order in which an image passes them; 0 for the only stage."""
    if match := LAYER.match(name):
        return 0, int(match[1])
    match = STAGE.match(name)
    return (int(match[1]), int(match[2])) if match and match[2] else None


def _level(name: str, levels: dict[tuple[int, int], int]) -> int:
    """0 for the embeddings, i + 1 for layer i, 1 more for the head; merging patches belongs to the block before it."""
    if layer := _layer(name):
        return levels[layer]
    if match := STAGE.match(name):
        return max(level for (stage, _), level in levels.items() if stage == int(match[1]))
    return 0 if EMBEDDINGS.match(name) else len(levels) + 1
