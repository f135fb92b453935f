"""Peak memory of one forward on top of the weights: the allocator's count on a GPU, a fresh process on a CPU."""

import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import PreTrainedModel

from ..files import read_json
from ..models.supersam.elastic_supersam import Subnet


CHILD = "import sys; from supersam_hf.measure.memory import report_peak; report_peak(sys.argv[1])"


def measure_peak_memory(model: PreTrainedModel, inputs: dict[str, Any], subnet: Subnet | None = None) -> int:
    """Bytes that one inference of `model(**inputs)` needs at its peak, beyond what was held before: activations and
    work space, without the weights.

    On CUDA: growth of `torch.cuda.max_memory_allocated` over what was allocated before. On the CPU: growth of the
    peak resident set of a fresh process that builds the model from its config (with random weights: only sizes
    matter) and runs it once with as many threads. A process that has computed before keeps freed memory, which would
    hide part of the growth; that is why it is fresh. It takes some seconds.

    Args:
        model (`PreTrainedModel`): On the CPU or a CUDA device. Its weights are neither copied nor written.
        inputs (`dict[str, Any]`): Tensors, and values that JSON can carry.
        subnet ([`Subnet`], *optional*): Passed on to the model where given.

    Raises:
        ValueError: For another kind of device or, on the CPU, a model that no other process could build: a wrapped or
            compiled one, or of a class defined in the running script.
        RuntimeError: If the fresh process fails; its own message is in it.
    """
    if model.device.type == "cuda":
        return _cuda_peak(model, inputs, subnet)
    if model.device.type == "cpu":
        return _cpu_peak(model, inputs, subnet)
    raise ValueError(f"Peak memory is measured on cpu and cuda; the model is on {model.device}.")


def _cuda_peak(model: PreTrainedModel, inputs: dict[str, Any], subnet: Subnet | None) -> int:
    device = model.device
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    _run(model, inputs, subnet)
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _cpu_peak(model: PreTrainedModel, inputs: dict[str, Any], subnet: Subnet | None) -> int:
    if not isinstance(model, PreTrainedModel) or type(model).__module__ == "__main__":
        raise ValueError(
            f"Peak memory on the CPU is measured in a fresh process, which cannot build a {type(model).__name__} "
            "defined in a script or wrapped around a model; give the PreTrainedModel itself, from a module."
        )
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        Path(folder, "run.json").write_text(json.dumps(_description(model, inputs, subnet)))
        paths = os.pathsep.join(path for path in sys.path if path)
        command = [sys.executable, "-c", CHILD, folder]
        child = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths})
    if child.returncode != 0:
        raise RuntimeError(f"The process that measures peak memory failed:\n{child.stderr[-2000:]}")
    return int(child.stdout.splitlines()[-1])


def _description(model: PreTrainedModel, inputs: dict[str, Any], subnet: Subnet | None) -> dict[str, Any]:
    tensors = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
    return {
        "module": type(model).__module__,
        "class": type(model).__qualname__,
        "dtype": _dtype_name(model.dtype),
        "attn_implementation": model.config._attn_implementation,
        "threads": torch.get_num_threads(),
        "tensors": {name: [list(value.shape), _dtype_name(value.dtype)] for name, value in tensors.items()},
        "values": {name: value for name, value in inputs.items() if name not in tensors},
        "subnet": None if subnet is None else subnet.to_dict(),
    }


def report_peak(folder: str) -> None:
    """Runs in the fresh process: prints by how many bytes one forward of the described model raises the peak."""
    run = read_json(Path(folder, "run.json"))
    torch.set_num_threads(run["threads"])
    model_class = getattr(importlib.import_module(run["module"]), run["class"])
    config = model_class.config_class.from_pretrained(folder)
    dtype, implementation = getattr(torch, run["dtype"]), run["attn_implementation"]
    model = model_class._from_config(config, dtype=dtype, attn_implementation=implementation).eval()
    tensors = {name: torch.ones(shape, dtype=getattr(torch, dt)) for name, (shape, dt) in run["tensors"].items()}
    subnet = None if run["subnet"] is None else Subnet.from_dict(run["subnet"])
    before = psutil.Process().memory_info().rss
    _run(model, {**tensors, **run["values"]}, subnet)
    print(max(peak_rss() - before, 0))


def peak_rss() -> int:
    """The largest resident set this process has had so far, in bytes."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    if sys.platform == "linux":
        # not getrusage: its peak starts from that of the process that started this one
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    import resource  # Unix only

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _run(model: PreTrainedModel, inputs: dict[str, Any], subnet: Subnet | None) -> None:
    # a stock SamModel has no `subnet`
    arguments = inputs if subnet is None else {**inputs, "subnet": subnet}
    with torch.inference_mode():
        model(**arguments)


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


__all__ = ["measure_peak_memory", "peak_rss"]
