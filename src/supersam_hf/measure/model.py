"""All that is measured of one SAM or ViT classifier: size, work, latency, throughput and peak memory, and on what."""

import copy
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from transformers import DeiTForImageClassificationWithTeacher, PreTrainedModel

from ..elastic.cost import SamShape, classifier_shape, count_macs, count_parameters
from ..models.classifiers import CLASSIFIERS
from ..models.supersam.configuration_supersam import SuperSamConfig
from ..models.supersam.elastic_supersam import Subnet
from .hardware import hardware
from .latency import Latency, measure_latency
from .memory import measure_peak_memory


@dataclass(frozen=True)
class ModelMeasurement:
    """One model (or subnet) measured on one machine. The whole model is in it, of a SAM image encoder, prompt encoder
    and mask decoder; the processor, which resizes images and masks, is not.

    Args:
        parameters (`int`): Of the model, or of the subnet as if it were extracted.
        macs (`int`): Multiply-accumulates for one image with its prompts.
        latency ([`Latency`]): Of one batch, in milliseconds.
        images_per_second (`float`): Throughput at the median latency.
        weight_bytes (`int`): What the parameters take.
        peak_memory_bytes (`int`, *optional*): What one batch takes at its peak on top of the weights (see
            [`measure_peak_memory`]); `None` if not measured.
        batch_size (`int`): Images in a batch.
        num_prompts (`int`): Box prompts an image; 0 of a classifier.
        image_size (`int`): In pixels a side.
        dtype (`str`): Of the weights.
        attn_implementation (`str`): "eager" or "sdpa".
        hardware (`dict`): What it ran on (see [`hardware`]).
    """

    parameters: int
    macs: int
    latency: Latency
    images_per_second: float
    weight_bytes: int
    peak_memory_bytes: int | None
    batch_size: int
    num_prompts: int
    image_size: int
    dtype: str
    attn_implementation: str
    hardware: dict[str, str | int]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self)


def measure_model(
    model: PreTrainedModel,
    *,
    subnet: Subnet | None = None,
    image_size: int | None = None,
    batch_size: int = 1,
    num_prompts: int = 1,
    dtype: torch.dtype | None = None,
    warmup: int = 3,
    repeats: int = 10,
    memory: bool = True,
) -> ModelMeasurement:
    """Measures a SAM or a ViT classifier on the device it is on: by default one image; with SAM, with one box prompt,
    encoder and decoder.

    The model comes back as it was given. A subnet that runs inside its supernet pays for slicing attention heads; for
    the numbers of the model that is deployed, measure `model.extract(subnet)`.

    Args:
        model (`SuperSamModel`, `SamModel`, `OfbViTForImageClassification` or another classifier of ours, or a stock
            ViT, DeiT or Swin): On cpu,
            cuda or mps.
        subnet ([`Subnet`], *optional*): Runs this subnet; `SuperSamModel` only.
        image_size (`int`, *optional*): In pixels a side; other than the model's own not for stock models.
        batch_size (`int`): Images in a batch.
        num_prompts (`int`): Box prompts an image; a classifier takes none.
        dtype (`torch.dtype`, *optional*): Measures a copy of the model in this dtype.
        warmup (`int`): Batches that are not timed.
        repeats (`int`): Batches that are timed.
        memory (`bool`): Whether to measure peak memory too, which takes some seconds on the CPU.

    Raises:
        ValueError: For a number below 1, a subnet that does not fit, a stock model asked for another size, prompts or
            a subnet for a classifier, or a model that is neither SAM nor classifier.
    """
    _check(model, subnet, image_size, batch_size=batch_size, num_prompts=num_prompts)
    if memory and model.device.type not in ("cpu", "cuda"):
        raise ValueError(f"Peak memory is measured on cpu and cuda, not {model.device.type}; give `memory=False`.")
    was_training = model.training
    measured = _as_asked(model, image_size, dtype).eval()
    try:
        inputs = example_inputs(measured, batch_size, num_prompts)
        latency = _latency(measured, inputs, subnet, warmup, repeats)
        peak = measure_peak_memory(measured, inputs, subnet) if memory else None
    finally:
        model.train(was_training)
    num_prompts = 0 if _is_classifier(model) else num_prompts
    shape = _shape(measured)
    parameters = count_parameters(shape, subnet)
    return ModelMeasurement(
        parameters=parameters,
        macs=count_macs(shape, subnet, num_prompts),
        latency=latency,
        images_per_second=batch_size / (latency.median_ms / 1e3),
        weight_bytes=parameters * measured.dtype.itemsize,
        peak_memory_bytes=peak,
        batch_size=batch_size,
        num_prompts=num_prompts,
        image_size=_vision(measured).image_size,
        dtype=str(measured.dtype).removeprefix("torch."),
        attn_implementation=measured.config._attn_implementation,
        hardware=hardware(measured.device),
    )


def example_inputs(model: PreTrainedModel, batch_size: int = 1, num_prompts: int = 1) -> dict[str, Any]:
    """Arguments for one call: a random image batch (batch, channels, size, size) and, for a SAM, the same box (batch,
    prompts, 4), half the image wide, for every prompt; one mask a prompt."""
    vision = _vision(model)
    size = vision.image_size
    pixel_values = torch.randn(batch_size, vision.num_channels, size, size, device=model.device, dtype=model.dtype)
    if _is_classifier(model):
        return {"pixel_values": pixel_values}
    box = torch.tensor([size / 4, size / 4, 3 * size / 4, 3 * size / 4], device=model.device)
    return {
        "pixel_values": pixel_values,
        "input_boxes": box.expand(batch_size, num_prompts, 4),
        "multimask_output": False,
    }


def _latency(
    model: PreTrainedModel, inputs: dict[str, Any], subnet: Subnet | None, warmup: int, repeats: int
) -> Latency:
    arguments = inputs if subnet is None else {**inputs, "subnet": subnet}
    with torch.inference_mode():
        return measure_latency(lambda: model(**arguments), warmup=warmup, repeats=repeats, device=model.device)


def _as_asked(model: Any, image_size: int | None, dtype: torch.dtype | None) -> Any:
    """The model itself, or a copy in another size or dtype."""
    if image_size not in (None, _vision(model).image_size):
        model = model.resized(image_size)
    if dtype not in (None, model.dtype):
        model = copy.deepcopy(model).to(dtype)
    return model


def _is_classifier(model: Any) -> bool:
    """One of ours, or a stock one whose checkpoints they load."""
    return model.config.model_type in CLASSIFIERS and "ForImageClassification" in type(model).__name__


def _vision(model: Any) -> Any:
    """The config that holds the size and the channels of the images."""
    return model.config if _is_classifier(model) else model.config.vision_config


def _shape(model: Any) -> Any:
    if not _is_classifier(model):
        return SamShape.from_config(model.config)
    shape = classifier_shape(model.config)
    # the config of one that was built and not loaded does not say that it has two heads
    return replace(shape, num_heads_out=2) if isinstance(model, DeiTForImageClassificationWithTeacher) else shape


def _check(model: Any, subnet: Subnet | None, image_size: int | None, *, batch_size: int, num_prompts: int) -> None:
    for name, value in (("batch_size", batch_size), ("num_prompts", num_prompts)):
        if value < 1:
            raise ValueError(f"`{name}` must be 1 or more, got {value}.")
    if _is_classifier(model):
        if subnet is not None or num_prompts != 1:
            raise ValueError("`subnet` and `num_prompts` are for SAMs; a classifier takes images alone.")
    else:
        _check_sam(model, subnet)
    own_size = _vision(model).image_size
    if not hasattr(model, "resized") and image_size not in (None, own_size):
        raise ValueError(
            f"`image_size` of a {type(model).__name__} is its own, {own_size}, got {image_size}; SuperSamModel and "
            "OfbViTForImageClassification can be brought to another."
        )


def _check_sam(model: Any, subnet: Subnet | None) -> None:
    SamShape.from_config(model.config).kept(subnet)
    if subnet is not None and model.config.model_type != SuperSamConfig.model_type:
        # stock SAM would swallow the argument and run whole
        raise ValueError("A stock SamModel runs no `subnet`; load the checkpoint as a SuperSamModel.")


__all__ = ["ModelMeasurement", "example_inputs", "measure_model"]
