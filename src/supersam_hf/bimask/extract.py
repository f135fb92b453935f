"""From a searched model to one that is deployed: masks folded in, taken off, sizes written into the config."""

import copy
from typing import Any

from ..models.ofb_vit import OfbViTConfig, OfbViTForImageClassification
from .cost import physical_shape
from .masking import MaskedModel
from .prune import fold


def deploy(masked: MaskedModel) -> OfbViTForImageClassification:
    """The found network as a standalone model of its own sizes, with the same outputs. `masked` is used up.

    Raises:
        ValueError: If a submodule is still undecided, or decided and not cut.
    """
    for name, mask in masked.masks.items():
        if not mask.decided or mask.live_sizes() != (mask.groups, mask.units):
            raise ValueError(f"`{name}` still has several options: search on, or enforce the budget.")
    fold(masked)
    model = masked.remove()
    deployed: Any = OfbViTForImageClassification(deployed_config(model))
    deployed.load_state_dict(model.state_dict())
    return deployed.to(device=model.device, dtype=model.dtype).train(model.training)


def deployed_config(model: OfbViTForImageClassification) -> OfbViTConfig:
    """The model's config with the sizes that its weights have."""
    shape = physical_shape(model)
    values: dict[str, Any] = copy.deepcopy(model.config).to_dict()
    layers = [
        {"num_attention_heads": heads, "head_dim": width, "intermediate_size": mlp}
        for heads, width, mlp in zip(shape.num_heads, shape.head_dims, shape.mlp_dims)
    ]
    # Layers that are like the first need no entry of their own.
    own = {i: layer for i, layer in enumerate(layers) if layer != layers[0]}
    values |= {"hidden_size": shape.hidden_size, "pooler_output_size": None, **layers[0]}
    values["per_layer_config"] = own or None
    return OfbViTConfig(**values)


def architecture(model: OfbViTForImageClassification) -> dict[str, Any]:
    """The sizes that a model's weights have, by their names in the config."""
    shape = physical_shape(model)
    return {
        "hidden_size": shape.hidden_size,
        "num_attention_heads": list(shape.num_heads),
        "head_dim": list(shape.head_dims),
        "intermediate_size": list(shape.mlp_dims),
    }


__all__ = ["architecture", "deploy", "deployed_config"]
