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
    model = masked.remove()
    deployed = type(model)(deployed_config(model))
    deployed.load_state_dict(model.state_dict())
    return deployed.to(device=model.device, dtype=model.dtype).train(model.training)


def deployed_config(model: Any) -> Any:
    """The model's config with the sizes that its weights have."""
    family = family_of(model)
    values = copy.deepcopy(model.config).to_dict() | family.config_values(family.physical_shape(model))
    return type(model.config)(**values)


def architecture(model: Any) -> dict[str, Any]:
    """The sizes that a model's weights have."""
    family = family_of(model)
    return family.architecture(family.physical_shape(model))


__all__ = ["architecture", "deploy", "deployed_config"]
