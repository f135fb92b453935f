"""What a prunable submodule is: which tensors hold its units."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from torch import nn


@dataclass(frozen=True)
class Slice:
    """A dimension of a parameter whose entries are a submodule's units, group by group.

    Args:
        module (`nn.Module`), name (`str`): Where the parameter is.
        dim (`int`): The dimension.
        copies (`int`): How often all units come one after the other (four neighbours' channels in Swin's merging; q,
            k and v in one linear of SAM).
        entries ("all", "groups" or "units"): One entry a unit of every group; or one a group (a head's relative
            positions in Swin); or one a unit, the same for all groups (the channels of SAM's relative positions).
    """

    module: nn.Module
    name: str
    dim: int
    copies: int = 1
    entries: Literal["all", "groups", "units"] = "all"


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
        shared_units (`bool`): All groups keep the same units.
        resized (`Callable`, *optional*): Is told of the groups and units that a cut has left.
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
    shared_units: bool = False
    resized: Callable[[int, int], None] | None = None

    @property
    def kind(self) -> str:
        """ "embedding", "attention" or "mlp"."""
        return kind_of(self.name)

    @property
    def readers(self) -> list[Slice]:
        """The input dimensions of the linears that read the units."""
        return [s for s in self.sliced if s.dim == 1 and s.entries == "all" and isinstance(s.module, nn.Linear)]

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
