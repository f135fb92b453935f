"""int8 weights: of ONNX files by ONNX Runtime, of PyTorch models by torchao."""

import logging
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .requirements import require_int8, require_onnx
from .runtime import INT8


def quantize_onnx(files: Sequence[Path]) -> list[Path]:
    """Writes each ONNX file once more with int8 weights of its linear layers, a scale for every output channel, as
    `NAME_int8.onnx`. Activations are quantised as they come (dynamic quantisation), so that the products run in int8.

    Weights use 7 of the 8 bits, -64 to 64. x86 CPUs without VNNI (AMD before Zen 4, Intel before Cascade Lake) add two
    products of an activation (0 to 255) and a weight in 16 bits, which saturate: 2 * 255 * 127 is more than 32767,
    2 * 255 * 64 is not. So the products are exact on every CPU. Convolutions, norms and embeddings stay fp32.

    Raises:
        ValueError: If the `onnx` extra is not installed.
    """
    require_onnx()
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # It tells of every tensor that it leaves alone, by the root logger.
    root, level = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)
    try:
        return [_quantized(quantize_dynamic, QuantType.QInt8, path) for path in files]
    finally:
        root.setLevel(level)


def _quantized(quantize: Any, weight_type: Any, path: Path) -> Path:
    target = path.with_name(f"{path.stem}{INT8}.onnx")
    quantize(
        *(path, target),
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        weight_type=weight_type,
        reduce_range=True,  # 7 bits
    )
    return target


def quantize_model(model: Any) -> Any:
    """A copy of a model whose linear layers hold int8 weights (torchao, weights only; sums in the model's own dtype).

    `save_pretrained` writes them as safetensors, and `from_pretrained` of that folder, with torchao installed, gives
    the same outputs bit for bit. It makes a model smaller, not faster: weights are expanded at every use.

    Args:
        model (`SuperSamModel` or `OfbViTForImageClassification`): A standalone model. Subnets cannot be sliced out of
            int8 weights: extract first.

    Raises:
        ValueError: If the `int8` extra is not installed, or the model holds int8 weights already.
    """
    require_int8()
    if model.config.to_dict().get("quantization_config") is not None:
        raise ValueError("`model` holds int8 weights already.")
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    config = TorchAoConfig(Int8WeightOnlyConfig(version=2))
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        quantized = type(model).from_pretrained(folder, quantization_config=config, dtype=model.dtype)
    return quantized.to(model.device).train(model.training)
