"""What every training shares: Accelerate, the optimiser, the schedule, checkpoints with exact resume, trackers."""

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, skip_first_batches
from accelerate.tracking import get_available_trackers
from accelerate.utils import ProjectConfiguration, set_seed
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..data.streaming import ImageStream, PromptStream
from ..files import changed_keys, fingerprint, whole_lines


STATE_FILE = "trainer_state.json"


@dataclass
class EngineArguments:
    """What every training shares."""

    max_steps: int = 1000
    """Optimiser steps (in sequential mode: batches)."""
    learning_rate: float = 1e-5
    """AdamW's peak learning rate."""
    lr_schedule: Literal["exponential", "cosine", "linear"] = "exponential"
    """Shape of the decay from the peak to its floor at the last step."""
    min_lr_ratio: float = 0.01
    """Floor of the learning rate, as a fraction of the peak (1 % in the paper)."""
    warmup_steps: int = 0
    """Steps of linear warm-up before the decay."""
    weight_decay: float = 0.0
    """AdamW's weight decay."""
    max_grad_norm: float | None = None
    """Clip the gradient norm of each parameter group to this; null: no clipping."""
    gradient_accumulation_steps: int = 1
    """Batches a step."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """Autocast of forward and loss. bf16 pays on GPUs and on CPUs with AMX."""
    gradient_checkpointing: bool = False
    """Recompute the encoder layers in the backward pass to save memory."""
    logging_steps: int = 10
    """Log every this many steps."""
    eval_steps: int = 0
    """Evaluate every this many steps; 0: only what the caller evaluates."""
    save_steps: int = 200
    """Write a checkpoint every this many steps; 0: none."""
    save_total_limit: int = 2
    """Checkpoints kept; the oldest go first."""
    resume: bool = True
    """Go on from the newest checkpoint in the output folder, if there is one."""
    report_to: list[str] = field(default_factory=list)
    """Accelerate trackers: tensorboard, wandb, trackio, ... (each must be installed)."""
    seed: int = 0
    """Seed of everything random in training."""

    def __post_init__(self) -> None:
        for name in ("max_steps", "gradient_accumulation_steps", "logging_steps", "save_total_limit"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be 1 or more, got {getattr(self, name)}.")
        if self.lr_schedule not in ("exponential", "cosine", "linear"):
            raise ValueError(f"`lr_schedule` must be exponential, cosine or linear, got {self.lr_schedule!r}.")
        if self.learning_rate <= 0:
            raise ValueError(f"`learning_rate` must be positive, got {self.learning_rate}.")
        if not 0 < self.min_lr_ratio <= 1:
            raise ValueError(f"`min_lr_ratio` must lie in (0, 1], got {self.min_lr_ratio}.")
        if not 0 <= self.warmup_steps < self.max_steps:
            raise ValueError(f"`warmup_steps` must lie in 0 to max_steps - 1, got {self.warmup_steps}.")


def lr_factor(step: int, args: EngineArguments) -> float:
    """Learning rate at `step` as a fraction of the peak; the floor is reached at the last step and kept."""
    if step < args.warmup_steps:
        return (step + 1) / (args.warmup_steps + 1)
    progress = min(1.0, (step - args.warmup_steps) / max(1, args.max_steps - 1 - args.warmup_steps))
    floor = args.min_lr_ratio
    if args.lr_schedule == "exponential":
        return floor**progress
    fall = progress if args.lr_schedule == "linear" else (1 - math.cos(math.pi * progress)) / 2
    return 1 - (1 - floor) * fall


class Shape(Protocol):
    """What a training that changes the shapes of its parameters tells the engine, so that it can resume."""

    def describe(self) -> dict[str, Any]:
        """The shapes as they are, as plain JSON data."""

    def restore(self, engine: "Engine", described: dict[str, Any]) -> None:
        """Brings model and optimiser, as they were built, to the described shapes; the values are loaded after."""


class Engine:
    """Runs optimiser steps over a loader; every trainer supplies the step.

    Args:
        model (`nn.Module`): With `gradient_checkpointing_enable`, if the arguments ask for it.
        loader (`DataLoader`): From `data.build_loader`, training mode.
        output_dir (`Path` or `str`): Takes checkpoints and log.
        context (`dict`, *optional*): What else a resumed run must share with the run it continues.
        parameters (`list[dict]`, *optional*): Parameter groups as torch's optimisers take them (`params`, and any of
            `lr`, `betas`, `weight_decay`); by default one group of all that require gradients.
        stateful (`Sequence`, *optional*): Objects with `state_dict` and `load_state_dict` that checkpoints carry.
        shape ([`Shape`], *optional*): For trainings that cut their parameters.

    Attributes:
        accelerator (`Accelerator`): Device, precision, processes.
        model (`nn.Module`): The prepared model; `unwrapped` without DDP.
        context (`dict`): What else a resumed run must share with the run it continues, beside `args`.
        global_step (`int`): Steps done. Everything random derives from it, so that a resumed run is the same run.
        epoch (`int`): Passes over the data before the present one.
        epoch_step (`int`): Steps done of the present one.

    Raises:
        LaunchError: If the launcher started more processes than Accelerate sees.
        ValueError: If a tracker is not installed.
    """

    def __init__(
        self,
        model: Any,
        loader: DataLoader,
        args: EngineArguments,
        output_dir: Path | str,
        context: dict[str, Any] | None = None,
        *,
        parameters: list[dict[str, Any]] | None = None,
        stateful: Sequence[Any] = (),
        shape: Shape | None = None,
    ) -> None:
        self.args, self.output_dir, self.shape = args, Path(output_dir), shape
        self.context = {"weights": fingerprint(model), "batch_size": loader.batch_size, **(context or {})}
        self.accelerator = make_accelerator(args, self.output_dir)
        set_seed(args.seed)
        if args.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        groups = parameters or [{"params": [p for p in model.parameters() if p.requires_grad]}]
        optimizer = torch.optim.AdamW(groups, args.learning_rate, weight_decay=args.weight_decay, fused=True)
        self.model, self.optimizer, self.loader = self.accelerator.prepare(model, optimizer, loader)
        # Not prepared: Accelerate would step it once a process.
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, args))
        self.accelerator.register_for_checkpointing(self.scheduler, *stateful)
        # An EpochSampler or a StreamSampler: its order depends on (seed, epoch) alone.
        self.sampler: Any = loader.sampler
        self.global_step = self.epoch = self.epoch_step = 0
        self.resumed_from: Path | None = None
        self.micro_batches = args.gradient_accumulation_steps
        if self.steps_per_epoch == 0:
            raise self._too_few_batches(len(self.loader))
        if args.resume:
            self._resume()
        self._forget_what_comes_later()

    @property
    def unwrapped(self) -> Any:
        return self.accelerator.unwrap_model(self.model)

    @property
    def steps_per_epoch(self) -> int | None:
        """Whole groups of micro-batches an epoch; None of a stream, whose end is known when it is reached."""
        return len(self.loader) // self.micro_batches if isinstance(self.sampler, Sized) else None

    def batches(self) -> Iterator[list[dict[str, torch.Tensor]]]:
        """Groups of micro-batches, one group a step, from where the run stands to its last step."""
        while self.global_step < self.args.max_steps:
            if self.steps_per_epoch is not None:
                self.epoch, self.epoch_step = divmod(self.global_step, self.steps_per_epoch)
            # Accelerate sets the sampler's epoch from `iteration` each time the loader is iterated.
            self.loader.iteration = self.epoch
            self.sampler.set_epoch(self.epoch)
            yield from self._rest_of_epoch()
            self.epoch, self.epoch_step = self.epoch + 1, 0

    def _rest_of_epoch(self) -> Iterator[list[dict[str, torch.Tensor]]]:
        """Groups from `epoch_step` on; batches at the end that do not fill a group are left out."""
        # Of a stream, what was seen is read once more, but no samples are made of it.
        batches = iter(skip_first_batches(self.loader, self.epoch_step * self.micro_batches))
        while self.global_step < self.args.max_steps and self.epoch_step != self.steps_per_epoch:
            group = list(islice(batches, self.micro_batches))
            if len(group) < self.micro_batches:
                if self.epoch_step == 0:
                    raise self._too_few_batches(len(group))
                return
            self.epoch_step += 1
            yield group

    def _too_few_batches(self, count: int) -> ValueError:
        return ValueError(
            f"`gradient_accumulation_steps` of {self.micro_batches} needs as many batches an epoch; there are "
            f"{count}. Lower it, or `data.batch_size`."
        )

    def fit(
        self,
        step: Callable[["Engine", list[dict[str, torch.Tensor]]], dict[str, float]],
        evaluate: Callable[["Engine"], dict[str, float]] | None = None,
        description: str = "train",
    ) -> None:
        """Runs `step` to the end: logs, evaluates and saves on the way, and leaves the model trained.

        Args:
            step (`Callable`): Runs one optimiser step on a group of micro-batches and returns its losses by name.
            evaluate (`Callable`, *optional*): Returns metrics by name; called every `eval_steps`.
        """
        args, accelerator = self.args, self.accelerator
        progress = tqdm(
            total=args.max_steps,
            initial=self.global_step,
            desc=description,
            disable=not accelerator.is_main_process,
        )
        since, images = time.perf_counter(), 0
        for batches in self.batches():
            self.model.train()
            logs = step(self, batches)
            self._check_finite(logs)
            images += sum(len(batch["pixel_values"]) for batch in batches) * accelerator.num_processes
            logs["learning_rate"] = self.optimizer.param_groups[0]["lr"]
            self.scheduler.step()
            self.global_step += 1
            progress.update()
            if self.global_step % args.logging_steps == 0 or self.global_step == args.max_steps:
                logs["images_per_second"] = images / (time.perf_counter() - since)
                since, images = time.perf_counter(), 0
                self.log(logs)
                progress.set_postfix({k: f"{v:.3f}" for k, v in logs.items() if shown(k, logs)})
            if evaluate is not None and args.eval_steps and self.global_step % args.eval_steps == 0:
                self.log(evaluate(self))
                since, images = time.perf_counter(), 0
            if args.save_steps and self.global_step % args.save_steps == 0:
                self.save_checkpoint()
        progress.close()
        # Not accelerator.end_training(): it would end the process group, which later stages of a run need.
        for tracker in accelerator.trackers:
            tracker.finish()

    def _check_finite(self, logs: dict[str, float]) -> None:
        names = [name for name in logs if name.startswith("loss")]
        if "grad_norm" in logs and self.accelerator.scaler is None:  # in fp16 such steps are skipped
            names.append("grad_norm")
        check_finite({name: logs[name] for name in names}, self.global_step + 1, checkpoints(self.output_dir))

    def optimizer_step(self) -> float | None:
        """Clips each group, steps and clears the gradients; returns the largest group norm where they were clipped."""
        norm, limit = None, self.args.max_grad_norm
        if limit is not None:
            first, *others = self.optimizer.param_groups
            norm = float(self.accelerator.clip_grad_norm_(first["params"], limit))  # unscales all gradients first
            for group in others:
                norm = max(norm, float(torch.nn.utils.clip_grad_norm_(group["params"], limit)))
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def prepare_again(self) -> None:
        """After parameters were replaced: wraps the model anew, since DDP holds on to those it was given."""
        if self.accelerator.num_processes == 1:
            return
        unwrapped = self.unwrapped
        self.accelerator._models.clear()
        self.model = self.accelerator.prepare_model(unwrapped)

    def log(self, values: dict[str, float]) -> None:
        """Writes one line to `log.jsonl` and to the trackers."""
        self.accelerator.log(values, step=self.global_step)
        if self.accelerator.is_main_process:
            with (self.output_dir / "log.jsonl").open("a") as file:
                file.write(json.dumps({"step": self.global_step, **values}) + "\n")

    def save_checkpoint(self) -> None:
        """Writes `checkpoint-<step>`: aside first, then renamed, so that a killed run never leaves half of one."""
        # A finite loss may have had a NaN gradient: such weights must not take a good checkpoint's place.
        broken = [name for name, p in self.unwrapped.named_parameters() if not p.isfinite().all()]
        check_finite(dict.fromkeys(broken, math.nan), self.global_step, checkpoints(self.output_dir))
        folder = self.output_dir / f"checkpoint-{self.global_step:08d}"
        aside = folder.with_suffix(".tmp")
        if self.accelerator.is_main_process:
            shutil.rmtree(aside, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(aside))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            state: dict[str, Any] = {
                "global_step": self.global_step,
                "epoch": self.epoch,
                "epoch_step": self.epoch_step,
            }
            state["run"] = self._identity()
            if self.shape is not None:
                state["shape"] = self.shape.describe()
            (aside / STATE_FILE).write_text(json.dumps(state))
            shutil.rmtree(folder, ignore_errors=True)
            aside.rename(folder)
            for old in checkpoints(self.output_dir)[: -self.args.save_total_limit]:
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        found = checkpoints(self.output_dir)
        if not found:
            return
        state = json.loads((found[-1] / STATE_FILE).read_text())
        changed = changed_keys(state["run"], self._identity())
        if changed:
            raise ValueError(
                f"{found[-1]} was written with another {', '.join(changed)}; resuming would be "
                "neither run. Restore the old values, choose another output folder, or set `resume: false`."
            )
        if self.shape is not None:
            self.shape.restore(self, state["shape"])
        self.accelerator.load_state(str(found[-1]))
        self.global_step, self.epoch, self.epoch_step = (state[k] for k in ("global_step", "epoch", "epoch_step"))
        self.resumed_from = found[-1]

    def _forget_what_comes_later(self) -> None:
        """Log lines and checkpoints beyond `global_step`: they will be written again."""
        if not self.accelerator.is_main_process:
            return
        for folder in checkpoints(self.output_dir):
            if int(folder.name.removeprefix("checkpoint-")) > self.global_step:
                shutil.rmtree(folder)
        log = self.output_dir / "log.jsonl"
        if log.exists():
            kept = [line for line in whole_lines(log) if json.loads(line)["step"] <= self.global_step]
            log.write_text("".join(f"{line}\n" for line in kept))

    def _identity(self) -> dict[str, Any]:
        """What a resumed run must share with the run that it continues."""
        free = {"logging_steps", "eval_steps", "save_steps", "save_total_limit", "resume", "report_to"}
        values = {k: v for k, v in asdict(self.args).items() if k not in free}
        images = len(self.sampler) if isinstance(self.sampler, Sized) else None
        processes = {"images": images, "processes": self.accelerator.num_processes}
        return values | processes | self.context


def data_context(loader: DataLoader) -> dict[str, Any]:
    """What decides the samples of a loader whose dataset has `args`: for the context of an engine."""
    dataset: Any = loader.dataset
    how_fast = ("num_workers", "eval_batch_size")
    values = {key: value for key, value in asdict(dataset.args).items() if key not in how_fast}
    # Of other datasets the number of images, which is part of the identity, tells how many are held out.
    held_out = {"holdout_images": dataset.held_out} if isinstance(dataset, (PromptStream, ImageStream)) else {}
    return values | held_out


class LaunchError(RuntimeError):
    """The launcher and Accelerate disagree about the number of processes."""


class NonFiniteLossError(RuntimeError):
    """A loss term or the gradient norm became NaN or infinite."""


def check_finite(logs: dict[str, float], step: int, saved: list[Path]) -> None:
    """Raises [`NonFiniteLossError`] naming step and term, if any of these is not finite."""
    for name, value in logs.items():
        if not math.isfinite(value):
            kept = f"The last good checkpoint is {saved[-1]}." if saved else "There is no checkpoint yet."
            raise NonFiniteLossError(
                f"`{name}` is {value} at step {step}. {kept} Lower the learning rate, set `max_grad_norm`, or use "
                "another `mixed_precision`."
            )


def shown(name: str, logs: dict[str, float]) -> bool:
    """Whether the progress bar has room for a value: the losses (of several terms only their sum), and the size."""
    return name == "loss" or name.endswith("_live") or (name.startswith("loss_") and "loss" not in logs)


def checkpoints(output_dir: Path) -> list[Path]:
    """Complete checkpoint folders, oldest first."""
    return sorted(p.parent for p in Path(output_dir).glob(f"checkpoint-*[0-9]/{STATE_FILE}"))


def make_accelerator(args: EngineArguments, output_dir: Path) -> Accelerator:
    """An Accelerator for this machine, with its trackers started."""
    unknown = sorted(set(args.report_to) - {str(tracker) for tracker in get_available_trackers()})
    if unknown:
        raise ValueError(f"`report_to` names {unknown}, which is not installed: pip install {' '.join(unknown)}")
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),
        mixed_precision=args.mixed_precision,
        log_with=args.report_to or None,
        project_config=ProjectConfiguration(project_dir=str(output_dir), logging_dir=str(output_dir / "trackers")),
        # Layers that a subnet leaves out get no gradient.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size != accelerator.num_processes:
        raise LaunchError(
            f"The launcher started {world_size} processes, but Accelerate sees {accelerator.num_processes}: they "
            "would train apart and overwrite each other. Launch with `torchrun --nproc_per_node N`, or unset "
            "WORLD_SIZE."
        )
    output_dir.mkdir(parents=True, exist_ok=True)
    config = {k: v if isinstance(v, (int, float, str, bool)) else str(v) for k, v in asdict(args).items()}
    accelerator.init_trackers("supersam_hf", config=config)
    return accelerator
