"""SAMs and classifiers as ONNX files."""

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..models.classifiers import CLASSIFIER_CLASSES
from ..models.supersam import SuperSamModel
from .graphs import Classifier, ImageEncoder, PromptDecoder
from .requirements import require_onnx


# Names that optimum gives these files, and transformers.js looks for.
ENCODER, DECODER, CLASSIFIER = "vision_encoder", "prompt_encoder_mask_decoder", "model"
# 17 is the first with LayerNormalization; beyond 20 this exporter does not go.
DEFAULT_OPSET, OPSETS = 17, range(17, 21)
BATCH, PROMPTS = {0: "batch"}, {0: "batch", 1: "prompts"}
EXPORTED: tuple[Any, ...] = (SuperSamModel, *CLASSIFIER_CLASSES)


def export_onnx(model: Any, folder: str | Path, opset: int = DEFAULT_OPSET) -> list[Path]:
    """Writes a model as ONNX, in fp32, with its config; nothing is checked yet (see [`check_outputs`]).

    A SAM becomes two files, so that an image is encoded once for many prompts:

    - `vision_encoder.onnx`: `pixel_values` (batch, 3, size, size) to `image_embeddings` (batch, channels, grid, grid).
    - `prompt_encoder_mask_decoder.onnx`: `image_embeddings`, `input_points` float (batch, prompts, points, 2), x and y
      in pixels of the model's input, and `input_labels` int64 (batch, prompts, points) to `pred_masks`, logits (batch,
      prompts, 4, 4 * grid, 4 * grid), and `iou_scores` (batch, prompts, 4). Of the four masks the first is the single
      one (`multimask_output=False`), the others the three. Labels: 1 object, 0 background, 2 and 3 a box's upper left
      and lower right corner, -1 no point; a prompt without a box ends in one point of label -1 (see
      [`prompt_tokens`]).

    A classifier becomes `model.onnx`: `pixel_values` to `logits` (batch, labels). Batch, prompts and points may be of
    any number, sizes of images are the model's.

    Args:
        model (`SuperSamModel`, `OfbViTForImageClassification` or alike): A subnet, found model or whole model; stock
            checkpoints load as these. A supernet is exported as its largest subnet: extract another one first.
        folder (`str` or `Path`): Where to; made if need be.
        opset (`int`): Version of ONNX's operators, 17 to 20.

    Returns:
        `list[Path]`: The ONNX files.

    Raises:
        ValueError: For another kind of model or opset, or if the `onnx` extra is not installed.
    """
    if opset not in OPSETS:
        raise ValueError(f"`opset` must be {OPSETS[0]} to {OPSETS[-1]}, got {opset}.")
    if not isinstance(model, EXPORTED):
        kinds = " or ".join(kind.__name__ for kind in EXPORTED)
        raise ValueError(f"`model` must be a {kinds} (stock checkpoints load as these), got {type(model).__name__}.")
    require_onnx()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # A copy: attention is traced in its plain form, whatever faster one the model runs.
    model = copy.deepcopy(model).float().cpu().eval()
    (model.vision_encoder if isinstance(model, SuperSamModel) else model).set_attn_implementation("eager")
    model.config.save_pretrained(folder)
    if isinstance(model, SuperSamModel):
        return _export_sam(model, folder, opset)
    images = _example_images(model.config)
    axes = {"pixel_values": BATCH, "logits": BATCH}
    return [_write(Classifier(model), {"pixel_values": images}, ("logits",), axes, folder / CLASSIFIER, opset)]


def _export_sam(model: SuperSamModel, folder: Path, opset: int) -> list[Path]:
    vision: Any = model.config.vision_config
    images, grid = _example_images(vision), vision.image_size // vision.patch_size
    axes = {"pixel_values": BATCH, "image_embeddings": BATCH}
    encoder = _write(
        ImageEncoder(model), {"pixel_values": images}, ("image_embeddings",), axes, folder / ENCODER, opset
    )
    prompts = {
        "image_embeddings": torch.zeros(2, vision.output_channels, grid, grid),
        "input_points": torch.full((2, 3, 4, 2), vision.image_size / 2),
        "input_labels": torch.tensor([1, 0, 2, 3]).expand(2, 3, 4),
    }
    outputs = ("pred_masks", "iou_scores")
    points = {**PROMPTS, 2: "points"}
    axes = {"image_embeddings": BATCH, "input_points": points, "input_labels": points}
    axes |= dict.fromkeys(outputs, PROMPTS)
    return [encoder, _write(PromptDecoder(model), prompts, outputs, axes, folder / DECODER, opset)]


def _example_images(config: Any) -> torch.Tensor:
    # two of them: an axis of one would be taken for one that never changes
    return torch.zeros(2, config.num_channels, config.image_size, config.image_size)


def _write(
    module: nn.Module,
    inputs: dict[str, torch.Tensor],
    outputs: tuple[str, ...],
    axes: dict[str, dict[int, str]],
    path: Path,
    opset: int,
) -> Path:
    path = path.with_suffix(".onnx")
    with warnings.catch_warnings(), torch.no_grad():
        # Sizes that tracing takes for fixed are fixed here.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        # The newer exporter (dynamo=True, torch 2.13) fixes the number of prompts and takes ten times as long.
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=axes,
            opset_version=opset,
            dynamo=False,
        )
    return path


__all__ = ["DEFAULT_OPSET", "OPSETS", "export_onnx"]
