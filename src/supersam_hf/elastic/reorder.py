"""Reordering: the most salient channels first, so that a window keeps them (SuperSAM, section III, Eq. 1)."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import nn

from ..models.supersam.elastic_supersam import ElasticSpace
from ..models.supersam.layers_supersam import SuperSamVisionLayer
from ..models.supersam.modeling_supersam import SuperSamModel


Method = Literal["wanda", "taylor", "magnitude", "none"]
Combine = Literal["rank", "score"]
LINEARS = ("mlp.lin1", "mlp.lin2", "attn.qkv", "attn.proj")


class InputNorms:
    """Squared L2 norms of the input features of every encoder linear, over all tokens that pass while it is open.

    Use as a context manager around the calibration forwards. `norms[layer][linear]` is a tensor of shape
    (in_features,), `||X_j||²` of Eq. 1 summed over batches and tokens.
    """

    def __init__(self, model: SuperSamModel) -> None:
        self.layers: list[Any] = list(model.vision_encoder.layers)
        self.norms: list[dict[str, torch.Tensor]] = [{} for _ in self.layers]
        self._handles: list[Any] = []

    def __enter__(self) -> "InputNorms":
        for layer, norms in zip(self.layers, self.norms):
            for name in LINEARS:
                hook = self._accumulate(norms, name)
                self._handles.append(layer.get_submodule(name).register_forward_pre_hook(hook))
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()

    @staticmethod
    def _accumulate(norms: dict[str, torch.Tensor], name: str) -> Callable[[nn.Module, tuple], None]:
        def hook(module: nn.Module, args: tuple) -> None:
            # (..., in_features) -> (in_features,); in double, for these are sums over millions of tokens
            squared = args[0].detach().double().pow(2).flatten(0, -2).sum(0)
            norms[name] = norms[name] + squared if name in norms else squared

        return hook


@torch.no_grad()
def measure_input_norms(
    model: SuperSamModel,
    batches: Iterable[torch.Tensor],
    reduce: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> list[dict[str, torch.Tensor]]:
    """Squared input norms over all calibration tokens.

    Args:
        batches (`Iterable[torch.Tensor]`): `pixel_values` of shape (batch, 3, image_size, image_size).
        reduce (`Callable`, *optional*): Sums a tensor over processes (`accelerator.reduce`), when each sees its share.
    """
    training = model.training
    model.eval()
    with InputNorms(model) as stats:
        for pixel_values in batches:
            model.get_image_embeddings(pixel_values.to(model.device))
    model.train(training)
    if not stats.norms[0]:
        raise ValueError("Wanda needs calibration images; `batches` gave none.")
    if reduce is not None:
        return [{name: reduce(value) for name, value in norms.items()} for norms in stats.norms]
    return stats.norms


def average_ranks(scores: list[torch.Tensor]) -> torch.Tensor:
    """Mean over `scores` (each of shape (..., channels)) of each channel's rank, 0 for the least; ties by index."""

    def rank(score: torch.Tensor) -> torch.Tensor:
        # of two equal scores the lower index counts as the greater: flip, sort ascending stably, flip back
        order = score.flip(-1).argsort(dim=-1, stable=True)
        return order.argsort(dim=-1).flip(-1).double()

    return torch.stack([rank(score) for score in scores]).mean(0)


def descending(score: torch.Tensor) -> torch.Tensor:
    """Indices that sort the last dimension from greatest to least, ties by index."""
    return score.argsort(dim=-1, descending=True, stable=True)


def saliency(weight: torch.Tensor, norms: torch.Tensor | None, dim: int) -> torch.Tensor:
    """Eq. 1: `sum |W_ij| · ||X_j||₂`, a score for every row (`dim=0`) or column (`dim=1`) of `weight`.

    Without `norms` (magnitude) the inputs count alike.
    """
    score = weight.detach().double().abs()
    if norms is not None:
        score = score * norms.sqrt()
    return score.sum(1 - dim)


def combined(scores: list[torch.Tensor], combine: Combine) -> torch.Tensor:
    """The paper averages ranks; the released code averages the raw scores."""
    return average_ranks(scores) if combine == "rank" else torch.stack(scores).mean(0)


def _of(norms: dict[str, torch.Tensor] | None, linear: str) -> torch.Tensor | None:
    return None if norms is None else norms[linear]


def mlp_order(layer: SuperSamVisionLayer, norms: dict[str, torch.Tensor] | None, combine: Combine) -> torch.Tensor:
    """Permutation of the hidden units of one MLP, shape (mlp_dim,), most salient first."""
    rows = saliency(layer.mlp.lin1.weight, _of(norms, "mlp.lin1"), dim=0)
    columns = saliency(layer.mlp.lin2.weight, _of(norms, "mlp.lin2"), dim=1)
    return descending(combined([rows, columns], combine))


def attention_orders(
    layer: SuperSamVisionLayer, norms: dict[str, torch.Tensor] | None, combine: Combine
) -> tuple[torch.Tensor, torch.Tensor]:
    """Permutations of the channels inside each head, each of shape (heads, head_dim): of q and k, and of v and proj.

    q and k must agree, v and the columns of proj must agree. Relative positions are shared by all heads and are
    multiplied with q, so with them every head orders q and k alike (by the mean over heads).
    """
    heads = layer.attn.num_attention_heads
    # (3 * heads * channel,) -> (3, heads, channel)
    rows = saliency(layer.attn.qkv.weight, _of(norms, "attn.qkv"), dim=0).view(3, heads, -1)
    columns = saliency(layer.attn.proj.weight, _of(norms, "attn.proj"), dim=1).view(heads, -1)
    query_key = combined([rows[0], rows[1]], combine)
    if layer.attn.use_rel_pos:
        query_key = query_key.mean(0, keepdim=True).expand(heads, -1)
    return descending(query_key), descending(combined([rows[2], columns], combine))


def permute(tensor: torch.Tensor, index: torch.Tensor, dim: int, optimizer: torch.optim.Optimizer | None) -> None:
    """Reorders a parameter in place along `dim`, and with it whatever moments the optimiser keeps of it."""
    state = optimizer.state.get(tensor, {}) if optimizer is not None else {}
    for value in (tensor, *state.values()):
        if torch.is_tensor(value) and value.shape == tensor.shape:
            value.copy_(value.index_select(dim, index.to(value.device)))


def _permute_mlp(layer: SuperSamVisionLayer, order: torch.Tensor, optimizer: torch.optim.Optimizer | None) -> None:
    permute(layer.mlp.lin1.weight, order, 0, optimizer)
    permute(layer.mlp.lin1.bias, order, 0, optimizer)
    permute(layer.mlp.lin2.weight, order, 1, optimizer)


def _permute_attention(
    layer: SuperSamVisionLayer,
    orders: tuple[torch.Tensor, torch.Tensor],
    optimizer: torch.optim.Optimizer | None,
) -> None:
    query_key, value = orders
    heads, head_dim = value.shape
    offset = torch.arange(heads, device=value.device)[:, None] * head_dim
    # channel indices inside a head -> flat indices over all heads, then over q, k and v
    query_key_flat, value_flat = (query_key + offset).flatten(), (value + offset).flatten()
    width = heads * head_dim
    rows = torch.cat([query_key_flat, query_key_flat + width, value_flat + 2 * width])
    permute(layer.attn.qkv.weight, rows, 0, optimizer)
    if layer.attn.qkv.bias is not None:
        permute(layer.attn.qkv.bias, rows, 0, optimizer)
    permute(layer.attn.proj.weight, value_flat, 1, optimizer)
    if layer.attn.use_rel_pos:
        permute(layer.attn.rel_pos_h, query_key[0], 1, optimizer)
        permute(layer.attn.rel_pos_w, query_key[0], 1, optimizer)


def measure_contributions(
    model: SuperSamModel, batches: Iterable[Any], loss: Callable[[Any, Any], torch.Tensor]
) -> list[dict[str, torch.Tensor]]:
    """|Σ w · ∂L/∂w| of every row of `attn.qkv` and every column of `attn.proj` and `mlp.lin2`, mean over batches: to
    first order, how the loss changes where a channel is left out.

    Raises:
        ValueError: If there is no batch.
    """
    layers: list[Any] = list(model.vision_encoder.layers)
    found: list[dict[str, torch.Tensor]] = [{} for _ in layers]
    count, training = 0, model.training
    model.eval()
    for batch in batches:
        model.zero_grad(set_to_none=True)
        loss(model, batch).backward()
        for layer, own in zip(layers, found):
            for name, dim in (("attn.qkv", 1), ("attn.proj", 0), ("mlp.lin2", 0)):
                weight = layer.get_submodule(name).weight
                value = (weight.detach() * weight.grad).double().sum(dim).abs()
                own[name] = own[name] + value if name in own else value
        count += 1
    model.zero_grad(set_to_none=True)
    model.train(training)
    if not count:
        raise ValueError("Taylor needs calibration batches; `batches` gave none.")
    return [{name: value / count for name, value in own.items()} for own in found]


def taylor_attention_orders(
    layer: SuperSamVisionLayer, contributions: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """As [`attention_orders`], by [`measure_contributions`]."""
    heads = layer.attn.num_attention_heads
    # (3 * heads * channel,) -> (3, heads, channel)
    query, key, _ = contributions["attn.qkv"].view(3, heads, -1)
    query_key = query + key
    if layer.attn.use_rel_pos:
        query_key = query_key.mean(0, keepdim=True).expand(heads, -1)
    return descending(query_key), descending(contributions["attn.proj"].view(heads, -1))


def reorder(
    model: SuperSamModel,
    space: ElasticSpace,
    method: Method = "wanda",
    batches: Iterable[Any] = (),
    *,
    combine: Combine = "rank",
    optimizer: torch.optim.Optimizer | None = None,
    reduce: Callable[[torch.Tensor], torch.Tensor] | None = None,
    loss: Callable[[Any, Any], torch.Tensor] | None = None,
) -> None:
    """Sorts the elastic dimensions of every elastic layer, most salient first. The model's function is preserved.

    Args:
        method (`str`): `"wanda"` (Eq. 1, needs `batches`), `"taylor"` (first-order change of the loss, needs `batches`
            and `loss`), `"magnitude"` (absolute weights) or `"none"`.
        batches (`Iterable`): For Wanda calibration `pixel_values`, (batch, 3, image_size, image_size) each; for Taylor
            what `loss` takes.
        combine (`str`): `"rank"` averages the ranks of rows and columns (paper), `"score"` the raw scores (code).
        optimizer (`torch.optim.Optimizer`, *optional*): Its moments are permuted too, for reordering in training.
        reduce (`Callable`, *optional*): Sums a tensor over processes, for Wanda.
        loss (`Callable`, *optional*): `loss(model, batch)`, a scalar with its graph, for Taylor.

    Raises:
        ValueError: For an unknown method or combination, Wanda or Taylor without images, or Taylor without a loss.
    """
    if method not in get_args(Method):
        raise ValueError(f"`method` must be one of {list(get_args(Method))}, got {method!r}.")
    if combine not in ("rank", "score"):
        raise ValueError(f"`combine` must be 'rank' or 'score', got {combine!r}.")
    if method == "none":
        return
    if method == "taylor":
        if loss is None:
            raise ValueError("Taylor needs `loss`, of a model and a batch.")
        contributions = measure_contributions(model, batches, loss)
        _permute_layers(
            model,
            space,
            optimizer,
            lambda i, layer: descending(contributions[i]["mlp.lin2"]),
            lambda i, layer: taylor_attention_orders(layer, contributions[i]),
        )
        return
    norms: Sequence[dict[str, torch.Tensor] | None] = [None] * len(model.vision_encoder.layers)
    if method == "wanda":
        norms = measure_input_norms(model, batches, reduce)
    _permute_layers(
        model,
        space,
        optimizer,
        lambda i, layer: mlp_order(layer, norms[i], combine),
        lambda i, layer: attention_orders(layer, norms[i], combine),
    )


@torch.no_grad()
def _permute_layers(
    model: SuperSamModel,
    space: ElasticSpace,
    optimizer: torch.optim.Optimizer | None,
    mlp: Callable[[int, Any], torch.Tensor],
    attention: Callable[[int, Any], tuple[torch.Tensor, torch.Tensor]],
) -> None:
    """Sorts what is elastic of every elastic layer, in the orders of its MLP and of its attention: `mlp(i, layer)` as
    [`mlp_order`], `attention(i, layer)` as [`attention_orders`]."""
    for index in space.elastic_layers:
        layer: Any = model.vision_encoder.layers[index]
        _permute_mlp(layer, mlp(index, layer), optimizer)
        if space.attention_windows:
            _permute_attention(layer, attention(index, layer), optimizer)
