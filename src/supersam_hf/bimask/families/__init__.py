"""The model families that can be searched. To add one: describe it in a file here, and list it below."""

from typing import Any

from .base import Family
from .sam import SamFamily
from .swin import SwinFamily
from .vit import ViTFamily


FAMILIES: tuple[Family, ...] = (ViTFamily(), SwinFamily(), SamFamily())


def family_of(model_or_shape: Any) -> Family:
    """The family of a model, or of a shape.

    Raises:
        ValueError: If no family has such models.
    """
    for family in FAMILIES:
        if isinstance(model_or_shape, (family.model_class, family.shape_class)):
            return family
    known = [family.model_class.__name__ for family in FAMILIES]
    raise ValueError(f"A bi-mask search takes one of {known}, got {type(model_or_shape).__name__}.")


__all__ = ["FAMILIES", "Family", "family_of"]
