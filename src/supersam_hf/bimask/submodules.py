"""Which tensors of a family's model belong to each prunable submodule. All that the search knows of a family."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ..models.ofb_vit import OfbViTForImageClassification
from .space import SearchSpace


@dataclass(frozen=True)
class Slice:
    """A dimension of a parameter whose entries are a submodule's units, group by group."""

    module: nn.Module
    name: str
    dim: int


@dataclass(frozen=True, eq=False)
class Submodule:
    """One prunable dimension of a model.

    Args:
        name (`str`): "embedding", "attention.3", "mlp.3".
        groups (`int`): Heads; 1 for embedding and MLP.
        units (`int`): Channels of a group.
        group_sizes (`list[int]`): Options for the groups, ascending.
        unit_sizes (`list[int]`): Options for the units of a group, ascending.
        masked (`list[nn.Module]`): Modules whose outputs (..., groups * units) are multiplied by the mask.
        folded (`list[Slice]`): Where a mask goes when it becomes part of the weights.
        sliced (`list[Slice]`): Every parameter that loses entries with a unit.
        norms (`list[nn.LayerNorm]`): Layer norms over these units.
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
    def searched(self) -> bool:
        return len(self.group_sizes) * len(self.unit_sizes) > 1


def vit_submodules(model: OfbViTForImageClassification, space: SearchSpace) -> dict[str, Submodule]:
    """The submodules of a ViT or DeiT that `space` leaves to the search: the embedding, and attention and MLP of every
    layer."""
    layers: list[Any] = list(model.vit.layers)
    found = [embedding_submodule(model, space)]
    found += [attention_submodule(f"attention.{i}", layer.attention, space) for i, layer in enumerate(layers)]
    found += [mlp_submodule(f"mlp.{i}", layer.mlp, space) for i, layer in enumerate(layers)]
    return {submodule.name: submodule for submodule in found if submodule.searched}


def embedding_submodule(model: OfbViTForImageClassification, space: SearchSpace) -> Submodule:
    """The channels of the residual stream: masked wherever something is written to it, so that masked equals cut."""
    vit: Any = model.vit
    writers = [module for layer in vit.layers for module in (layer.attention.o_proj, layer.mlp.fc2)]
    readers = [layer.attention for layer in vit.layers]
    norms = [norm for layer in vit.layers for norm in (layer.layernorm_before, layer.layernorm_after)]
    norms.append(vit.layernorm)
    projection = vit.embeddings.patch_embeddings.projection
    tokens = ("cls_token", "distillation_token", "position_embeddings")
    folded = [Slice(vit.embeddings, name, 2) for name in tokens if getattr(vit.embeddings, name) is not None]
    folded += [piece for module in (projection, *writers) for piece in rows(module)]
    heads = [model.classifier] + ([model.distillation_classifier] if model.config.distillation_head else [])
    inputs = [linear for attention in readers for linear in (attention.q_proj, attention.k_proj, attention.v_proj)]
    inputs += [layer.mlp.fc1 for layer in vit.layers] + [head for head in heads if isinstance(head, nn.Linear)]
    sliced = folded + [piece for norm in norms for piece in rows(norm)] + [Slice(m, "weight", 1) for m in inputs]
    width = projection.weight.shape[0]
    sizes = space.embedding_sizes(width)
    return Submodule("embedding", 1, width, [1], sizes, [vit.embeddings, *writers], folded, sliced, norms)


def attention_submodule(name: str, attention: Any, space: SearchSpace) -> Submodule:
    """Heads and Q-K-V channels of a layer; one mask for q, k and v."""
    units = attention.head_dim
    groups = attention.q_proj.weight.shape[0] // units
    projections = [attention.q_proj, attention.k_proj, attention.v_proj]
    folded = [piece for linear in projections for piece in rows(linear)]
    sliced = [*folded, Slice(attention.o_proj, "weight", 1)]
    sizes = space.head_sizes(groups), space.channel_sizes(units)
    return Submodule(name, groups, units, *sizes, list(projections), folded, sliced, attention=attention)


def mlp_submodule(name: str, mlp: Any, space: SearchSpace) -> Submodule:
    """Hidden units of an MLP, masked before the activation, which folds into the first linear exactly."""
    width = mlp.fc1.weight.shape[0]
    folded = list(rows(mlp.fc1))
    return Submodule(
        name, 1, width, [1], space.mlp_sizes(width), [mlp.fc1], folded, [*folded, Slice(mlp.fc2, "weight", 1)]
    )


def rows(module: nn.Module) -> Iterator[Slice]:
    """Output dimension of a linear, convolution or norm: its weight's, and its bias' if it has one."""
    yield Slice(module, "weight", 0)
    if module.bias is not None:
        yield Slice(module, "bias", 0)


__all__ = ["Slice", "Submodule", "vit_submodules"]
