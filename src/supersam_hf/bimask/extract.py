"""From a searched model to one that is deployed: masks folded in, taken off, sizes written into the config."""

import copy
from typing import Any

from .families import family_of
from .masking import MaskedModel
from .prune import fold


def deploy(masked: MaskedModel) -> Any:
    """The found network as a standalone model of its own sizes, with the same outputs. `masked` is used up.

    Raises:
        ValueError: If a submodule is still undecided, or decided and not cut.
    """
    for name, mask in masked.masks.items():
        if not mask.decided or mask.live_sizes() != (mask.groups, mask.units):
            raise ValueError(f"`{name}` still has several options: search on, or enforce the budget.")
    fold(masked)
    return standalone(masked.remove())


def standalone(model: Any) -> Any:
    """A model whose weights were cut, as one of its own sizes with a config that says them; `model` is used up."""
    implementation = model.config._attn_implementation
    deployed = type(model)._from_config(deployed_config(model), dtype=model.dtype, attn_implementation=implementation)
    deployed.load_state_dict(model.state_dict())
    return deployed.to(model.device).train(model.training)


def deployed_config(model: Any) -> Any:
    """The model's config with the sizes that its weights have."""
    family, config = family_of(model), copy.deepcopy(model.config)
    return type(config)(**family.deployed_values(config, family.physical_shape(model)))


def architecture(model: Any) -> dict[str, Any]:
    """The sizes that a model's weights have."""
    family = family_of(model)
    return family.architecture(family.physical_shape(model))


__all__ = ["architecture", "deploy", "deployed_config", "standalone"]
