"""Sources of image and mask files, one module a layout."""

from .find import LOOKED_FOR, find_layout, layout_splits, open_layout
from .stacks import StackSource


__all__ = ["LOOKED_FOR", "StackSource", "find_layout", "layout_splits", "open_layout"]
