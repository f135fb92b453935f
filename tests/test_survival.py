"""Work is never lost: signals, broken checkpoints, full disks, NaN, no memory, lost data, dead workers."""

import json
import logging
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fresh
import pytest
import torch
from classify_script import order, run_with, stripes, tiny_vit, train, trapped
from tqdm import tqdm

from supersam_hf.interruption import Interrupted, deferred, interruptible
from supersam_hf.training.checkpoints import MANIFEST, checkpoints, flaw
from supersam_hf.training.engine import Engine
from supersam_hf.training.errors import (
    CheckpointError,
    DataError,
    DiskFullError,
    MemoryFullError,
    NonFiniteLossError,
    WorkerError,
    explained,
)
from supersam_hf.training.finetune import ClassifierFinetuneArguments
from supersam_hf.training.launch import set_deterministic
from supersam_hf_cli import main


HERE = Path(__file__).parent


def steps_of(folder: Path) -> list[int]:
    return [int(c.name.removeprefix("checkpoint-")) for c in checkpoints(folder)]


def leftovers(folder: Path) -> list[Path]:
    return list(folder.glob("*.tmp"))


def assert_same(a: torch.nn.Module, b: torch.nn.Module) -> None:
    for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q), name


def asks_to_stop(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, Path]:
    """The run that nothing happens to: 12 steps of 5 an epoch, checkpoints at 5 and 10."""
    folder = tmp_path_factory.mktemp("whole")
    return train(folder), folder


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_step_saves_and_the_same_call_goes_on(
    number: signal.Signals, whole: tuple[torch.nn.Module, Path], tmp_path: Path
) -> None:
    with pytest.raises(Interrupted, match=r"stopped at step \d+\. .*checkpoint-.*the same command goes on") as caught:
        train(tmp_path, trapped((1, 7), asks_to_stop(number)), save_steps=0)
    assert caught.value.exit_code == 128 + number
    (step,) = steps_of(tmp_path)
    assert 5 < step <= 10  # epoch 1
    assert_same(train(tmp_path, save_steps=0), whole[0])


def test_the_loaders_workers_outlive_a_ctrl_c(whole: tuple[torch.nn.Module, Path], tmp_path: Path) -> None:
    """A terminal sends SIGINT to all processes: without its workers the step could not be finished."""

    def ctrl_c() -> None:
        for pid in (os.getpid(), os.getppid()):  # worker and training
            os.kill(pid, signal.SIGINT)

    with pytest.raises(Interrupted):
        train(tmp_path, trapped((1, 7), ctrl_c, num_workers=1), save_steps=0)
    assert_same(train(tmp_path, save_steps=0), whole[0])


def test_a_second_sigint_ends_at_once(tmp_path: Path) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        train(tmp_path, trapped((1, 7), twice), save_steps=0)
    assert caught.type is KeyboardInterrupt
    assert steps_of(tmp_path) == []


def test_an_evaluation_that_a_signal_put_off_is_made_up_for(tmp_path: Path) -> None:
    """The signal comes in the very step after which an evaluation is due: saving does not wait for it."""
    seen: dict[str, list[int]] = {"whole": [], "cut": []}

    def evaluating(name: str) -> Callable[[Engine], dict[str, float]]:
        return lambda engine: seen[name].append(engine.global_step) or {"top1": 0.5}

    options: dict[str, Any] = {"eval_steps": 1, "save_steps": 0}
    train(tmp_path / "whole", evaluate=evaluating("whole"), **options)
    with pytest.raises(Interrupted):
        train(tmp_path / "cut", trapped((1, 7), asks_to_stop(signal.SIGTERM)), evaluating("cut"), **options)
    (step,) = steps_of(tmp_path / "cut")
    assert seen["cut"][-1] == step - 1
    with (tmp_path / "cut" / "log.jsonl").open("a") as file:  # it was killed in making up for it
        file.write(json.dumps({"step": step, "top1": 0.5}) + "\n")
    train(tmp_path / "cut", evaluate=evaluating("cut"), **options)
    assert seen["cut"] == seen["whole"] == list(range(1, 13))
    logs = [[json.loads(line) for line in (tmp_path / name / "log.jsonl").open()] for name in ("whole", "cut")]
    told = [[(line["step"], line.get("loss"), line.get("top1")) for line in log] for log in logs]
    assert told[0] == told[1]


def test_a_signal_after_the_last_step_is_not_lost(tmp_path: Path) -> None:
    def at_the_end(engine: Engine) -> dict[str, float]:
        if engine.global_step == 12:
            os.kill(os.getpid(), signal.SIGTERM)
        return {}

    with pytest.raises(Interrupted), interruptible():
        train(tmp_path, evaluate=at_the_end, eval_steps=12)
    assert not leftovers(tmp_path)


def test_outside_of_training_a_signal_raises_at_once_and_handlers_come_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(Interrupted, match="SIGTERM"), interruptible():
        os.kill(os.getpid(), signal.SIGTERM)
    with deferred() as request:
        os.kill(os.getpid(), signal.SIGINT)
        assert request.received == signal.SIGINT
        request.taken = True
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_the_command_line_ends_well_on_sigterm_and_goes_on(tmp_path: Path) -> None:
    """A real process under a real signal: exit code 143, a checkpoint although none is asked for, and on it goes."""
    options = {"pretrain.max_steps": 150, "pretrain.save_steps": 0, "pretrain.logging_steps": 50, "data.batch_size": 2}
    options |= {"pretrain.hidden_size": 16, "pretrain.num_hidden_layers": 1, "pretrain.num_attention_heads": 1}
    options |= {"data.source": "shapes", "data.shapes_train_images": 8, "output_dir": tmp_path}
    words = [str(word) for key, value in options.items() for word in (f"--{key}", value)]
    child = fresh.Fresh("-m", "supersam_hf", "ofb", "pretrain", *words, env={**os.environ, "OMP_NUM_THREADS": "1"})
    while not re.search(r" [1-9]\d*/150 ", child.said()):  # its progress bar
        child.process.join(0.05)
        assert child.process.exitcode is None, child.said()
    child.process.terminate()
    done = child.ended()
    assert done.returncode == 143, done.stderr[-2000:]
    assert "the same command goes on from there" in done.stderr
    (step,) = steps_of(tmp_path / "pretrain")
    assert 1 <= step < 150
    assert main(["ofb", "pretrain", *words, "--pretrain.eval_steps", "0"]) == 0
    steps = [json.loads(line)["step"] for line in (tmp_path / "pretrain" / "log.jsonl").open()]
    assert steps == [50, 100, 150]


# Checkpoints


def damage(folder: Path, how: str, name: str) -> None:
    path = folder / name
    if how == "delete":
        path.unlink()
        return
    data = bytearray(path.read_bytes())
    if how == "truncate":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data)


@pytest.mark.parametrize(
    ("how", "name", "reason"),
    [
        ("truncate", "model.safetensors", "model.safetensors has .* bytes instead of"),
        ("flip", "optimizer.safetensors", "optimizer.safetensors is corrupt"),
        ("delete", "random-0.json", "random-0.json is missing"),
        ("delete", MANIFEST, "manifest.json is missing"),
        ("truncate", MANIFEST, "manifest.json is corrupt"),
        ("delete", "trainer_state.json", "trainer_state.json is missing"),
    ],
)
def test_a_broken_newest_checkpoint_is_reported_and_the_one_before_is_used(
    how: str,
    name: str,
    reason: str,
    whole: tuple[torch.nn.Module, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shutil.copytree(whole[1], tmp_path, dirs_exist_ok=True)
    damage(tmp_path / "checkpoint-00000010", how, name)
    seen = []
    with caplog.at_level(logging.WARNING):
        again = train(tmp_path, evaluate=lambda engine: seen.append(engine.global_step) or {}, eval_steps=1)
    assert seen == list(range(6, 13))
    (message,) = [r.getMessage() for r in caplog.records if "cannot be used" in r.getMessage()]
    assert "checkpoint-00000010" in message
    assert re.search(reason, message)
    assert_same(again, whole[0])
    assert [flaw(folder) for folder in checkpoints(tmp_path)] == [None, None]


def test_which_checkpoint_a_run_goes_on_from(whole: tuple[torch.nn.Module, Path], tmp_path: Path) -> None:
    shutil.copytree(whole[1], tmp_path, dirs_exist_ok=True)
    older = tmp_path / "checkpoint-00000005"
    seen: list[int] = []

    def again(wanted: str | None) -> torch.nn.Module:
        seen.clear()
        watch = lambda engine: seen.append(engine.global_step) or {}  # noqa: E731
        return train(tmp_path, evaluate=watch, eval_steps=1, resume_from_checkpoint=wanted)

    assert_same(again(str(older)), whole[0])
    assert seen[0] == 6
    with pytest.raises(CheckpointError, match="`resume_from_checkpoint` is .*: there is no such folder"):
        again(str(tmp_path / "checkpoint-00000007"))
    damage(older, "flip", "model.safetensors")
    with pytest.raises(CheckpointError, match="model.safetensors is corrupt"):
        again(str(older))
    damage(tmp_path / "checkpoint-00000010", "delete", "optimizer.safetensors")
    with pytest.raises(CheckpointError, match="No checkpoint in .*optimizer.*is missing.*null.* to begin anew"):
        again("latest")  # never anew in silence
    assert_same(again(None), whole[0])
    assert seen[0] == 1


def test_killed_while_a_checkpoint_is_written(whole: tuple[torch.nn.Module, Path], tmp_path: Path) -> None:
    """kill -9 when half of the files of the second checkpoint lie there."""
    died = run_with("die_while_saving", tmp_path)
    assert died.returncode == -9, died.stderr[-3000:]
    (aside,) = leftovers(tmp_path)
    assert (aside / "model.safetensors").exists()
    assert steps_of(tmp_path) == [5]
    assert_same(train(tmp_path), whole[0])
    assert not leftovers(tmp_path)


# Disk, memory, numbers, data


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


class Weighty:
    """State of a size that no tensor tells."""

    def __init__(self) -> None:
        self.blob = ""

    def state_dict(self) -> dict[str, Any]:
        return {"blob": self.blob}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def test_a_full_disk_keeps_the_last_checkpoint(whole: tuple[torch.nn.Module, Path], small_disk: Path) -> None:
    filler = small_disk / "filler"

    def fill(engine: Engine) -> dict[str, float]:
        if engine.global_step == 7:
            free = shutil.disk_usage(small_disk).free
            filler.write_bytes(bytes(free - 100_000))
        return {}

    with pytest.raises(DiskFullError, match=r"disk is full.*needs about .* MiB free.* at step 10\..*00000005.*Free"):
        train(small_disk, evaluate=fill, eval_steps=1)
    assert steps_of(small_disk) == [5]
    assert not leftovers(small_disk)
    filler.unlink()
    assert_same(train(small_disk), whole[0])


def test_a_disk_that_fills_up_in_the_middle_of_a_checkpoint(small_disk: Path) -> None:
    """The estimate is too low, so the write itself fails."""
    args = ClassifierFinetuneArguments(max_steps=3, warmup_steps=0, save_steps=1)
    weighty = Weighty()
    engine = Engine(tiny_vit(), stripes(), args, small_disk, stateful=[weighty])

    def step(engine: Engine, batches: Any) -> dict[str, float]:
        weighty.blob = "x" * (3 * 2**20 * engine.global_step)
        return {"loss": 1.0}

    with pytest.raises(DiskFullError, match=r"disk is full .* at step 2\. The last good checkpoint is .*00000001"):
        engine.fit(step)
    assert steps_of(small_disk) == [1]
    assert flaw(checkpoints(small_disk)[0]) is None
    assert not leftovers(small_disk)


def test_no_memory_is_told_with_what_to_lower(tmp_path: Path) -> None:
    with pytest.raises(MemoryFullError, match=r"Out of memory .* at step 7\..*00000005.*`data.batch_size`"):
        train(tmp_path, trapped((1, order(1)[4]), lambda: torch.empty(2**60, dtype=torch.uint8)))
    assert steps_of(tmp_path) == [5]


def test_a_shard_that_vanishes_under_the_workers_is_named(tmp_path: Path) -> None:
    shard = tmp_path / "shard-03.tar"
    with pytest.raises(DataError) as caught:
        train(tmp_path / "run", trapped((1, order(1)[4]), lambda: shard.open(), num_workers=1))
    message = str(caught.value)
    assert str(shard) in message
    assert "Traceback" not in message
    assert "worker process" not in message
    assert "at step 7." in message
    assert "checkpoint-00000005" in message


def test_a_worker_that_dies_is_told(tmp_path: Path, whole: tuple[torch.nn.Module, Path]) -> None:
    done = run_with("lose_a_worker", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    kind, message = json.loads((tmp_path / "told.json").read_text())
    assert kind == "WorkerError"
    assert re.search(r"worker .* at step \d\..*00000005.*`data.num_workers`", message)
    assert_same(train(tmp_path), whole[0])


def test_a_worker_whose_death_is_noticed_as_the_bar_closes_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch's handler of SIGCHLD raises wherever the process is."""

    class TornBar(tqdm):
        torn = False

        def close(self) -> None:
            if not self.torn:
                self.torn = True
                raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
            super().close()

    def step(engine: Engine, batches: Any) -> dict[str, float]:
        raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr("supersam_hf.training.engine.tqdm", TornBar)
    engine = Engine(tiny_vit(), stripes(), ClassifierFinetuneArguments(max_steps=2, warmup_steps=0), tmp_path)
    with pytest.raises(WorkerError, match=r"killed by signal: Killed\) at step 1\."):
        engine.fit(step, None, "torn")


def _send_and_die(queue: Any) -> None:
    queue.put(torch.ones(3))
    queue.close()
    queue.join_thread()  # it is on its way
    os.kill(os.getpid(), 9)


def test_a_worker_that_dies_with_a_batch_on_its_way_is_told() -> None:
    """The batch is a handle which its worker would turn into memory; it is asked for when nobody answers any more."""
    context = torch.multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=_send_and_die, args=(queue,))
    worker.start()
    worker.join()
    with pytest.raises(WorkerError, match=r"worker ended .* at step 7\. .*`data.num_workers`"):
        with explained(lambda: " at step 7."):
            queue.get(timeout=60)


def test_the_signal_of_a_dead_worker_does_not_strike_whoever_is_told_of_it() -> None:
    """Its pipe may be closed before the system tells of its end; torch answers that signal by an error of its own."""

    def as_torch_does(*_: Any) -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    context = torch.multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=_send_and_die, args=(queue,))
    worker.start()
    worker.join()
    before = signal.signal(signal.SIGCHLD, as_torch_does)
    try:
        late = subprocess.Popen(["sleep", "0.5"])
        with pytest.raises(WorkerError), explained(lambda: " at step 7."):
            queue.get(timeout=60)
        late.wait()
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_connection_that_is_no_worker_s_is_not_called_one() -> None:
    with pytest.raises(ConnectionResetError), explained(lambda: " at step 7."):
        raise ConnectionResetError(104, "Connection reset by peer")


def test_weights_that_are_not_finite_are_never_left_behind(tmp_path: Path) -> None:
    """The loss is finite, but its gradient is not; no checkpoint is due that would notice."""
    args = ClassifierFinetuneArguments(max_steps=2, warmup_steps=0, save_steps=0)
    engine = Engine(tiny_vit(), stripes(), args, tmp_path)

    def step(engine: Engine, batches: Any) -> dict[str, float]:
        engine.unwrapped.classifier.weight.data[0, 0] = torch.nan
        return {"loss": 1.0}

    with pytest.raises(NonFiniteLossError, match=r"`classifier.weight` is not finite at step 2\."):
        engine.fit(step)


# One seed, one result


def test_a_deterministic_run_is_the_same_twice(tmp_path: Path) -> None:
    try:
        set_deterministic()
        assert torch.empty(64).isnan().all()  # memory that nothing was written to is filled
        models = [train(tmp_path / name) for name in ("one", "two")]
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic = False
    assert_same(*models)


# Several processes


def test_what_fails_on_one_process_ends_both(tmp_path: Path) -> None:
    """A NaN on one of two processes, and a signal to one of two: both leave at the same step, neither waits."""
    done = run_with("stop_together", tmp_path, processes=2)
    assert done.returncode == 0, done.stderr[-4000:]
    told = [json.loads((tmp_path / f"told-{rank}.json").read_text()) for rank in (0, 1)]
    assert [t["nan"][0] for t in told] == ["NonFiniteLossError"] * 2
    assert "`loss` is nan at step 4." in told[1]["nan"][1]
    assert "another process is not finite at step 4." in told[0]["nan"][1]
    assert [t["signal"][0] for t in told] == ["Interrupted"] * 2
    assert told[0]["signal"][1] == told[1]["signal"][1]
    assert "stopped at step 4." in told[0]["signal"][1]
    assert steps_of(tmp_path / "signal") == [4]


@pytest.mark.slow
def test_torchrun_brings_a_run_back_after_a_rank_is_killed(tmp_path: Path) -> None:
    done = run_with("whole", tmp_path / "whole", processes=2)
    assert done.returncode == 0, done.stderr[-4000:]
    again = run_with("killed_once", tmp_path / "killed", processes=2, restarts=3)
    assert again.returncode == 0, again.stderr[-4000:]
    assert (tmp_path / "killed" / "killed").exists()
    assert_same(*(torch.load(tmp_path / name / "found.pt", weights_only=False) for name in ("whole", "killed")))
