"""The loop that every training shares: steps, logs, evaluations, checkpoints with exact resume, and how it ends."""

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import PartialState
from accelerate.utils import send_to_device, set_seed
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..files import changed_keys, fingerprint, open_no_link, whole_lines, write_whole
from ..interruption import SIGNALS, Interrupted, StopRequest, deferred
from ..measure.cost import CostMeter
from ..spread import on_main
from .arguments import FREE, EngineArguments, lr_factor
from .checkpoints import STATE_FILE, find_checkpoint, forget_after, kept, read_standing
from .context import trained_on
from .errors import broken_term, explained, non_finite
from .launch import make_accelerator
from .saving import TrainingState, fitting, write_checkpoint
from .sharding import gathered, is_sharded, local, whole
from .telemetry import Throughput, peak_memory_mb, shown


Batch = dict[str, torch.Tensor]


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
        loader (`DataLoader`): From `data.build_loader`, training mode, with this process's own batches.
        output_dir (`Path` or `str`): Takes checkpoints and log.
        context (`dict`, *optional*): What else a resumed run must share with the run it continues.
        parameters (`list[dict]`, *optional*): Parameter groups as torch's optimisers take them (`params`, and any of
            `lr`, `betas`, `weight_decay`); by default one group of all that require gradients.
        stateful (`Sequence`, *optional*): Objects with `state_dict` and `load_state_dict` that checkpoints carry.
        shape ([`Shape`], *optional*): For trainings that cut their parameters.
        sharding (`bool`, *optional*, defaults to `False`): Whether FSDP may shard the model.
        meter ([`CostMeter`], *optional*): Counts steps and images.

    Attributes:
        accelerator (`Accelerator`): Device, precision, processes.
        model (`nn.Module`): The prepared model; see `unwrapped`.
        context (`dict`): What else a resumed run must share with the run it continues, beside `args`.
        global_step (`int`): Steps done. Everything random derives from it, so that a resumed run is the same run.
        steps_per_epoch (`int`): Whole groups of micro-batches an epoch.
        resumed_from (`Path` or None): The checkpoint that the run goes on from.

    Raises:
        LaunchError: If launcher, Accelerate and training do not fit together.
        CheckpointError: If no checkpoint, or not the one asked for, can be used.
        ValueError: If a tracker is not installed, the loader's batches are those of another number of processes or
            too few, or the run to continue is another one.
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
        sharding: bool = False,
        meter: CostMeter | None = None,
    ) -> None:
        self.args, self.output_dir, self.loader = args, Path(output_dir), loader
        self.shape, self.stateful, self.meter = shape, stateful, meter
        self.context = {"weights": fingerprint(model), **(context or {})}
        self.accelerator = make_accelerator(args, self.output_dir, sharding=sharding)
        self.batch_sampler: Any = loader.batch_sampler
        self.micro_batches = args.gradient_accumulation_steps
        self.steps_per_epoch = len(loader) // self.micro_batches
        self._check_loader()
        set_seed(args.seed)
        if args.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        groups = parameters or [{"params": [p for p in model.parameters() if p.requires_grad]}]
        optimizer = torch.optim.AdamW(groups, args.learning_rate, weight_decay=args.weight_decay, fused=True)
        self._model_class = type(model)  # sharding changes it
        self.model, self.optimizer = self._prepare(model, optimizer)
        # Not prepared: Accelerate would step it once a process.
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, args))
        self.global_step = 0
        # Whether the evaluation due at this step is done, and whether the training ended before its last step.
        self.evaluated, self.ended = True, False
        self.resumed_from: Path | None = None
        self._resume()
        on_main(PartialState(), self._forget_what_comes_later)

    def _prepare(self, model: Any, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        """Model and optimiser on this process's device, wrapped for several processes."""
        return self.accelerator.prepare(model, optimizer)

    def _check_loader(self) -> None:
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"`gradient_accumulation_steps` of {self.micro_batches} needs as many batches an epoch; there are "
                f"{len(self.loader)}. Lower it, or `data.batch_size`."
            )
        made_for, processes = self.batch_sampler.identity()["processes"], self.accelerator.num_processes
        if made_for != processes:
            raise ValueError(
                f"The loader has the batches of one process among {made_for}, and {processes} train: give "
                "`build_loader` this process's `rank` and their number, `world`."
            )

    @property
    def unwrapped(self) -> Any:
        """The model without DDP. Of one that FSDP shards a whole copy; all processes must ask for it together."""
        model = self.accelerator.unwrap_model(self.model)
        return gathered(model, self._model_class) if is_sharded(model) else model

    def no_sync(self) -> AbstractContextManager:
        """For all backwards but the last before a step: DDP averages the gradients in that one alone.

        FSDP averages in each: gradients that wait for the last would be whole on every process.
        """
        return nullcontext() if is_sharded(self.model) else self.accelerator.no_sync(self.model)

    def batches(self) -> Iterator[list[Batch]]:
        """Groups of micro-batches, one group a step, from where the run stands to its last step. Batches at the end of
        an epoch that do not fill a group are left out."""
        while not self.over:
            epoch, step = divmod(self.global_step, self.steps_per_epoch)
            self.batch_sampler.begin(epoch, step * self.micro_batches)
            batches = iter(self.loader)
            for _ in range(step, self.steps_per_epoch):
                if self.over:
                    return
                yield [send_to_device(batch, self.accelerator.device) for batch in islice(batches, self.micro_batches)]

    @property
    def over(self) -> bool:
        """Whether no step is left to do."""
        return self.ended or self.global_step >= self.args.max_steps

    def fit(
        self,
        step: Callable[["Engine", list[Batch]], dict[str, float]],
        evaluate: Callable[["Engine"], dict[str, float]] | None = None,
        description: str = "train",
        on_metrics: Callable[["Engine", dict[str, float]], bool] | None = None,
    ) -> None:
        """Runs `step` to the end: logs, evaluates and saves on the way, and leaves the model trained.

        Args:
            step (`Callable`): Runs one optimiser step on a group of micro-batches and returns its losses by name.
            evaluate (`Callable`, *optional*): Returns metrics by name; called every `eval_steps`.
            on_metrics (`Callable`, *optional*): Looks at them; True ends the training after a checkpoint.

        Raises:
            Interrupted: After a checkpoint, if SIGTERM or SIGINT came to any process.
            TrainingError: If the training cannot go on; the message says why, and what is kept.
        """
        bar = tqdm(
            total=self.args.max_steps,
            initial=self.global_step,
            desc=description,
            disable=not self.accelerator.is_main_process,
        )
        rate = Throughput()
        # torch tells of a dead worker by a signal, which may come as late as when the bar closes
        with explained(lambda: self._where(self.global_step + 1)), bar, deferred() as stop:
            if evaluate is not None and not self.evaluated:  # a signal came between the step and its evaluation
                self._evaluate(evaluate, on_metrics)
            for batches in self.batches():
                self.model.train()
                logs = step(self, batches)
                stopping = self._agree_to_stop(logs, stop)
                rate.add(self._count(batches))
                logs["learning_rate"] = self.optimizer.param_groups[0]["lr"]
                self.scheduler.step()
                self.global_step += 1
                bar.update()
                self._tell(logs, rate, bar)
                self.evaluated = evaluate is None or not self._due(self.args.eval_steps)
                if evaluate is not None and not (self.evaluated or stopping):
                    self._evaluate(evaluate, on_metrics)
                    rate.restart()
                if stopping or self.ended or self._due(self.args.save_steps):
                    self.save_checkpoint()
                if stopping:
                    stop.taken = True
                    raise Interrupted(f"stopped at step {self.global_step}. {kept(self.output_dir)}", stopping)
            self._check_weights()
        if self.meter is not None:
            self.meter.flush()
        # Not accelerator.end_training(): it would end the process group, which later stages of a run need.
        for tracker in self.accelerator.trackers:
            tracker.finish()

    def _tell(self, logs: dict[str, float], rate: Throughput, bar: tqdm) -> None:
        if self._due(self.args.logging_steps) or self.over:
            self.log(logs | {"images_per_second": rate.restart(), "memory_mb": peak_memory_mb()})
            bar.set_postfix({k: f"{v:.3f}" for k, v in logs.items() if shown(k, logs)})

    def _due(self, every: int) -> bool:
        return every > 0 and self.global_step % every == 0

    def _evaluate(self, evaluate: Callable[["Engine"], dict[str, float]], on_metrics: Any) -> None:
        metrics = evaluate(self)
        self.log(metrics)
        self.evaluated = True
        self.ended = on_metrics is not None and on_metrics(self, metrics)

    def _count(self, batches: list[Batch]) -> int:
        """Images of a step, over all processes; the meter gets them too."""
        images = sum(len(batch["pixel_values"]) for batch in batches) * self.accelerator.num_processes
        if self.meter is not None:
            self.meter.add(iterations=1, images=images)
        return images

    def _agree_to_stop(self, logs: dict[str, float], stop: StopRequest) -> signal.Signals | None:
        """The signal that came to any process; raises on all where a loss of any is not finite.

        One reduction a step: a process that left alone would leave the others waiting for it.
        """
        broken = broken_term(logs, scaled=self.accelerator.scaler is not None)
        *came, failed = self._any(*(stop.received == number for number in SIGNALS), broken is not None)
        if failed:
            raise non_finite(broken or "a loss of another process is not finite", self._where(self.global_step + 1))
        return next((number for number, flag in zip(SIGNALS, came) if flag), None)

    def _any(self, *flags: bool) -> list[bool]:
        """Which of these flags are set on any process."""
        if self.accelerator.num_processes == 1:
            return list(flags)
        counts = torch.tensor(flags, dtype=torch.int32, device=self.accelerator.device)
        return [count > 0 for count in self.accelerator.reduce(counts).tolist()]

    def _where(self, step: int) -> str:
        return f" at step {step}. {kept(self.output_dir)}"

    def optimizer_step(self) -> float | None:
        """Clips each group, steps and clears the gradients; returns the largest group norm where they were clipped."""
        norms, limit = [], self.args.max_grad_norm
        if limit is not None:
            self.accelerator.unscale_gradients()
            clip = torch.nn.utils.clip_grad_norm_
            norms = [whole(clip(group["params"], limit)) for group in self.optimizer.param_groups]
        self.optimizer.step()
        self.optimizer.zero_grad()
        # read when all is under way: a GPU is not waited for in the midst of a step
        return float(torch.stack(norms).max()) if norms else None

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
            with open(self.output_dir / "log.jsonl", "a", opener=open_no_link) as file:
                file.write(json.dumps({"step": self.global_step, **values}) + "\n")
        if self.meter is not None:
            self.meter.flush()

    def _check_weights(self) -> None:
        """A finite loss may have had a NaN gradient: such weights must not take a good checkpoint's place."""
        broken = [name for name, p in self.model.named_parameters() if not local(p).isfinite().all()]
        if self._any(bool(broken))[0]:
            named = f"`{broken[0].removeprefix('module.')}`" if broken else "a weight on another process"
            raise non_finite(f"{named} is not finite", self._where(self.global_step))

    def save_checkpoint(self) -> None:
        """Writes `checkpoint-<step>`: whole, with checksums, or not at all.

        Raises:
            TrainingError: If a weight is not finite, or the disk is full.
        """
        self._check_weights()
        state: dict[str, Any] = {"global_step": self.global_step, "evaluated": self.evaluated, "ended": self.ended}
        state["run"] = self._identity()
        if self.shape is not None:
            state["shape"] = self.shape.describe()
        limit = self.args.save_total_limit
        write_checkpoint(self._training_state(), self.output_dir, self.global_step, state, limit=limit)
        if self.meter is not None:
            self.meter.flush()

    def _training_state(self) -> TrainingState:
        model = self.accelerator.unwrap_model(self.model)
        scaler = self.accelerator.scaler
        others = (self.scheduler, *self.stateful, *(() if scaler is None else (scaler,)))
        return TrainingState(model, self.optimizer, self.accelerator.device, others)

    def _resume(self) -> None:
        wanted = self.args.resume_from_checkpoint
        found = on_main(PartialState(), lambda: find_checkpoint(self.output_dir, wanted))
        if found is None:
            return
        state = read_standing(found)
        changed = changed_keys(trained_on(state["run"]), trained_on(self._identity()))
        if changed:
            raise ValueError(
                f"{found} was written with another {', '.join(changed)}; resuming would be neither run. Restore the "
                "old values, choose another output folder, or set `resume_from_checkpoint: null`."
            )
        if self.shape is not None:
            with fitting(found / STATE_FILE):
                self.shape.restore(self, state["shape"])
        self._training_state().read(found, self.accelerator.process_index)
        self.global_step, self.evaluated, self.ended = (state[key] for key in ("global_step", "evaluated", "ended"))
        self.resumed_from = found

    def _forget_what_comes_later(self) -> None:
        """Log lines and checkpoints beyond `global_step`: they will be written again."""
        forget_after(self.output_dir, self.global_step)
        log = self.output_dir / "log.jsonl"
        if log.exists():
            lines = [line for line in whole_lines(log) if self._is_past(json.loads(line))]
            write_whole(log, "".join(f"{line}\n" for line in lines))

    def _is_past(self, logged: dict[str, float]) -> bool:
        """Whether what a line of the log tells is not done again. Of the present step, an evaluation may be."""
        if logged["step"] == self.global_step:
            return self.evaluated or "learning_rate" in logged
        return logged["step"] < self.global_step

    def _identity(self) -> dict[str, Any]:
        """What a resumed run must share with the run that it continues."""
        values = {key: value for key, value in asdict(self.args).items() if key not in FREE}
        return values | self.batch_sampler.identity() | self.context


__all__ = ["Engine", "Shape"]
