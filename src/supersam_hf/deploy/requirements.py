"""The extras that deployment needs, asked for before any work is done."""

from importlib.util import find_spec


def require_onnx() -> None:
    """`ValueError` unless onnx and onnxruntime are installed."""
    _require(("onnx", "onnxruntime"), "ONNX files need", "onnx")


def require_int8() -> None:
    """`ValueError` unless torchao is installed."""
    _require(("torchao",), "int8 weights in PyTorch need", "int8")


def _require(modules: tuple[str, ...], what: str, extra: str) -> None:
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise ValueError(f"{what} {' and '.join(missing)}: `pip install supersam-hf[{extra}]`.")
