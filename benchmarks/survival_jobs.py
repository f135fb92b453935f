"""What the benchmark of survival runs: whole tiny pipelines of both methods on generated shapes, and their results.

A job is a command line; a moment is a condition on its folder at which something happens to it.
"""

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil


COMMON = {"measure.repeats": 1, "measure.warmup": 1, "energy.country": "DEU"}
JOBS: dict[str, dict[str, Any]] = {
    "supersam": {
        "data.source": "shapes",
        "data.shapes_image_size": 64,
        "data.shapes_train_images": 24,
        "data.shapes_eval_images": 6,
        "data.max_objects": 2,
        "data.box_padding": 3,
        "data.batch_size": 4,
        "holdout_images": 8,
        "pretrain.enabled": "true",
        "pretrain.image_size": 64,
        "pretrain.hidden_size": 48,
        "pretrain.num_hidden_layers": 4,
        "pretrain.num_attention_heads": 3,
        "pretrain.decoder_size": 32,
        "pretrain.max_steps": 15,
        "pretrain.warmup_steps": 1,
        "pretrain.logging_steps": 1,
        "pretrain.save_steps": 4,
        "rank_layers.num_images": 8,
        "rank_layers.max_removed": 2,
        "rank_layers.max_drop": 1.0,
        "reorder.num_images": 4,
        "train.max_steps": 25,
        "train.save_steps": 4,
        "train.eval_steps": 5,
        "train.logging_steps": 1,
        "train.learning_rate": 1e-3,
        "search.trials": 16,
        "search.max_params": 0.9,
        "evaluate.num_sampled": 2,
    },
    "ofb": {
        "data.source": "shapes",
        "data.shapes_train_images": 24,
        "data.shapes_eval_images": 12,
        "data.batch_size": 8,
        "pretrain.enabled": "true",
        "pretrain.patch_size": 8,
        "pretrain.hidden_size": 32,
        "pretrain.num_hidden_layers": 2,
        "pretrain.num_attention_heads": 2,
        "pretrain.max_steps": 15,
        "pretrain.warmup_steps": 1,
        "pretrain.logging_steps": 1,
        "pretrain.save_steps": 4,
        "search.max_macs": 0.6,
        "search.max_steps": 40,
        "search.search_steps": 30,
        "search.prune_steps": 3,
        "search.alpha_learning_rate": 0.3,
        "search.eval_steps": 5,
        "search.logging_steps": 1,
        "search.save_steps": 4,
        "finetune.max_steps": 20,
        "finetune.warmup_steps": 1,
        "finetune.eval_steps": 5,
        "finetune.logging_steps": 1,
        "finetune.save_steps": 4,
    },
}

# The file whose lines tell how far a phase is, by job.
PHASES = {
    "training": {"supersam": "train/log.jsonl", "ofb": "finetune/log.jsonl"},
    "pretraining": {"supersam": "pretrain/log.jsonl", "ofb": "pretrain/log.jsonl"},
    "searching": {"supersam": "search/trials.jsonl", "ofb": "search/log.jsonl"},
    "evaluating": {"supersam": "ranking/evaluations.jsonl", "ofb": "search/history.jsonl"},
}
Moment = Callable[[Path], bool]


def command(job: str, folder: Path, processes: int = 1) -> list[str]:
    """The command line of a job; on several processes under torchrun, which restarts it."""
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--max_restarts", "3"]
        launcher += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0", "--master_port", "0"]
    verb = ["ofb", "run"] if job == "ofb" else ["run"]
    values = {**COMMON, **JOBS[job], "output_dir": folder}
    options = [str(word) for key, value in values.items() for word in (f"--{key}", value)]
    return [*launcher, "-m", "supersam_hf", *verb, *options]


def start(job: str, folder: Path, processes: int = 1) -> subprocess.Popen:
    """Runs a job; what it says goes to `<folder>.log`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    log = folder.with_suffix(".log").open("ab")
    with log:
        return subprocess.Popen(command(job, folder, processes), stdout=log, stderr=log, env=environment)


def finish(job: str, folder: Path, processes: int = 1) -> int:
    """Runs a job to its end; its exit code."""
    return start(job, folder, processes).wait(timeout=900)


def moment_of(phase: str, job: str, rng: random.Random, most: int) -> Moment:
    """A random moment in a phase.

    Args:
        phase (`str`): A key of `PHASES`, `writing` (a checkpoint lies there half-written) or `anywhere`.
        most (`int`): Lines that the phase's file has at the end; of `anywhere` seconds of the whole run.
    """
    if phase == "anywhere":
        due = time.monotonic() + rng.uniform(0.1, 0.95) * most
        return lambda folder: time.monotonic() >= due
    if phase == "writing":
        return Writing(rng)
    lines, path = rng.randint(1, max(1, most - 1)), PHASES[phase][job]
    return lambda folder: count_lines(folder / path) >= lines


class Writing:
    """The moment at which the n-th checkpoint of the run is half-written."""

    def __init__(self, rng: random.Random) -> None:
        self.wanted, self.seen, self.rng = rng.randint(1, 8), set[str](), rng

    def __call__(self, folder: Path) -> bool:
        asides = {str(path) for path in folder.glob("*/checkpoint-*.tmp")}
        self.seen |= asides
        if not asides or len(self.seen) < self.wanted:
            return False
        time.sleep(self.rng.uniform(0, 0.015))
        return True


def wait_for(process: subprocess.Popen, moment: Moment, folder: Path) -> bool:
    """Whether the moment came before the job ended."""
    while process.poll() is None:
        if moment(folder):
            return True
        time.sleep(0.001)
    return False


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def workers(process: subprocess.Popen) -> list[psutil.Process]:
    """The training processes under torchrun."""
    children = psutil.Process(process.pid).children()
    return [child for child in children if "supersam_hf" in " ".join(child.cmdline())]


def outcome(folder: Path) -> dict[str, Any]:
    """What a run ends with, without its times: digests of all weights, the ranking, trials, losses and metrics."""
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*/model.safetensors")):
        found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    for name in ("ranking.json", "search.json"):
        if (folder / name).exists():
            found[name] = untimed(json.loads((folder / name).read_text()))
    for path in sorted([*folder.glob("*/log.jsonl"), *folder.glob("*/trials.jsonl"), *folder.glob("*/history.jsonl")]):
        found[str(path.relative_to(folder))] = [untimed(json.loads(line)) for line in path.open()]
    if (folder / "results.json").exists():
        found["rows"] = untimed(json.loads((folder / "results.json").read_text())["rows"])
    return json.loads(json.dumps(found))


TIMED = ("step_seconds", "images_per_second", "memory_mb", "latency", "latency_ms", "throughput", "memory")


def untimed(data: Any) -> Any:
    """The same without what no two runs share."""
    if isinstance(data, dict):
        return {key: untimed(value) for key, value in data.items() if key not in TIMED}
    return [untimed(value) for value in data] if isinstance(data, list) else data


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Names of the parts in which two outcomes differ."""
    return sorted(name for name in {*a, *b} if a.get(name) != b.get(name))
