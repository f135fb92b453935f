"""Meta's original SAM checkpoints (`sam_vit_b_01ec64.pth` and their kin) under transformers' names."""

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from .configuration_supersam import SuperSamConfig


StateDict = dict[str, torch.Tensor]

# Not derivable from any tensor's shape; every SAM that Meta released has it.
DECODER_HEADS = 8
SHARED_EMBEDDING = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
IOU_HEAD = "mask_decoder.iou_prediction_head.layers"
HYPERNETWORK_DEPTH = 3

# Meta's module -> ours, for everything that holds a `weight` (and most a `bias`).
MODULES = {
    r"image_encoder\.patch_embed\.proj": "vision_encoder.patch_embed.projection",
    r"image_encoder\.blocks\.(\d+)\.norm([12])": r"vision_encoder.layers.\1.layer_norm\2",
    r"image_encoder\.blocks\.(\d+)\.(attn\.qkv|attn\.proj|mlp\.lin[12])": r"vision_encoder.layers.\1.\2",
    r"image_encoder\.neck\.0": "vision_encoder.neck.conv1",
    r"image_encoder\.neck\.1": "vision_encoder.neck.layer_norm1",
    r"image_encoder\.neck\.2": "vision_encoder.neck.conv2",
    r"image_encoder\.neck\.3": "vision_encoder.neck.layer_norm2",
    r"prompt_encoder\.point_embeddings\.(\d+)": r"prompt_encoder.point_embed.\1",
    r"prompt_encoder\.(not_a_point_embed|no_mask_embed)": r"prompt_encoder.\1",
    r"prompt_encoder\.mask_downscaling\.0": "prompt_encoder.mask_embed.conv1",
    r"prompt_encoder\.mask_downscaling\.1": "prompt_encoder.mask_embed.layer_norm1",
    r"prompt_encoder\.mask_downscaling\.3": "prompt_encoder.mask_embed.conv2",
    r"prompt_encoder\.mask_downscaling\.4": "prompt_encoder.mask_embed.layer_norm2",
    r"prompt_encoder\.mask_downscaling\.6": "prompt_encoder.mask_embed.conv3",
    r"mask_decoder\.(iou_token|mask_tokens)": r"mask_decoder.\1",
    r"mask_decoder\.transformer\.layers\.(\d+)\.norm([1-4])": r"mask_decoder.transformer.layers.\1.layer_norm\2",
    r"mask_decoder\.transformer\.layers\.(\d+)\.(mlp\.lin[12])": r"mask_decoder.transformer.layers.\1.\2",
    r"mask_decoder\.transformer\.layers\.(\d+)"
    r"\.(self_attn|cross_attn_token_to_image|cross_attn_image_to_token)\.(q|k|v|out)_proj": (
        r"mask_decoder.transformer.layers.\1.\2.\3_proj"
    ),
    r"mask_decoder\.transformer\.final_attn_token_to_image\.(q|k|v|out)_proj": (
        r"mask_decoder.transformer.final_attn_token_to_image.\1_proj"
    ),
    r"mask_decoder\.transformer\.norm_final_attn": "mask_decoder.transformer.layer_norm_final_attn",
    r"mask_decoder\.output_upscaling\.0": "mask_decoder.upscale_conv1",
    r"mask_decoder\.output_upscaling\.1": "mask_decoder.upscale_layer_norm",
    r"mask_decoder\.output_upscaling\.3": "mask_decoder.upscale_conv2",
}
# Meta's multi-layer heads are numbered through; ours have proj_in, layers and proj_out.
HEADS = r"(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\.layers\.(\d+)"
TENSORS = {
    r"image_encoder\.pos_embed": "vision_encoder.pos_embed",
    r"image_encoder\.blocks\.(\d+)\.attn\.(rel_pos_[hw])": r"vision_encoder.layers.\1.attn.\2",
}
# What a model of another kind is told apart by: a piece of one of its keys.
OTHER_MODELS = {
    "SAM 3": ("detector.backbone.",),  # before SAM 2, which it contains
    "SAM 2": ("image_encoder.trunk.", "memory_attention.", "memory_encoder.", "sam_mask_decoder."),
    "HQ-SAM": ("mask_decoder.hf_token", "mask_decoder.hf_mlp", "mask_decoder.compress_vit_feat"),
    "MobileSAM": ("image_encoder.patch_embed.seq.",),
}


def load_meta_checkpoint(path: str | Path) -> tuple[SuperSamConfig, StateDict]:
    """Reads a `.pth` file of the original Segment Anything release, of ViT-B, -L, -H or the same shape.

    `model = SuperSamModel(config); model.load_state_dict(state_dict)` then gives the supernet. Only tensors are read
    (`weights_only=True`), as they are needed (`mmap=True`).

    Args:
        path (`str` or `Path`): The `.pth` file.

    Returns:
        `tuple[SuperSamConfig, dict[str, torch.Tensor]]`: The config, and the weights under `SamModel`'s names.

    Raises:
        ValueError: If the file is not a `torch.save` archive, holds more than tensors (it is not loaded then: a pickle
            may run code), or does not hold an original SAM.
    """
    state_dict = _tensors_of(Path(path))
    converted = convert_meta_state_dict(state_dict)
    return SuperSamConfig(**config_from_meta(state_dict)), converted


def _tensors_of(path: Path) -> StateDict:
    """The state dict of a `torch.save` archive, of which no code is run."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise ValueError(f"`path` must be a `.pth` file written by `torch.save`, as Meta's are; {path} is not.")
    try:
        state_dict = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        why = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{path} is no plain state dict: it holds a pickle of more than tensors, which may run code when it is "
            "loaded, or is broken; nothing of it was run. Where it is yours, write "
            f"`torch.save(model.state_dict(), ...)` of it first. ({why})"
        ) from error
    if not isinstance(state_dict, dict):
        raise ValueError(f"{path} holds a {type(state_dict).__name__}, no state dict: give names with their tensors.")
    return state_dict


def convert_meta_state_dict(state_dict: StateDict) -> StateDict:
    """Renames the tensors of an original SAM to `SamModel`'s names. Nothing is copied.

    The positional embedding comes out twice, as in `SamModel`'s own `state_dict()`: both encoders share it.

    Args:
        state_dict (`dict[str, torch.Tensor]`): Under Meta's names.

    Raises:
        ValueError: If a key is none of an original SAM's, as with SAM 2, SAM 3, HQ-SAM or MobileSAM.
    """
    _refuse_other_models(state_dict)
    converted, iou_depth = {}, _count(state_dict, IOU_HEAD)
    for key, value in state_dict.items():
        if key == SHARED_EMBEDDING:
            converted["shared_image_embedding.positional_embedding"] = value
            converted["prompt_encoder.shared_embedding.positional_embedding"] = value
        elif key not in ("pixel_mean", "pixel_std"):  # those belong to the image processor
            converted[_new_name(key, iou_depth)] = value
    return converted


def config_from_meta(state_dict: StateDict) -> dict[str, Any]:
    """Arguments of `SuperSamConfig` (or `SamConfig`) for an original SAM, read from the shapes of its tensors.

    Args:
        state_dict (`dict[str, torch.Tensor]`): Under Meta's names.

    Raises:
        ValueError: If the checkpoint is not a whole original SAM.
    """
    _refuse_other_models(state_dict)
    vision = _vision_config(state_dict)
    # Linear and convolution weights are (out, in, ...), transposed ones (in, out, ...), embeddings (number, size).
    tokens, size = _shape(state_dict, "mask_decoder.mask_tokens.weight")
    final_dim = _shape(state_dict, "mask_decoder.transformer.final_attn_token_to_image.q_proj.weight")[0]
    prompt = {
        "hidden_size": size,
        "image_size": vision["image_size"],
        "patch_size": vision["patch_size"],
        "mask_input_channels": _shape(state_dict, "prompt_encoder.mask_downscaling.3.weight")[0],
        "num_point_embeddings": _count(state_dict, "prompt_encoder.point_embeddings"),
    }
    decoder = {
        "hidden_size": size,
        "mlp_dim": _shape(state_dict, "mask_decoder.transformer.layers.0.mlp.lin1.weight")[0],
        "num_hidden_layers": _count(state_dict, "mask_decoder.transformer.layers"),
        "num_attention_heads": DECODER_HEADS,
        "attention_downsample_rate": size // final_dim,
        "num_multimask_outputs": tokens - 1,
        "iou_head_depth": _count(state_dict, IOU_HEAD),
        "iou_head_hidden_dim": _shape(state_dict, f"{IOU_HEAD}.0.weight")[0],
    }
    return {"vision_config": vision, "prompt_encoder_config": prompt, "mask_decoder_config": decoder}


def _vision_config(state_dict: StateDict) -> dict[str, Any]:
    _, grid, _, hidden = _shape(state_dict, "image_encoder.pos_embed")  # (1, grid, grid, hidden)
    _, channels, patch, _ = _shape(state_dict, "image_encoder.patch_embed.proj.weight")
    depth = _count(state_dict, "image_encoder.blocks")
    # (2 * side - 1, head width): the side is the grid's in global layers, the window's in the others
    rel_pos = [_shape(state_dict, f"image_encoder.blocks.{i}.attn.rel_pos_h") for i in range(depth)]
    sides = [(rows + 1) // 2 for rows, _ in rel_pos]
    mlp_dim = _shape(state_dict, "image_encoder.blocks.0.mlp.lin1.weight")[0]
    return {
        "hidden_size": hidden,
        "num_hidden_layers": depth,
        "num_attention_heads": hidden // rel_pos[0][1],
        "num_channels": channels,
        "image_size": grid * patch,
        "patch_size": patch,
        "mlp_dim": mlp_dim,
        "mlp_ratio": mlp_dim / hidden,
        "output_channels": _shape(state_dict, "image_encoder.neck.0.weight")[0],
        # 0: every layer is global
        "window_size": min(sides) if min(sides) < grid else 0,
        "global_attn_indexes": [i for i, side in enumerate(sides) if side == grid],
        "num_pos_feats": _shape(state_dict, SHARED_EMBEDDING)[1],
        # the spread of the positional embedding at initialisation: Meta's, not transformers' hidden_size // 2
        "scale": 1.0,
        # transformers' default of 1e-10 would start a new layer at zero
        "initializer_range": 0.02,
    }


def _refuse_other_models(state_dict: StateDict) -> None:
    for name, pieces in OTHER_MODELS.items():
        telling = [key for key in _all_keys(state_dict) if any(piece in key for piece in pieces)]
        if telling:
            raise ValueError(
                f"The checkpoint holds {telling[0]!r}: it is {name}, which SuperSAM does not support. Use an original "
                "SAM: sam_vit_b, sam_vit_l, sam_vit_h, or a model fine-tuned from one."
            )
    for key, value in state_dict.items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(
                f"`{key}` of the checkpoint is of type {type(value).__name__}, not a tensor; "
                "give the state dict itself."
            )


def _all_keys(state_dict: dict[str, Any]) -> list[str]:
    """The keys, and those inside wrappers such as SAM 2's `{"model": {...}}`."""
    inner = [key for value in state_dict.values() if isinstance(value, dict) for key in value]
    return [str(key) for key in [*state_dict, *inner]]


def _new_name(key: str, iou_depth: int) -> str:
    for pattern, name in TENSORS.items():
        if match := re.fullmatch(pattern, key):
            return match.expand(name)
    module, _, leaf = key.rpartition(".")
    if leaf in ("weight", "bias"):
        if match := re.fullmatch(HEADS, module):
            depth = iou_depth if key.startswith(IOU_HEAD) else HYPERNETWORK_DEPTH
            return f"{match[1]}.{_head_layer(int(match[2]), depth)}.{leaf}"
        for pattern, name in MODULES.items():
            if match := re.fullmatch(pattern, module):
                return f"{match.expand(name)}.{leaf}"
    raise ValueError(
        f"`{key}` is not a tensor of an original SAM. Accepted are state dicts under Meta's names "
        "(image_encoder.blocks.0..., prompt_encoder..., mask_decoder...), without a prefix."
    )


def _head_layer(index: int, depth: int) -> str:
    if index == 0:
        return "proj_in"
    return "proj_out" if index == depth - 1 else f"layers.{index - 1}"


def _shape(state_dict: StateDict, key: str) -> torch.Size:
    if key not in state_dict:
        raise ValueError(f"The checkpoint has no `{key}`; it is not a whole original SAM.")
    return state_dict[key].shape


def _count(state_dict: StateDict, modules: str) -> int:
    """Length of a list of modules: how many different numbers follow its name."""
    return len({key.removeprefix(f"{modules}.").split(".")[0] for key in state_dict if key.startswith(f"{modules}.")})


__all__ = ["config_from_meta", "convert_meta_state_dict", "load_meta_checkpoint"]
