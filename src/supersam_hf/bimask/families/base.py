"""A model family as the search sees it: streams of channels, blocks that read and write them, and what they cost.

A family describes these; everything else (options, masks, cuts, budget, deployment) follows from them.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from ..space import SearchSpace
from ..submodules import Slice, Submodule, columns, kind_of, rows


# Groups and units of submodules, by name.
Sizes = dict[str, tuple[int, int]]
Amount = torch.Tensor | float
Position = Literal["before", "after"]


@dataclass(frozen=True)
class Stream:
    """Channels that blocks read and write: the embedding of a ViT, one stage of a Swin.

    The blocks' own readers, writers and norms are found by the search; here is what the stream has beside them.

    Args:
        writers (`list[nn.Module]`): Modules that write to it: their outputs are masked, so that masked equals cut.
        folded (`list[Slice]`): Where their mask goes when it becomes part of the weights.
        sliced (`list[Slice]`): Further parameters that lose entries with a channel.
        norms (`list[nn.LayerNorm]`): Layer norms over the channels, or over several copies of them.
    """

    writers: list[nn.Module]
    folded: list[Slice]
    sliced: list[Slice]
    norms: list[nn.LayerNorm]


@dataclass(frozen=True)
class Block:
    """Attention and MLP between two writes to a stream.

    Args:
        attention (`nn.Module`): Has `head_dim`, and `q_proj`, `k_proj`, `v_proj`, `o_proj` unless a family says where
            its linears are.
        mlp (`nn.Module`): Has `fc1` and `fc2`, likewise.
        norms (`list[nn.LayerNorm]`): Before either.
        stream (`int`): Index of the stream that it reads and writes.
        positions (`list[Slice]`): Parameters of the attention with one entry a head, or one a channel of a head.

    Attributes:
        fused (`int`): How many of q, k and v are in one linear.
        shared_channels (`bool`): All heads keep the same channels.
    """

    fused: ClassVar[int] = 1
    shared_channels: ClassVar[bool] = False

    attention: Any
    mlp: Any
    norms: list[nn.LayerNorm]
    stream: int = 0
    positions: list[Slice] = field(default_factory=list)

    @property
    def projections(self) -> list[nn.Linear]:
        """The linears of q, k and v."""
        return [self.attention.q_proj, self.attention.k_proj, self.attention.v_proj]

    @property
    def output(self) -> nn.Linear:
        """The attention's output projection."""
        return self.attention.o_proj

    @property
    def linears(self) -> tuple[nn.Linear, nn.Linear]:
        """The MLP's two."""
        return self.mlp.fc1, self.mlp.fc2

    def attention_resized(self, heads: int, channels: int) -> None:
        """The attention's weights were cut to these sizes."""
        self.attention.head_dim = channels

    def mlp_resized(self, groups: int, units: int) -> None:
        """The MLP's weights were cut to so many units."""


@dataclass(frozen=True)
class Patches:
    """Where masked image modelling puts its token.

    Args:
        module (`nn.Module`): Its output holds the patches: (batch, special tokens + patches, width).
        special_tokens (`int`): That come before the patches there.
        like (`nn.Parameter`): Of the width in its last dimension; dtype and device of the token.
        across (`int`): Patches a side of the square that is masked at once: one token at the end of the model.
    """

    module: nn.Module
    special_tokens: int
    like: nn.Parameter
    across: int = 1


class Family(ABC):
    """A model family. Shapes are the frozen dataclasses of `elastic/`: with `num_heads`, `head_dims` and `mlp_dims`,
    one number a block, and `from_config`.

    Attributes:
        model_class (`type`): The models that are searched.
        shape_class (`type`): Their shapes.
    """

    model_class: Any
    shape_class: Any

    @abstractmethod
    def streams(self, model: Any) -> list[Stream]:
        """The streams, in the order in which an image passes them."""

    @abstractmethod
    def blocks(self, model: Any) -> list[Block]:
        """The blocks, in the order in which an image passes them."""

    @abstractmethod
    def stream_widths(self, shape: Any) -> tuple[int, ...]:
        """Channels of every stream."""

    @abstractmethod
    def with_stream_widths(self, shape: Any, widths: tuple[int, ...]) -> Any:
        """A shape with other widths."""

    @abstractmethod
    def soft_macs(self, shape: Any, embedding: torch.Tensor, attention: torch.Tensor, mlp: torch.Tensor) -> Amount:
        """g(V) in multiply-accumulates, for sums of V over the channels of every stream (streams,), over heads and
        channels of every attention (blocks,), over every MLP (blocks,); `shape` has the sizes of the weights."""

    @abstractmethod
    def soft_parameters(
        self, shape: Any, embedding: torch.Tensor, attention: torch.Tensor, mlp: torch.Tensor
    ) -> Amount:
        """The same in parameters; equal to the number of all parameters at V = 1."""

    @abstractmethod
    def config_values(self, shape: Any) -> dict[str, Any]:
        """What the config of a network of these sizes says of them."""

    def deployed_values(self, config: Any, shape: Any) -> dict[str, Any]:
        """All values of the config of a network of these sizes, made from `config`."""
        return config.to_dict() | self.config_values(shape)

    @abstractmethod
    def architecture(self, shape: Any) -> dict[str, Any]:
        """The sizes in words: the streams', and lists with one number a block."""

    def without_layers(self, model: Any, layers: Collection[int]) -> Any:
        """The model without these layers, the others in their order; `model` is used up.

        Raises:
            ValueError: If models of this family need all of theirs.
        """
        raise ValueError(f"{type(model).__name__} keeps all its layers: `drop_layers` must be 0.")

    @abstractmethod
    def patches(self, model: Any, position: Position) -> Patches:
        """Where patches are masked, before or after positions are added."""

    @abstractmethod
    def last_norm(self, model: Any) -> nn.LayerNorm:
        """Its output holds the tokens from which masked patches are reconstructed, after any special tokens."""

    def sizes(self, shape: Any) -> Sizes:
        """Groups and units of all submodules."""
        widths = self.stream_widths(shape)
        found = {name: (1, width) for name, width in zip(_stream_names(len(widths)), widths)}
        found |= {f"attention.{i}": size for i, size in enumerate(zip(shape.num_heads, shape.head_dims))}
        return found | {f"mlp.{i}": (1, width) for i, width in enumerate(shape.mlp_dims)}

    def resized(self, shape: Any, sizes: Sizes) -> Any:
        """A shape in which these submodules have these sizes."""
        return self._of_sizes(shape, self.sizes(shape) | sizes)

    def _of_sizes(self, shape: Any, sizes: Sizes) -> Any:
        """A shape of exactly these submodules."""
        by_kind: dict[str, list[tuple[int, int]]] = {}
        for name, size in sizes.items():
            by_kind.setdefault(kind_of(name), []).append(size)
        heads, head_dims = zip(*by_kind["attention"])
        mlp_dims = tuple(units for _, units in by_kind["mlp"])
        shape = self.with_stream_widths(shape, tuple(units for _, units in by_kind["embedding"]))
        return replace(shape, num_heads=heads, head_dims=head_dims, mlp_dims=mlp_dims)

    def physical_shape(self, model: Any) -> Any:
        """The sizes that a model's weights have, which during a search are smaller than its config says."""
        blocks = self.blocks(model)
        widths = {block.stream: block.output.weight.shape[0] for block in blocks}
        sizes: Sizes = {name: (1, widths[i]) for i, name in enumerate(_stream_names(len(widths)))}
        for i, block in enumerate(blocks):
            head_dim = block.attention.head_dim
            sizes[f"attention.{i}"] = block.projections[0].weight.shape[0] // block.fused // head_dim, head_dim
            sizes[f"mlp.{i}"] = 1, block.linears[0].weight.shape[0]
        return self._of_sizes(self.shape_class.from_config(model.config), sizes)

    def submodules(self, model: Any, space: SearchSpace) -> dict[str, Submodule]:
        """The submodules that `space` leaves to the search, by name: streams, then attentions, then MLPs."""
        blocks, streams = self.blocks(model), self.streams(model)
        sizes, found = self.sizes(self.physical_shape(model)), []
        for i, (name, stream) in enumerate(zip(_stream_names(len(streams)), streams)):
            own = [block for block in blocks if block.stream == i]
            found.append(_stream_submodule(name, sizes[name], space, stream, own))
        for i, block in enumerate(blocks):
            found.append(_attention_submodule(f"attention.{i}", sizes[f"attention.{i}"], space, block))
        for i, block in enumerate(blocks):
            found.append(_mlp_submodule(f"mlp.{i}", sizes[f"mlp.{i}"], space, block))
        return {submodule.name: submodule for submodule in found if submodule.searched}


def options(space: SearchSpace, name: str, size: tuple[int, int]) -> tuple[list[int], list[int]]:
    """Groups and units that a submodule of this size may take, ascending."""
    groups, units = size
    kind = kind_of(name)
    if kind == "attention":
        return space.head_sizes(groups), space.channel_sizes(units)
    return [1], space.embedding_sizes(units) if kind == "embedding" else space.mlp_sizes(units)


def _stream_names(count: int) -> list[str]:
    return ["embedding"] if count == 1 else [f"embedding.{i}" for i in range(count)]


def _stream_submodule(
    name: str, size: tuple[int, int], space: SearchSpace, stream: Stream, blocks: Iterable[Block]
) -> Submodule:
    """The channels of a stream, masked wherever something is written to it."""
    writers, norms = list(stream.writers), list(stream.norms)
    folded, sliced = list(stream.folded), list(stream.sliced)
    for block in blocks:
        own = [block.output, block.linears[1]]
        writers += own
        folded += [piece for module in own for piece in rows(module)]
        sliced += map(columns, (*block.projections, block.linears[0]))
        sliced += [piece for norm in block.norms for piece in rows(norm)]
        norms += block.norms
    return Submodule(name, *size, *options(space, name, size), writers, folded, [*folded, *sliced], norms)


def _attention_submodule(name: str, size: tuple[int, int], space: SearchSpace, block: Block) -> Submodule:
    """Heads and Q-K-V channels of a block; one mask for q, k and v."""
    projections = block.projections
    folded = [replace(piece, copies=block.fused) for linear in projections for piece in rows(linear)]
    sliced = [*folded, columns(block.output), *block.positions]
    return Submodule(
        name,
        *size,
        *options(space, name, size),
        masked=[*projections],
        folded=folded,
        sliced=sliced,
        shared_units=block.shared_channels,
        resized=block.attention_resized,
    )


def _mlp_submodule(name: str, size: tuple[int, int], space: SearchSpace, block: Block) -> Submodule:
    """Hidden units of an MLP, masked before the activation, which folds into the first linear exactly."""
    first, second = block.linears
    folded = list(rows(first))
    sliced = [*folded, columns(second)]
    return Submodule(name, *size, *options(space, name, size), [first], folded, sliced, resized=block.mlp_resized)


__all__ = ["Amount", "Block", "Family", "Patches", "Position", "Sizes", "Stream", "options"]
