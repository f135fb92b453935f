"""One-shot pruning: units leave once, by an importance, before any training."""

from .arguments import PruneArguments
from .pruning import prune_once


__all__ = ["PruneArguments", "prune_once"]
