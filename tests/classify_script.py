"""A classifier's training for tests, and in processes of its own where they must be killed.

usage: classify_script.py (KILL_AFTER_STEP | VERB) OUTPUT_DIR
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fresh
import torch
from torch.utils.data import DataLoader, Dataset

from supersam_hf.data import build_loader
from supersam_hf.interruption import Interrupted
from supersam_hf.models.ofb_vit import OfbViTForImageClassification
from supersam_hf.training.ema import Ema
from supersam_hf.training.engine import Engine
from supersam_hf.training.errors import TrainingError
from supersam_hf.training.finetune import ClassifierFinetuneArguments, finetune_classifier
from supersam_hf.training.pretrain_classifier import PretrainClassifierArguments, new_classifier


LABELS = ["red", "green", "blue"]


@dataclass
class StripesArguments:
    noise: float = 0.3
    seed: int = 0


class Stripes(Dataset):
    """Noise of 16 px a side, brighter in the channel of its label."""

    def __init__(self, size: int, args: StripesArguments, training: bool = True) -> None:
        self.size, self.args, self.training, self.label_names = size, args, training, LABELS

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, item: tuple[int, int]) -> dict[str, torch.Tensor]:
        epoch, index = item
        generator = torch.Generator().manual_seed(1000 * epoch + index)
        image = self.args.noise * torch.randn(3, 16, 16, generator=generator)
        label = index % len(LABELS)
        image[label] += 0.5
        return {"pixel_values": image, "labels": torch.tensor(label)}


def stripes(size: int = 20, batch_size: int = 4, **args: float) -> DataLoader:
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    return build_loader(Stripes(size, StripesArguments(**args)), batch_size, rank=rank, world=world)


def tiny_vit(seed: int = 0, labels: list[str] = LABELS) -> OfbViTForImageClassification:
    """16 px, 16 patches, 3 layers of width 32."""
    args = PretrainClassifierArguments(
        image_size=16,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        mlp_ratio=2.0,
        seed=seed,
    )
    return new_classifier(args, labels)


def train(
    output: Path | str,
    loader: DataLoader | None = None,
    evaluate: Callable[[Engine], dict[str, float]] | None = None,
    **options: Any,
) -> torch.nn.Module:
    """Mixing, drop path, average and layer decay together: 12 steps of 5 an epoch, checkpoints at 5 and 10."""
    values = {"max_steps": 12, "learning_rate": 1e-3, "warmup_steps": 2, "drop_path_rate": 0.3, "save_steps": 5}
    args = ClassifierFinetuneArguments(**{**values, "logging_steps": 1, **options})
    return finetune_classifier(tiny_vit(), loader or stripes(), args, output, evaluate=evaluate)


class Trapped(Stripes):
    """Stripes of which one sample, taken once, sets something off."""

    def __init__(self, at: tuple[int, int], trap: Callable[[], Any]) -> None:
        super().__init__(20, StripesArguments())
        self.at, self.trap, self.set = at, trap, True

    def __getitem__(self, item: tuple[int, int]) -> dict[str, torch.Tensor]:
        if item == self.at and self.set:
            self.set = False
            self.trap()
        return super().__getitem__(item)


def trapped(at: tuple[int, int], trap: Callable[[], Any], num_workers: int = 0) -> Any:
    return build_loader(Trapped(at, trap), 4, num_workers)


def order(epoch: int) -> Any:
    """Images in the order of an epoch; (epoch 1, 4 .. 7) are step 7."""
    loader: Any = stripes()
    loader.batch_sampler.begin(epoch)
    return [index for batch in loader.batch_sampler for _, index in batch]


def kill_after(step: int) -> None:
    """Makes the engine die as by kill -9 once it has done `step` steps."""
    log = Engine.log

    def log_and_die(engine: Engine, values: dict[str, float]) -> None:
        log(engine, values)
        if engine.global_step == step:
            os.kill(os.getpid(), 9)

    Engine.log = log_and_die


def die_while_saving(folder: Path) -> None:
    """Dies as by kill -9 in the middle of the second checkpoint: weights and optimiser are written, the average not
    yet."""
    asked, state_dict = [], Ema.state_dict

    def state_or_death(ema: Ema) -> dict[str, Any]:
        asked.append(1)
        if len(asked) == 4:  # a checkpoint asks twice: for its size, then for what to write
            os.kill(os.getpid(), 9)
        return state_dict(ema)

    Ema.state_dict = state_or_death
    train(folder)


def stop_together(folder: Path) -> None:
    """Twice 12 steps on two processes; in the fourth step of the first, process 1 has a NaN, in the fourth of the
    second a signal."""
    rank, told = int(os.environ["RANK"]), {}

    def nan(engine: Engine) -> float:
        return float("nan")

    def terminate(engine: Engine) -> float:
        os.kill(os.getpid(), signal.SIGTERM)
        return 1.0

    for name, trap in (("nan", nan), ("signal", terminate)):

        def step(engine: Engine, batches: Any, trap: Any = trap) -> dict[str, float]:
            return {"loss": trap(engine) if rank == 1 and engine.global_step == 3 else 1.0}

        args = ClassifierFinetuneArguments(max_steps=12, warmup_steps=0, save_steps=0)
        try:
            Engine(tiny_vit(), stripes(), args, folder / name).fit(step)
        except (Interrupted, TrainingError) as error:
            told[name] = (type(error).__name__, str(error))
    (folder / f"told-{rank}.json").write_text(json.dumps(told))


def lose_a_worker(folder: Path) -> None:
    """Its loader's worker dies as by kill -9 when it makes a sample of step 7."""
    loader = trapped((1, order(1)[4]), lambda: os.kill(os.getpid(), 9), num_workers=1)
    try:
        train(folder, loader)
    except TrainingError as error:
        (folder / "told.json").write_text(json.dumps((type(error).__name__, str(error))))


def whole(folder: Path) -> None:
    """A run that leaves its model."""
    model = train(folder)
    if int(os.environ.get("RANK", "0")) == 0:
        torch.save(model, folder / "found.pt")


def killed_once(folder: Path) -> None:
    """The same run; process 1 dies as by kill -9 in the eighth step of the launcher's first attempt."""
    if int(os.environ["TORCHELASTIC_RESTART_COUNT"]) == 0:
        log = Engine.log

        def log_and_die(engine: Engine, values: dict[str, float]) -> None:
            log(engine, values)
            if engine.global_step == 8 and engine.accelerator.process_index == 1:
                (folder / "killed").touch()
                os.kill(os.getpid(), 9)

        Engine.log = log_and_die
    whole(folder)


def run_with(verb: str, folder: Path, *, processes: int = 1, restarts: int = 0) -> subprocess.CompletedProcess:
    """A verb of this script in a process of its own, or in several; under torchrun where it is to restart them."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    if not restarts:
        return fresh.launch(processes, __file__, verb, folder, env=environment)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", "0"]
    command += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0", "--max_restarts", str(restarts)]
    command += [__file__, verb, str(folder)]
    environment["PYTHONPATH"] = str(Path(__file__).parent)
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


if __name__ == "__main__":
    verb, output = sys.argv[1], Path(sys.argv[2])
    if verb.isdigit():
        kill_after(int(verb))
        train(output)
    else:
        verbs = {f.__name__: f for f in (die_while_saving, stop_together, lose_a_worker, whole, killed_once)}
        verbs[verb](output)
