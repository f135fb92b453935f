"""What a measurement was made on: no latency means anything without it."""

import os
import platform
from pathlib import Path

import torch


CPU_INFO = Path("/proc/cpuinfo")


def hardware(device: torch.device | str = "cpu") -> dict[str, str | int]:
    """Names the hardware and software that `device` stands for, as plain JSON data.

    Args:
        device (`torch.device` or `str`): Where the model runs.

    Returns:
        `dict[str, str | int]`: `device` (name of the CPU or GPU), `device_type`, `cpu`, `cores` (logical cores this
        process may use), `threads` (that torch uses for one operation), `os`, `python`, `torch`, and on a GPU `cuda`.
    """
    device = torch.device(device)
    found: dict[str, str | int] = {
        "device": device_name(device),
        "device_type": device.type,
        "cpu": cpu_name(),
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if device.type == "cuda":
        found["cuda"] = str(torch.version.cuda or torch.version.hip)
    return found


def device_name(device: torch.device) -> str:
    """The vendor's name of a device, such as "NVIDIA A100-SXM4-80GB"; of the CPU on any other than CUDA."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def cpu_name() -> str:
    """The processor's name where the system tells it, its architecture otherwise."""
    if CPU_INFO.exists():
        for line in CPU_INFO.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":  # ARM kernels do not write it
                return value.strip()
    return platform.processor() or platform.machine()


def available_cores() -> int:
    """Logical cores that this process may run on: fewer than the machine has under a batch system or `taskset`."""
    if platform.system() == "Linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


__all__ = ["available_cores", "cpu_name", "device_name", "hardware"]
