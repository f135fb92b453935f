"""Two processes that are asked to stop while they spread work; prints how each exits, a line a launch.

usage: stop_script.py HOW LAUNCHES

HOW: `within` a function, `between` two rounds (each by one process to itself), or `any` time, to both.
"""

import os
import random
import signal
import socket
import sys
import time
from pathlib import Path
from tempfile import mkdtemp

import torch.distributed as dist

from supersam_hf.interruption import Interrupted, interruptible
from supersam_hf.processes import join_processes
from supersam_hf.spread import on_main, spread_rounds


ROUNDS = 200
TOOK_MS = 10


def work(rank: int, how: str, begun: Path) -> None:
    """Ends by what stops it, else raises."""

    def function(item: int) -> int:
        if how == "within" and rank == 1 and item == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        until = time.perf_counter() + TOOK_MS / 1e3
        while time.perf_counter() < until:
            pass
        return item

    state = join_processes()
    begun.touch()
    for results in spread_rounds(state, range(2 * ROUNDS), function):
        if how == "between" and rank == 1 and 7 in results:
            os.kill(os.getpid(), signal.SIGTERM)
        on_main(state, lambda: None)
    raise RuntimeError("it was not stopped")


def child(rank: int, how: str, begun: Path, port: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    code = 1
    try:
        with interruptible():
            work(rank, how, begun)
    except Interrupted as stop:
        code = stop.exit_code
    except Exception as error:
        print(rank, repr(error), file=sys.stderr, flush=True)
    if dist.is_initialized():
        dist.destroy_process_group()
    os._exit(code)


def launch(how: str, folder: Path) -> list[int]:
    """The exit codes of both processes; -9 of those that had to be ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pids = []
    for rank in range(2):
        pids.append(os.fork())
        if pids[-1] == 0:
            child(rank, how, folder / str(rank), port)
    if how == "any":
        while not all((folder / str(rank)).exists() for rank in range(2)):
            os.sched_yield()
        time.sleep(random.random() * 0.8)
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
    return ended(pids, time.monotonic() + 20)


def ended(pids: list[int], deadline: float) -> list[int]:
    codes: dict[int, int] = {}
    while len(codes) < len(pids):
        for pid in set(pids) - set(codes):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                codes[pid] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    return [codes[pid] for pid in pids]


if __name__ == "__main__":
    for _ in range(int(sys.argv[2])):
        print(*launch(sys.argv[1], Path(mkdtemp())), flush=True)
