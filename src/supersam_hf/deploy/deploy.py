"""A model deployed: written in another form, checked against PyTorch, measured beside it."""

from pathlib import Path
from typing import Any, Literal

from ..files import check_empty, write_json, written_aside
from ..hub import export
from ..measure import example_inputs, hardware
from .check import TOLERANCE, TOLERANCE_INT8, check_outputs
from .int8 import quantize_model, quantize_onnx
from .onnx import CLASSIFIER, DEFAULT_OPSET, OPSETS, export_onnx
from .requirements import require_int8, require_onnx
from .runtime import OnnxClassifier, OnnxSam
from .samples import SampleArguments, samples_for
from .table import Deployed, deployment_rows, markdown


Format = Literal["onnx", "safetensors"]
Quantization = Literal["int8"]
FORMATS, QUANTIZATIONS = ("onnx", "safetensors"), ("int8",)


def check_options(format: str, quantize: str | None, opset: int, folder: Path) -> None:
    """`ValueError` for what is no format, quantisation or opset, for a missing extra or a folder that is not empty."""
    if format not in FORMATS:
        raise ValueError(f"`--format` must be one of {list(FORMATS)}, got {format!r}.")
    if quantize not in (None, *QUANTIZATIONS):
        raise ValueError(f"`--quantize` must be one of {list(QUANTIZATIONS)}, got {quantize!r}.")
    if opset not in OPSETS:
        raise ValueError(f"`--opset` must be {OPSETS[0]} to {OPSETS[-1]}, got {opset}.")
    if format == "safetensors" and quantize is None:
        raise ValueError("`--format safetensors` needs `--quantize int8`; `supersam-hf extract` writes fp32.")
    if format == "onnx":
        require_onnx()
    else:
        require_int8()
    check_empty(folder)


def deploy(
    model: Any,
    processor: Any,
    folder: str | Path,
    *,
    format: Format = "onnx",
    quantize: Quantization | None = None,
    opset: int = DEFAULT_OPSET,
    samples: SampleArguments | None = None,
    rounds: int = 10,
) -> str:
    """Writes the model in another form, aside first: what does not compute the same is not left behind.

    Args:
        model (`SuperSamModel` or `OfbViTForImageClassification`): In fp32, on the CPU.
        processor: Its processor, which goes along.
        folder (`str` or `Path`): Where to, new or empty. `export.json` there has the table below.
        format (`str`): "onnx" (see [`export_onnx`]), or "safetensors", for `from_pretrained`.
        quantize (`str`, *optional*): "int8" for weights of one byte (see [`quantize_onnx`], [`quantize_model`]).
        opset (`int`): Of ONNX, 17 to 20.
        samples ([`SampleArguments`], *optional*): Images to check on; of a given source, quality is told too.
        rounds (`int`): Timed calls of each form, interleaved; one image, one box.

    Returns:
        `str`: Markdown table of size, latency and quality, PyTorch's beside the deployed forms'.

    Raises:
        ValueError: For options that do not go together, or a missing extra.
        DeploymentError: If outputs differ from PyTorch's by more than the tolerance.
    """
    folder, args = Path(folder), samples or SampleArguments()
    check_options(format, quantize, opset, folder)
    images = samples_for(model, processor, args)
    with written_aside(folder) as aside:
        if format == "onnx":
            forms = _onnx(model, processor, aside, quantize, opset, images)
        else:
            forms = _int8(model, processor, aside, images)
        timed = example_inputs(model)
        rows = deployment_rows(forms, timed, rounds=rounds, quality=images.quality if args.source else None)
        write_json(aside / "export.json", {"rows": rows, "hardware": hardware(), "quality": images.metric})
        check_empty(folder)  # still
    return markdown(rows, images.metric if args.source else None)


def _onnx(model: Any, processor: Any, folder: Path, quantize: str | None, opset: int, images: Any) -> list[Deployed]:
    files = export_onnx(model, folder, opset)
    processor.save_pretrained(folder)
    runtime = OnnxClassifier if files[0].stem == CLASSIFIER else OnnxSam
    forms = [_original(model), _checked("ONNX Runtime", model, runtime(folder), files, images, TOLERANCE)]
    if quantize is not None:
        small = quantize_onnx(files)
        deployed = runtime(folder, int8=True)
        forms.append(_checked("ONNX Runtime, int8", model, deployed, small, images, TOLERANCE_INT8))
    return forms


def _int8(model: Any, processor: Any, folder: Path, images: Any) -> list[Deployed]:
    export(quantize_model(model), folder, processor=processor)
    loaded = type(model).from_pretrained(folder).eval()  # what is checked is what others will load
    files = sorted(folder.glob("*.safetensors"))
    return [_original(model), _checked("PyTorch, int8", model, loaded, files, images, TOLERANCE_INT8)]


def _original(model: Any) -> Deployed:
    return Deployed("PyTorch", model, sum(p.numel() * p.itemsize for p in model.parameters()))


def _checked(name: str, model: Any, deployed: Any, files: list[Path], images: Any, tolerance: float) -> Deployed:
    differences = check_outputs(model, deployed, images.inputs(), tolerance)
    return Deployed(name, deployed, sum(path.stat().st_size for path in files), max(differences.values()))
