"""What a prunable submodule is: which tensors hold its units."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Slice:
    """A dimension of a parameter whose entries are a submodule's units, group by group.

    Args:
        module (`nn.Module`), name (`str`): Where the parameter is.
        dim (`int`): The dimension.
        copies (`int`): How often all units come one after the other (four neighbours' channels in Swin's merging).
        per_group (`bool`): The entries are groups, not units (a head's relative positions).
    """

    module: nn.Module
    name: str
    dim: int
    copies: int = 1
    per_group: bool = False


@dataclass(frozen=True, eq=False)
class Submodule:
    """One prunable dimension of a model.

    Args:
        name (`str`): "embedding" (of one stage of several: "embedding.0"), "attention.3", "mlp.3".
        groups (`int`): Heads; 1 for embedding and MLP.
        units (`int`): Channels of a group.
        group_sizes (`list[int]`): Options for the groups, ascending.
        unit_sizes (`list[int]`): Options for the units of a group, ascending.
        masked (`list[nn.Module]`): Modules whose outputs (..., groups * units) are multiplied by the mask.
        folded (`list[Slice]`): Where a mask goes when it becomes part of the weights.
        sliced (`list[Slice]`): Every parameter that loses entries with a unit.
        norms (`list[nn.LayerNorm]`): Layer norms over these units, or over several copies of them.
        attention (`nn.Module`, *optional*): Module that keeps the units of a group as `head_dim`.
    """

    name: str
    groups: int
    units: int
    group_sizes: list[int]
    unit_sizes: list[int]
    masked: list[nn.Module]
    folded: list[Slice]
    sliced: list[Slice]
    norms: list[nn.LayerNorm] = field(default_factory=list)
    attention: Any = None

    @property
    def kind(self) -> str:
        """ "embedding", "attention" or "mlp"."""
        return kind_of(self.name)

    @property
    def searched(self) -> bool:
        return len(self.group_sizes) * len(self.unit_sizes) > 1


def kind_of(name: str) -> str:
    """The kind of the submodule of this name."""
    return name.partition(".")[0]


def rows(module: nn.Module) -> Iterator[Slice]:
    """Output dimension of a linear, convolution or norm: its weight's, and its bias' if it has one."""
    yield Slice(module, "weight", 0)
    if module.bias is not None:
        yield Slice(module, "bias", 0)


def columns(module: nn.Module) -> Slice:
    """Input dimension of a linear."""
    return Slice(module, "weight", 1)


__all__ = ["Slice", "Submodule", "columns", "kind_of", "rows"]
