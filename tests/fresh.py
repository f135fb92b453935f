"""Python processes that begin with torch and transformers imported, where a test needs a process but not its start.

An interpreter takes some five seconds to import them. Here a server imports them once (`multiprocessing`'s
"forkserver", which runs nothing else and has no threads), and each process is a fork of it.
"""

import atexit
import multiprocessing
import os
import runpy
import socket
import sys
import tempfile
import types
from collections.abc import Callable, Mapping
from functools import cache
from multiprocessing import forkserver, get_context
from multiprocessing.connection import wait
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired
from typing import Any


CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["accelerate", "datasets", "peft", "pycocotools.mask", "torch.distributed.fsdp", "transformers.models.sam"]
    + ["supersam_hf", "supersam_hf.cli", "supersam_hf.pipeline", "supersam_hf.training.sandwich"]
)
# Libraries read it as they are imported: what a test sets later, for its own process, is not the server's.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
# How long a process may go on when another of its group has failed, in seconds.
GRACE = 30


class Fresh:
    """A process that does what `python WORDS` does: a script and its arguments, `-m` and a module, `-c` and code.

    Args:
        words (`str` or `Path`): As above.
        env (`Mapping`, *optional*): Its environment; that of this process if left out. What modules read as they are
            imported is that of the session's begin.
        cwd (`str` or `Path`, *optional*): Where it runs.
    """

    def __init__(self, *words: object, env: Mapping[str, str] | None = None, cwd: str | Path | None = None) -> None:
        _serve()
        self.words = [str(word) for word in words]
        self._folder = tempfile.TemporaryDirectory()
        environment = dict(os.environ if env is None else env)
        arguments = (self.words, environment, str(cwd or Path.cwd()), self._folder.name)
        self.process: Any = CONTEXT.Process(target=_begin, args=arguments)
        self.process.start()

    def said(self, stream: str = "stderr") -> str:
        """What it has printed so far; `stream` is "stdout" or "stderr"."""
        path = Path(self._folder.name, stream)
        return path.read_text(errors="replace") if path.exists() else ""

    def ended(self, timeout: float = 300) -> CompletedProcess:
        """Waits until it ends; after `timeout` seconds it is killed, and `TimeoutExpired` raised."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise TimeoutExpired(self.words, timeout, stderr=self.said())
        return CompletedProcess(self.words, self.process.exitcode, self.said("stdout"), self.said())


def run(*words: object, check: bool = False, timeout: float = 300, **options: Any) -> CompletedProcess:
    """A [`Fresh`] process and its end.

    Raises:
        AssertionError: With `check`, if it ends otherwise than by 0: its output.
    """
    return _checked(Fresh(*words, **options).ended(timeout), check)


def launch(
    processes: int,
    *words: object,
    check: bool = False,
    timeout: float = 300,
    env: Mapping[str, str] | None = None,
    **options: Any,
) -> CompletedProcess:
    """Several [`Fresh`] processes of one group, told of each other as launchers do; when one fails, the others are
    asked to end. Returns the first exit code that is not 0, and what all have printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**(os.environ if env is None else env), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    group = [
        Fresh(*words, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}, **options)
        for rank in range(processes)
    ]
    failed = _first_failure([one.process for one in group], timeout)
    for one in group if failed else ():
        one.process.terminate()
    done = [one.ended(GRACE) for one in group]
    texts = ["".join(getattr(one, stream) for one in done) for stream in ("stdout", "stderr")]
    return _checked(CompletedProcess(group[0].words, failed, *texts), check)


def _first_failure(processes: list[Any], timeout: float) -> int:
    """Waits for all to end, or for the first to fail; its exit code."""
    running = {process.sentinel: process for process in processes}
    while running:
        ended = wait(list(running), timeout)
        if not ended:
            return 1
        codes = []
        for sentinel in ended:
            process = running.pop(sentinel)
            process.join()
            codes.append(process.exitcode)
        if any(codes):
            return next(code for code in codes if code)
    return 0


def _checked(done: CompletedProcess, check: bool) -> CompletedProcess:
    if check and done.returncode:
        raise AssertionError(f"exit {done.returncode}\n{done.stdout}\n{done.stderr[-6000:]}")
    return done


@cache
def _serve() -> None:
    """Starts the server, with the environment of the session's begin."""
    now = dict(os.environ)
    try:
        _set_environment(ENVIRONMENT)
        forkserver.ensure_running()
    finally:
        _set_environment(now)


def _set_environment(values: Mapping[str, str]) -> None:
    for name in set(os.environ) - set(values):
        del os.environ[name]
    os.environ.update(values)


def _begin(words: list[str], environment: dict[str, str], cwd: str, folder: str) -> None:
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(Path(folder, name), os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
    multiprocessing.set_start_method(None, force=True)  # its own processes begin as they do elsewhere
    _set_environment(environment)
    os.chdir(cwd)
    _set_threads(environment)
    try:
        _runner(words)()
    finally:
        atexit._run_exitfuncs()  # a fork ends without


def _set_threads(environment: Mapping[str, str]) -> None:
    import torch

    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0)))))


def _runner(words: list[str]) -> Callable[[], Any]:
    """What Python does with such words."""
    first, *others = words
    if first == "-m":
        sys.argv = others
        return lambda: runpy.run_module(others[0], run_name="__main__", alter_sys=True)
    if first == "-c":
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        sys.argv = ["-c", *others[1:]]
        return lambda: exec(compile(others[0], "<string>", "exec"), main.__dict__)
    sys.argv = words
    sys.path.insert(0, str(Path(first).parent))
    return lambda: runpy.run_path(first, run_name="__main__")
