"""Found models outside PyTorch, or in fewer bits: ONNX files, int8 weights, and what either costs and gains."""

from .check import DeploymentError, check_outputs
from .int8 import quantize_model, quantize_onnx
from .onnx import export_onnx
from .runtime import OnnxClassifier, OnnxSam, prompt_tokens
from .table import Deployed, deployment_rows, markdown


__all__ = [
    "Deployed",
    "DeploymentError",
    "OnnxClassifier",
    "OnnxSam",
    "check_outputs",
    "deployment_rows",
    "export_onnx",
    "markdown",
    "prompt_tokens",
    "quantize_model",
    "quantize_onnx",
]
