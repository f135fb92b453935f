"""How the processes of a launch find one another."""

import atexit
import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState


# While the main process works alone, the others wait for it: for as long as it takes.
TIMEOUT = timedelta(days=7)


def join_processes() -> PartialState:
    """This process among those that were launched together; it joins them the first time that it is asked.

    Call it before Accelerate is used. Without it a launch with `torchrun --max-restarts` does not come back: torchrun
    keeps one store for all its starts, in which the processes of a new one find the addresses of dead ones.
    """
    if dist.is_initialized():
        return PartialState()
    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=TIMEOUT, **_store_of_this_start())
    if dist.is_initialized() and dist.get_backend() == "gloo":
        # Left to the end of the interpreter, gloo's threads may end the process with SIGABRT.
        atexit.register(_leave)
    return state


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _store_of_this_start() -> dict[str, Any]:
    """torchrun's store, apart from what was written by earlier starts; nothing under other launchers.

    Nothing on several nodes either, which do not count their starts alike: there torchrun itself must have
    `TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1` in its environment.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or os.environ["GROUP_WORLD_SIZE"] != "1":
        return {}
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(host, port, is_master=False, timeout=TIMEOUT)
    start = dist.PrefixStore(f"start-{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    return {"store": start, "rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"])}


__all__ = ["join_processes"]
