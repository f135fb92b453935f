"""Bi-mask search: one stage in which weights, importance and sparsity are learned and units leave (OFB, Alg. 1)."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch.utils.data import DataLoader

from ..bimask.cost import physical_shape
from ..bimask.extract import deploy
from ..bimask.losses import budget_penalty, entropy, l1, variance_penalty
from ..bimask.masking import MaskedModel
from ..bimask.pmim import local_normalised, reconstruction_loss, sample_mask
from ..bimask.schedules import linear
from ..bimask.search import BiMaskSearch
from ..bimask.space import SearchSpace
from ..classification import check_labels
from ..files import fingerprint
from ..measure.cost import CostMeter
from ..oneshot.pace import SearchPace
from .bimask_arguments import BiMaskArguments, MaskSearchArguments
from .classify import classification_loss, mix_batch, seed_step
from .context import data_context
from .drop_path import DropPath
from .engine import Engine
from .layer_decay import layer_decay_groups


def train_bimask(
    model: Any,
    space: SearchSpace,
    loader: DataLoader,
    args: BiMaskArguments,
    output_dir: Path | str,
    *,
    evaluate: Callable[[Engine], dict[str, float]] | None = None,
    teacher: torch.nn.Module | None = None,
    meter: CostMeter | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Searches `model` for a network within the budget, and trains it; `model` is used up.

    Args:
        model (`PreTrainedModel`): Of one of the families (`bimask/families`): Pretrained, with the loader's labels.
        loader (`DataLoader`): Of an `ImageDataset`, from `data.build_loader`, training mode.
        output_dir (`Path` or `str`): Takes `log.jsonl`, `history.jsonl` and the checkpoints from which an interrupted
            search goes on.
        evaluate (`Callable`, *optional*): Metrics by name, every `eval_steps`; `engine.unwrapped` is the masked model.
        teacher (`nn.Module`, *optional*): Classifier with the same labels, for distillation.
        meter ([`CostMeter`], *optional*): Counts what the training costs.

    Returns:
        `tuple`: The found network, standalone, its config's `search` saying how it was found; and the report: budget,
        size, architecture, and what the budget's rule had to remove (`enforced`).

    Raises:
        ValueError: If no network of the space meets the budget (saying what the smallest is), labels do not fit, the
            space cannot be had from this model, or images are not of its size.
        NonFiniteLossError: If a loss term becomes NaN or infinite, naming step and term.
    """
    check_labels(model, loader)
    if (teacher is None) != (args.loss.distillation == "none"):
        raise ValueError(f"`search.loss.distillation` is {args.loss.distillation!r}: it goes with a teacher.")
    search = new_search(model, space, args, Path(output_dir))
    context: dict[str, Any] = {"space": vars(space), "data": data_context(loader)}
    if teacher is not None:
        context["teacher"] = fingerprint(teacher)
    trainer = BiMaskTrainer(search, args, ClassifierTerms(search, args, teacher))
    drop_path = DropPath(model, args.drop_path_rate)
    try:
        return trainer.fit(loader, Path(output_dir), context, evaluate, meter)
    finally:
        drop_path.remove()


def new_search(model: Any, space: SearchSpace, args: MaskSearchArguments, output_dir: Path) -> BiMaskSearch:
    """The search that these arguments ask for, before its first step."""
    max_macs, max_params = args.limits
    pace = None if args.latency is None else SearchPace(model, args.latency, output_dir)
    return BiMaskSearch(
        model,
        space,
        output_dir,
        max_macs=max_macs if pace is None else pace.max_macs,
        max_params=max_params,
        pace=pace,
        seed=args.seed,
        score_mean=args.score_mean,
        score_std=args.score_std,
        ordinal=args.ordinal,
        pmim=args.mask_position if isinstance(args, BiMaskArguments) and args.pmim else None,
    )


def parameter_groups(masked: MaskedModel, args: MaskSearchArguments) -> list[dict[str, Any]]:
    """Weights (with and without decay), scores, architecture parameters, decoder, each at its own rate."""
    groups = layer_decay_groups(masked.model, args.learning_rate, args.weight_decay, 1.0)
    masks = masked.masks.values()
    scores = {"params": [m.score for m in masks], "lr": args.score_learning_rate, "weight_decay": 0.0}
    alphas = {"params": [m.alpha for m in masks], "lr": args.alpha_learning_rate, "betas": (0.5, 0.999)}
    groups += [scores, alphas]
    if isinstance(args, BiMaskArguments) and masked.decoder is not None and masked.patch_masking is not None:
        parameters = [*masked.decoder.parameters(), masked.patch_masking.token]
        groups.append({"params": parameters, "lr": args.decoder_learning_rate})
    return groups


class DataTerms(Protocol):
    """What a search learns from data."""

    def begin(self, engine: Engine) -> None:
        """Before the first step."""

    def mask_ratio(self, step: int) -> float:
        """Share of patches that a step masks and reconstructs."""

    def __call__(
        self, engine: Engine, batch: dict[str, torch.Tensor], ratio: float, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Loss terms of one micro-batch, by name ("loss_class", ...), with their graphs."""


class BiMaskTrainer:
    """The steps of a search; also what the engine asks for the shapes of its checkpoints."""

    def __init__(self, search: BiMaskSearch, args: MaskSearchArguments, terms: DataTerms) -> None:
        self.search, self.args, self.terms = search, args, terms

    def fit(
        self,
        loader: DataLoader,
        output_dir: Path,
        context: dict[str, Any],
        evaluate: Callable[[Engine], dict[str, float]] | None,
        meter: CostMeter | None,
    ) -> tuple[Any, dict[str, Any]]:
        """All steps, or those that are left. Returns the found network and the report."""
        args, masked = self.args, self.search.masked
        groups = parameter_groups(masked, args)
        engine = Engine(masked, loader, args, output_dir, context, parameters=groups, shape=self, meter=meter)
        self.terms.begin(engine)
        self.begin(engine)
        engine.fit(self.step, evaluate, "bi-mask search")
        steps = {name: getattr(args, name) for name in ("max_steps", "search_steps", "preset", "seed")}
        found, report = deploy(masked), self.search.report() | steps
        if self.search.pace is not None:
            report["latency"] = self.search.pace.found(physical_shape(found)).to_dict()
        found.config.search = report
        return found, report

    def begin(self, engine: Engine) -> None:
        """Before the first step, of the run or of its continuation."""
        # lambda of the last step that was done: there may be no other
        self._schedules(max(0, engine.global_step - 1))
        if engine.accelerator.is_main_process:
            self.search.history.forget_after(engine.global_step)
            if engine.global_step == 0:
                self.search.record(0, [])
        engine.accelerator.wait_for_everyone()

    def step(self, engine: Engine, batches: list[dict[str, torch.Tensor]]) -> dict[str, float]:
        """One optimiser step on a group of micro-batches, and the pruning that is due after it."""
        started, args = time.perf_counter(), self.args
        ratio = self._schedules(engine.global_step)
        generator = seed_step(args.seed, engine.global_step, engine.accelerator.process_index)
        logs: dict[str, torch.Tensor] = {}
        for i, batch in enumerate(batches):
            last = i + 1 == len(batches)
            # DDP averages the gradients over processes in the last backward before a step, and only there
            with nullcontext() if last else engine.no_sync():
                terms = self.terms(engine, batch, ratio, generator) | (self._mask_terms() if last else {})
                weights = {name: 1.0 if name in MASK_TERMS else 1 / len(batches) for name in terms}
                terms = {name: weights[name] * term for name, term in terms.items()}
                engine.accelerator.backward(sum(terms.values()))
            for name, term in terms.items():
                logs[name] = logs.get(name, 0.0) + term.detach()
        shares = {self.search.budget.kind: self.search.soft_fraction().detach()}
        live = {f"{self.search.budget.kind}_live": self.search.live_fraction()}
        norm = engine.optimizer_step()
        logged = _numbers(logs) | _numbers(shares) | live | {"lambda": self.search.masked.lam, "mask_ratio": ratio}
        if norm is not None:
            logged["grad_norm"] = norm
        logged["loss"] = sum(logged[name] for name in logs)
        self._prune_if_due(engine)
        return logged | {"step_seconds": time.perf_counter() - started}

    def _schedules(self, step: int) -> float:
        """Sets lambda; returns the masking ratio, 0 after the search."""
        args: Any = self.args  # no null is left in it
        self.search.masked.lam = linear(step, ramp_steps(args), args.lambda_start, args.lambda_end)
        return 0.0 if self.search.over else self.terms.mask_ratio(step)

    def _mask_terms(self) -> dict[str, torch.Tensor]:
        """L_m of Eq. 7, weighted, over the submodules that are not decided, with the scores of the last forward."""
        if self.search.over:
            return {}
        args, masked = self.args, self.search.masked
        terms = dict.fromkeys(MASK_TERMS, torch.zeros((), device=masked.device))
        for kind, scores in masked.values.items():
            stack, p = masked.stacks[kind], scores.probabilities
            psi = variance_penalty(p, stack.live) / (stack.cells if args.variance_per_cell else 1)
            mu_3 = args.l1_attention if kind == "attention" else args.l1_other
            searched = stack.undecided
            terms["loss_entropy"] = terms["loss_entropy"] + args.entropy_weight * (searched @ entropy(p, stack.live))
            terms["loss_variance"] = terms["loss_variance"] + args.variance_weight * (searched @ psi)
            terms["loss_l1"] = terms["loss_l1"] + mu_3 * (searched @ l1(scores.importance))
        distance = budget_penalty(self.search.soft_fraction(), self.search.budget.fraction, bool(args.squared_budget))
        terms["loss_budget"] = args.budget_weight * distance
        return terms

    def _prune_if_due(self, engine: Engine) -> None:
        """Algorithm 1, line 9: every Delta T steps, and at the last step of the search."""
        done, args = engine.global_step + 1, self.args
        last = done >= (args.search_steps or args.max_steps)
        every = args.prune_steps or max(1, engine.steps_per_epoch // 3)
        if self.search.over or (done % every and not last):
            return
        removed = self.search.prune(args.eta, engine.optimizer.optimizer, last=last)
        if removed:
            engine.prepare_again()
        if engine.accelerator.is_main_process:
            self.search.record(done, removed)

    def describe(self) -> dict[str, Any]:
        return self.search.describe()

    def restore(self, engine: Engine, described: dict[str, Any]) -> None:
        self.search.restore(described, engine.optimizer.optimizer)
        engine.prepare_again()


def _check_size(pixel_values: torch.Tensor, image_size: int) -> None:
    """A model that takes images of any size would be searched at one and its budget counted at another."""
    size = tuple(pixel_values.shape[-2:])
    if size != (image_size, image_size):
        raise ValueError(
            f"The images are of {size[0]} x {size[1]} px and the model's config says {image_size}, at which its "
            "budget is counted: give an image processor of the model's size, or the model at theirs."
        )


class ClassifierTerms:
    """Classification, with Mixup, CutMix and distillation, and masked image modelling."""

    def __init__(self, search: BiMaskSearch, args: BiMaskArguments, teacher: torch.nn.Module | None) -> None:
        self.search, self.args, self.teacher = search, args, teacher

    def begin(self, engine: Engine) -> None:
        if self.teacher is not None:
            self.teacher.to(engine.accelerator.device).eval()

    def mask_ratio(self, step: int) -> float:
        args = self.args
        return linear(step, ramp_steps(args), args.mask_ratio_start, args.mask_ratio_end) if args.pmim else 0.0

    def __call__(
        self, engine: Engine, batch: dict[str, torch.Tensor], ratio: float, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """L_train and L_rec of Eq. 8, from one forward."""
        args, config = self.args, cast(Any, self.search.masked.model.config)
        _check_size(batch["pixel_values"], config.image_size)
        mix = args.mix_after if self.search.over else args.mix
        images, targets = mix_batch(batch, mix, config.num_labels, generator)
        mask = None
        if ratio > 0:
            masking: Any = self.search.masked.patch_masking
            mask = sample_mask(len(images), masking.squares, ratio, generator)
        outputs = engine.model(pixel_values=images, patch_mask=mask)
        with torch.no_grad(), engine.accelerator.autocast():
            teacher_logits = None if self.teacher is None else self.teacher(pixel_values=images).logits
        loss = classification_loss(outputs.logits, targets, args.loss, teacher_logits)
        if mask is None:
            return {"loss_class": loss}
        decoder: Any = self.search.masked.decoder
        rec = reconstruction_loss(outputs.reconstruction, local_normalised(images, mask, decoder.patch_size))
        if args.balance_reconstruction:
            rec = rec * (loss.detach() / rec.detach().clamp(min=1e-6))
        return {"loss_class": loss, "loss_reconstruction": args.reconstruction_weight * rec}


def ramp_steps(args: MaskSearchArguments) -> int:
    """Steps over which lambda and the masking ratio change."""
    assert args.ramp is not None
    assert args.search_steps is not None
    return max(1, round(args.ramp * args.search_steps))


def _numbers(values: dict[str, torch.Tensor]) -> dict[str, float]:
    """Scalars as numbers, with one wait for the device."""
    return dict(zip(values, torch.stack([value.float() for value in values.values()]).tolist()))


MASK_TERMS = ("loss_entropy", "loss_variance", "loss_l1", "loss_budget")

__all__ = ["BiMaskTrainer", "ClassifierTerms", "DataTerms", "new_search", "train_bimask"]
