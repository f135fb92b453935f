"""The blocks of an encoder of whatever family: what stochastic depth and layer decay go by."""

from torch import nn


def encoder_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """Every module that has an `attention` (or `attn`) and an `mlp`, by name, in the order in which an image passes
    them: the layers of a ViT, the blocks of all stages of a Swin, the layers of a SAM's image encoder."""
    return {
        name: module
        for name, module in model.named_modules()
        if hasattr(module, "mlp") and (hasattr(module, "attention") or hasattr(module, "attn"))
    }


def attention_of(block: nn.Module) -> nn.Module:
    """The attention of a block."""
    found = getattr(block, "attention", None) or getattr(block, "attn", None)
    assert isinstance(found, nn.Module)
    return found


__all__ = ["attention_of", "encoder_blocks"]
