"""From one SuperSAM to another: configs and weights of a subnet, of another input size, of a stock SAM."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from transformers import SamConfig

from .configuration_supersam import SuperSamConfig, SuperSamVisionConfig
from .elastic_supersam import Subnet


LAYERS = "vision_encoder.layers."
# Of a `SuperSamConfig`, what a stock SAM's does not say, or says of itself.
OWN_VALUES = ("elastic_space", "subnet", "subnet_name", "search", "format_version")
OWN_VALUES += ("model_type", "architectures", "auto_map")


def subnet_config(config: SuperSamConfig, subnet: Subnet, name: str | None = None) -> SuperSamConfig:
    """The config of `subnet`, called `name`, standing alone: fewer layers, global ones re-mapped, per-layer widths."""
    data = config.to_dict()
    vision = data["vision_config"]
    vision.pop("per_layer_config", None)
    vision["global_attn_indexes"] = [
        new for new, old in enumerate(subnet.layers) if old in config.vision_config.global_attn_indexes
    ]
    vision["num_hidden_layers"] = len(subnet.layers)
    heads = [config.vision_config.layer_heads[layer] for layer in subnet.layers]
    vision |= layer_values(heads, subnet.mlp_dim, subnet.head_dim)
    return SuperSamConfig.from_dict({**data, "elastic_space": None, "subnet": subnet.to_dict(), "subnet_name": name})


def layer_values(heads: Sequence[int], mlp_dims: Sequence[int], head_dims: Sequence[int]) -> dict[str, Any]:
    """What a `SuperSamVisionConfig` says of layers with these heads, MLP widths and channels a head."""
    columns = {"num_attention_heads": heads, "mlp_dim": mlp_dims, "head_dim": head_dims}
    values: dict[str, Any] = {name: max(column) for name, column in columns.items()}
    differing = {name: column for name, column in columns.items() if len(set(column)) > 1}
    if differing:
        layers = range(len(mlp_dims))
        values["per_layer_config"] = {i: {name: column[i] for name, column in differing.items()} for i in layers}
    return values


def subnet_state_dict(model: Any, subnet: Subnet) -> dict[str, torch.Tensor]:
    """The weights of `subnet`, sliced as the forward slices them, under the names of the standalone model."""
    state = {k: v for k, v in model.state_dict().items() if not k.startswith(LAYERS)}
    for new, (old, mlp, head) in enumerate(zip(subnet.layers, subnet.mlp_dim, subnet.head_dim)):
        layer, prefix = model.vision_encoder.layers[old], f"{LAYERS}{new}."
        state.update({prefix + k: v for k, v in layer.state_dict().items()})
        linears = {"mlp.lin1": mlp, "mlp.lin2": mlp, "attn.qkv": head, "attn.proj": head}
        for name, window in linears.items():
            weight, bias = layer.get_submodule(name).narrowed(window)
            state[f"{prefix}{name}.weight"] = weight.detach()
            if bias is not None:
                state[f"{prefix}{name}.bias"] = bias.detach()
        for name in ("attn.rel_pos_h", "attn.rel_pos_w"):
            if prefix + name in state:
                state[prefix + name] = state[prefix + name][:, :head]
    return state


def stock_sam_config(config: SuperSamConfig) -> SamConfig:
    """The same model as a stock `SamConfig`; `ValueError` where stock SAM has no words for it."""
    vision = config.vision_config
    mlp_dims, head_dims = vision.layer_widths
    heads = vision.layer_heads
    stock_head = vision.hidden_size // max(heads)
    alike = len(set(mlp_dims)) == len(set(heads)) == 1
    if not alike or set(head_dims) != {stock_head} or vision.query_pre_attn_scalar != stock_head:
        raise ValueError(
            "A stock SAM has one `mlp_dim` and full heads in every layer; this model has "
            f"`mlp_dim` {mlp_dims}, `num_attention_heads` {heads} and `head_dim` {head_dims}. "
            "Save it as a SuperSamModel instead."
        )
    data = config.to_dict()
    for key in OWN_VALUES:
        data.pop(key, None)
    for key in ("head_dim", "query_pre_attn_scalar", "per_layer_config", "model_type"):
        data["vision_config"].pop(key, None)
    return SamConfig.from_dict(data)


def resized_config(config: Any, image_size: int | None, window_size: int | None) -> Any:
    """The config (SuperSamConfig or SuperSamVisionConfig) at another input or window size, in px and patches."""
    vision = config if isinstance(config, SuperSamVisionConfig) else config.vision_config
    image_size = vision.image_size if image_size is None else image_size
    window_size = vision.window_size if window_size is None else window_size
    if image_size < vision.patch_size or image_size % vision.patch_size:
        raise ValueError(f"`image_size` must be a multiple of the patch size {vision.patch_size}, got {image_size}.")
    if not 0 <= window_size <= image_size // vision.patch_size:
        raise ValueError(
            f"`window_size` must lie in 0 to {image_size // vision.patch_size} patches (the grid), got {window_size}."
        )
    sizes = {"image_size": image_size, "window_size": window_size}
    if vision is config:
        return type(config).from_dict({**config.to_dict(), **sizes})
    data = config.to_dict()
    data["vision_config"].update(sizes)
    data["prompt_encoder_config"].update(image_size=image_size, image_embedding_size=image_size // vision.patch_size)
    return type(config).from_dict(data)


def resized_state_dict(state: dict[str, torch.Tensor], config: Any) -> dict[str, torch.Tensor]:
    """`state` with position embeddings and relative positions interpolated to the sizes in `config`.

    Absolute positions: bicubic on the grid, as ViTs are resized. Relative positions: linear in the distance, as SAM's
    own attention does on the fly; of the windowed layers only where the window size changes.
    """
    vision = config if isinstance(config, SuperSamVisionConfig) else config.vision_config
    grid = vision.image_size // vision.patch_size
    resized = dict(state)
    for name, value in state.items():
        if name.endswith("pos_embed"):
            # (1, grid, grid, channel) -> (1, channel, grid, grid) and back
            resized[name] = _interpolate(value.permute(0, 3, 1, 2), (grid, grid), "bicubic").permute(0, 2, 3, 1)
        elif name.endswith(("rel_pos_h", "rel_pos_w")):
            layer = int(name.split(LAYERS)[1].split(".")[0])
            side = grid if layer in vision.global_attn_indexes or vision.window_size == 0 else vision.window_size
            # (2 * side - 1, channel) -> (1, channel, 2 * side - 1) and back
            resized[name] = _interpolate(value.T[None], (2 * side - 1,), "linear")[0].T
    return resized


def _interpolate(value: torch.Tensor, size: tuple[int, ...], mode: str) -> torch.Tensor:
    if value.shape[2:] == size:
        return value
    return F.interpolate(value.float(), size=size, mode=mode, align_corners=False).to(value.dtype).contiguous()
