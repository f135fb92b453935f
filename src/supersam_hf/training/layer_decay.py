"""Parameter groups with a learning rate that falls from the head down to the embeddings."""

from typing import Any

import torch

from .encoder_blocks import encoder_blocks


__all__ = ["layer_decay_groups"]


TOKENS = ("cls_token", "distillation_token", "mask_token")
POSITIONS = ("position_embeddings", "pos_embed", "rel_pos_h", "rel_pos_w", "relative_position_bias_table")


def layer_decay_groups(
    model: torch.nn.Module, learning_rate: float, weight_decay: float, decay: float
) -> list[dict[str, Any]]:
    """Layer-wise learning-rate decay (BEiT, MAE): with n blocks, the head and the last LayerNorm have the rate
    `learning_rate`, block i has `learning_rate * decay ** (n - i)`, the embeddings `learning_rate * decay ** (n + 1)`.
    1-D tensors, tokens and positions have no weight decay.

    Args:
        model (`nn.Module`): A classifier or segmenter, or [`SuperSamModel`], whose encoder has the layers; neck,
            prompt encoder and mask decoder count as head.
        learning_rate (`float`): Peak rate of the head.
        weight_decay (`float`): Of all other tensors.
        decay (`float`): In (0, 1]. 1: groups with and without weight decay only.

    Returns:
        `list[dict]`: Groups of the trainable parameters for torch's optimisers, the head's first.

    Raises:
        ValueError: If the decay is out of its range, or below 1 for a model without blocks.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"`layer_decay` must lie in (0, 1], got {decay}.")
    blocks = list(encoder_blocks(model))
    depth, levels = len(blocks), _levels(model, blocks)
    if decay < 1 and not depth:
        raise ValueError(f"`layer_decay` below 1 needs an encoder of blocks, unlike {type(model).__name__}.")
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = decay ** (depth + 1 - levels[name])
            undecayed = parameter.ndim < 2 or name.endswith(TOKENS + POSITIONS)
            groups.setdefault((factor, 0.0 if undecayed else weight_decay), []).append(parameter)
    return [
        {"params": parameters, "lr": learning_rate * factor, "weight_decay": group_decay}
        for (factor, group_decay), parameters in sorted(groups.items(), key=lambda item: item[0], reverse=True)
    ]


def _levels(model: torch.nn.Module, blocks: list[str]) -> dict[str, int]:
    """By parameter: 0 before the first block (embeddings), i + 1 for block i and what stands between it and the next
    (merging of patches), 1 more behind the last: modules are declared in the order in which an image passes them."""
    levels, level = {}, 0
    for name, _ in model.named_parameters():
        own = next((i for i, block in enumerate(blocks) if name.startswith(f"{block}.")), None)
        level = level if own is None else own + 1
        levels[name] = level if own is not None or level < len(blocks) else len(blocks) + 1
    return levels
