"""How a training starts: Accelerate for this machine, checked against the launcher, its trackers, one seed."""

import os
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedType, ProjectConfiguration

from ..processes import join_processes
from .arguments import EngineArguments
from .errors import LaunchError


def make_accelerator(args: EngineArguments, output_dir: Path, *, sharding: bool = False) -> Accelerator:
    """An Accelerator for this machine, with its trackers started.

    Args:
        sharding (`bool`, *optional*, defaults to `False`): Whether the training can have its weights sharded (FSDP).

    Raises:
        LaunchError: If the launcher started more processes than Accelerate sees, or asks for a kind of sharding that
            the training cannot have.
        ValueError: If a tracker is not installed.
    """
    unknown = sorted(set(args.report_to) - {str(tracker) for tracker in get_available_trackers()})
    if unknown:
        raise ValueError(f"`report_to` names {unknown}, which is not installed: pip install {' '.join(unknown)}")
    join_processes()
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),
        mixed_precision=args.mixed_precision,
        log_with=args.report_to or None,
        project_config=ProjectConfiguration(project_dir=str(output_dir), logging_dir=str(output_dir / "trackers")),
        # Layers that a subnet leaves out get no gradient.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    _check_launch(accelerator, sharding)
    output_dir.mkdir(parents=True, exist_ok=True)
    config = {k: v if isinstance(v, (int, float, str, bool)) else str(v) for k, v in asdict(args).items()}
    accelerator.init_trackers("supersam_hf", config=config)
    return accelerator


def _check_launch(accelerator: Accelerator, sharding: bool) -> None:
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size != accelerator.num_processes:
        raise LaunchError(
            f"The launcher started {world_size} processes, but Accelerate sees {accelerator.num_processes}: they "
            "would train apart and overwrite each other. Launch with `torchrun --nproc_per_node N`, or unset "
            "WORLD_SIZE."
        )
    if accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise LaunchError(f"{accelerator.distributed_type.value} is not supported: launch with DDP or FSDP.")
    if accelerator.distributed_type != DistributedType.FSDP:
        return
    if not sharding:
        raise LaunchError(
            "FSDP shards only sandwich training without `reorder_every`: every other training changes or averages its "
            "weights as wholes. Launch it with DDP (`accelerate launch --multi_gpu`)."
        )
    if not accelerator.is_fsdp2:
        raise LaunchError("FSDP 1 is not supported: set `fsdp_version: 2` in Accelerate's configuration.")


def set_deterministic() -> None:
    """From here on torch takes only algorithms that give the same bits each time; one that has none raises.

    Call it before anything is computed on a GPU. On one machine, one seed then gives one result; other hardware or
    another version of torch may round differently.
    """
    # read by cuBLAS when its first handle is made
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


__all__ = ["make_accelerator", "set_deterministic"]
