"""Bi-mask search: one stage in which weights, importance and sparsity are learned and units leave (OFB, Alg. 1)."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch.utils.data import DataLoader

from ..bimask.budget import SearchBudget, enforce, make_budget
from ..bimask.cost import full_cost, physical_shape, smallest_shape, soft_cost
from ..bimask.extract import architecture, deploy
from ..bimask.history import SearchHistory
from ..bimask.losses import budget_penalty, entropy, l1, variance_penalty
from ..bimask.masking import MaskedModel
from ..bimask.pmim import local_normalised, reconstruction_loss, sample_mask
from ..bimask.prune import cut_to_live, resize
from ..bimask.schedules import linear
from ..bimask.space import SearchSpace
from ..classification import check_labels
from ..elastic.vit_cost import ViTShape, count_macs, count_parameters
from ..files import fingerprint
from ..models.ofb_vit import OfbViTForImageClassification
from .bimask_arguments import BiMaskArguments
from .classify import classification_loss, mix_batch, seed_step
from .drop_path import DropPath
from .engine import Engine, data_context
from .layer_decay import layer_decay_groups


def train_bimask(
    model: OfbViTForImageClassification,
    space: SearchSpace,
    loader: DataLoader,
    args: BiMaskArguments,
    output_dir: Path | str,
    *,
    evaluate: Callable[[Engine], dict[str, float]] | None = None,
    teacher: torch.nn.Module | None = None,
) -> tuple[OfbViTForImageClassification, dict[str, Any]]:
    """Searches `model` for a network within the budget, and trains it; `model` is used up.

    Args:
        model ([`OfbViTForImageClassification`]): Pretrained, with the loader's labels.
        loader (`DataLoader`): Of an `ImageDataset`, from `data.build_loader`, training mode.
        output_dir (`Path` or `str`): Takes `log.jsonl`, `history.jsonl` and the checkpoints from which an interrupted
            search goes on.
        evaluate (`Callable`, *optional*): Metrics by name, every `eval_steps`; `engine.unwrapped` is the masked model.
        teacher (`nn.Module`, *optional*): Classifier with the same labels, for distillation.

    Returns:
        `tuple`: The found network, standalone, and the report: budget, size, architecture, and what the budget's rule
        had to remove (`enforced`).

    Raises:
        ValueError: If no network of the space meets the budget (saying what the smallest is), labels do not fit, or
            the space cannot be had from this model.
        NonFiniteLossError: If a loss term becomes NaN or infinite, naming step and term.
    """
    check_labels(model, loader)
    if (teacher is None) != (args.loss.distillation == "none"):
        raise ValueError(f"`search.loss.distillation` is {args.loss.distillation!r}: it goes with a teacher.")
    search = BiMaskSearch(model, space, args, Path(output_dir), teacher)
    drop_path = DropPath(model, args.drop_path_rate)
    context: dict[str, Any] = {"space": vars(space), "data": data_context(loader)}
    if teacher is not None:
        context["teacher"] = fingerprint(teacher)
    groups = search.parameter_groups()
    engine = Engine(search.masked, loader, args, output_dir, context, parameters=groups, shape=search)
    if teacher is not None:
        teacher.to(engine.accelerator.device).eval()
    search.begin(engine)
    try:
        engine.fit(search.step, evaluate, "bi-mask search")
    finally:
        drop_path.remove()
    report = search.report()
    return deploy(search.masked), report


class BiMaskSearch:
    """A search as it stands: the masked model, its budget, and what was cut so far."""

    def __init__(
        self,
        model: OfbViTForImageClassification,
        space: SearchSpace,
        args: BiMaskArguments,
        output_dir: Path,
        teacher: torch.nn.Module | None = None,
    ) -> None:
        self.args, self.teacher = args, teacher
        self.original: ViTShape = physical_shape(model)
        self.smallest = smallest_shape(self.original, space)
        self.budget: SearchBudget = make_budget(self.original, space, args.max_macs, args.max_params)
        self.full_cost = full_cost(self.original, self.budget.kind)
        torch.manual_seed(args.seed)  # for the decoder
        self.masked = MaskedModel(
            model,
            space,
            generator=torch.Generator().manual_seed(args.seed),
            score_mean=args.score_mean or 0.0,
            score_std=args.score_std,
            ordinal=args.ordinal,
            pmim=args.mask_position if args.pmim else None,
        )
        # copies: the masks' own lists become shorter
        self.options = {n: (list(m.group_sizes), list(m.unit_sizes)) for n, m in self.masked.masks.items()}
        self.history = SearchHistory(output_dir / "history.jsonl")
        self.enforced: list[dict[str, Any]] = []
        self.decided_by_search = False
        self.over = False

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Weights (with and without decay), scores, architecture parameters, decoder, each at its own rate."""
        args, masked = self.args, self.masked
        groups = layer_decay_groups(masked.model, args.learning_rate, args.weight_decay, 1.0)
        masks = masked.masks.values()
        scores = {"params": [m.score for m in masks], "lr": args.score_learning_rate, "weight_decay": 0.0}
        alphas = {"params": [m.alpha for m in masks], "lr": args.alpha_learning_rate, "betas": (0.5, 0.999)}
        groups += [scores, alphas]
        if masked.decoder is not None and masked.patch_masking is not None:
            parameters = [*masked.decoder.parameters(), masked.patch_masking.token]
            groups.append({"params": parameters, "lr": args.decoder_learning_rate})
        return groups

    def begin(self, engine: Engine) -> None:
        """Before the first step, of the run or of its continuation."""
        # lambda of the last step that was done: there may be no other
        self._schedules(max(0, engine.global_step - 1))
        if engine.accelerator.is_main_process:
            self.history.forget_after(engine.global_step)
            if engine.global_step == 0:
                self._record(engine, [])
        engine.accelerator.wait_for_everyone()

    def step(self, engine: Engine, batches: list[dict[str, torch.Tensor]]) -> dict[str, float]:
        """One optimiser step on a group of micro-batches, and the pruning that is due after it."""
        started, args = time.perf_counter(), self.args
        ratio = self._schedules(engine.global_step)
        generator = seed_step(args.seed, engine.global_step, engine.accelerator.process_index)
        logs: dict[str, float] = {}
        for i, batch in enumerate(batches):
            last = i + 1 == len(batches)
            # DDP averages the gradients over processes in the last backward before a step, and only there
            with nullcontext() if last else engine.accelerator.no_sync(engine.model):
                terms = self._data_terms(engine, batch, ratio, generator) | (self._mask_terms() if last else {})
                weights = {name: 1.0 if name in MASK_TERMS else 1 / len(batches) for name in terms}
                engine.accelerator.backward(sum(weights[name] * term for name, term in terms.items()))
            for name, term in terms.items():
                logs[name] = logs.get(name, 0.0) + weights[name] * term.item()
        logs = {"loss": sum(logs.values()), **logs, **self._progress(ratio)}
        norm = engine.optimizer_step()
        if norm is not None:
            logs["grad_norm"] = norm
        self._prune_if_due(engine)
        return logs | {"step_seconds": time.perf_counter() - started}

    def _schedules(self, step: int) -> float:
        """Sets lambda; returns the masking ratio, 0 after the search."""
        args: Any = self.args  # no null is left in it
        steps = max(1, round(args.ramp * args.search_steps))
        self.masked.lam = linear(step, steps, args.lambda_start, args.lambda_end)
        if not args.pmim or self.over:
            return 0.0
        return linear(step, steps, args.mask_ratio_start, args.mask_ratio_end)

    def _data_terms(
        self, engine: Engine, batch: dict[str, torch.Tensor], ratio: float, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """L_train and L_rec of Eq. 8, from one forward."""
        args, config = self.args, cast(Any, self.masked.model.config)
        mix = args.mix_after if self.over else args.mix
        images, targets = mix_batch(batch, mix, config.num_labels, generator)
        mask = None
        if ratio > 0:
            patches = (config.image_size // config.patch_size) ** 2
            mask = sample_mask(len(images), patches, ratio, generator).to(images.device)
        outputs = engine.model(pixel_values=images, patch_mask=mask)
        with torch.no_grad(), engine.accelerator.autocast():
            teacher_logits = None if self.teacher is None else self.teacher(pixel_values=images).logits
        loss = classification_loss(outputs.logits, targets, args.loss, teacher_logits)
        if mask is None:
            return {"loss_class": loss}
        target = local_normalised(images)
        rec = reconstruction_loss(outputs.reconstruction, target, mask, config.patch_size)
        if args.balance_reconstruction:
            rec = rec * (loss.detach() / rec.detach().clamp(min=1e-6))
        return {"loss_class": loss, "loss_reconstruction": args.reconstruction_weight * rec}

    def _mask_terms(self) -> dict[str, torch.Tensor]:
        """L_m of Eq. 7, weighted, over the submodules that are not decided."""
        if self.over:
            return {}
        args, zero = self.args, torch.zeros((), device=self.masked.model.device)
        terms = dict.fromkeys(MASK_TERMS, zero)
        for name, mask in self.masked.masks.items():
            if mask.decided:
                continue
            p, cells = mask.probabilities(), int(mask.live.sum())
            psi = variance_penalty(p, mask.live) / (cells if args.variance_per_cell else 1)
            mu_3 = args.l1_attention if name.startswith("attention") else args.l1_other
            terms["loss_entropy"] = terms["loss_entropy"] + args.entropy_weight * entropy(p, mask.live)
            terms["loss_variance"] = terms["loss_variance"] + args.variance_weight * psi
            terms["loss_l1"] = terms["loss_l1"] + mu_3 * l1(mask.importance())
        distance = budget_penalty(self._soft_fraction(), self.budget.fraction, bool(args.squared_budget))
        terms["loss_budget"] = args.budget_weight * distance
        return terms

    def _soft_fraction(self) -> torch.Tensor:
        """g(V) as a fraction of the original."""
        return soft_cost(self.masked, self.budget.kind) / self.full_cost

    @torch.no_grad()
    def _progress(self, ratio: float) -> dict[str, float]:
        kind, physical = self.budget.kind, self.budget.cost(physical_shape(self.masked.model))
        progress = {kind: float(self._soft_fraction()), f"{kind}_live": physical / self.budget.original}
        return progress | {"lambda": self.masked.lam, "mask_ratio": ratio}

    def _prune_if_due(self, engine: Engine) -> None:
        """Algorithm 1, lines 9 to 15; at the last step of the search, the budget's rule."""
        done, args = engine.global_step + 1, self.args
        last = args.search_steps or args.max_steps
        every = args.prune_steps or max(1, engine.steps_per_epoch // 3)
        if self.over or (done % every and done < last):
            return
        # a list, so that every mask drops its cells
        dropped = [mask.drop_cells(args.eta) for mask in self.masked.masks.values() if not mask.decided]
        changed = cut_to_live(self.masked, engine.optimizer.optimizer) if any(dropped) else []
        self.over = self.decided_by_search = self.masked.decided and self._holds()
        # All decided and still too large: no step could change that, only the rule.
        if not self.over and (self.masked.decided or done >= last):
            changed += self._finish(engine)
        if changed:
            engine.prepare_again()
        if engine.accelerator.is_main_process:
            self._record(engine, changed, done)

    def _finish(self, engine: Engine) -> list[str]:
        """Where the search leaves something undecided or too large: cells with the least bi-mask per MAC leave until
        the budget holds; what then is undecided keeps the size that it has."""
        optimizer = engine.optimizer.optimizer
        self.enforced = enforce(self.masked, self.options, self.budget, optimizer)
        for mask in self.masked.masks.values():
            mask.settle()
        self.over = True
        return [removal["submodule"] for removal in self.enforced]

    def _holds(self) -> bool:
        return self.budget.cost(physical_shape(self.masked.model)) <= self.budget.limit

    def _record(self, engine: Engine, removed: list[str], step: int = 0) -> None:
        macs = count_macs(physical_shape(self.masked.model))
        self.history.append(self.masked, step=step, macs=macs, removed=removed)

    def describe(self) -> dict[str, Any]:
        """The shapes as they are; see [`training.engine.Shape`]."""
        masks = self.masked.masks.items()
        sizes = {name: {"group_sizes": mask.group_sizes, "unit_sizes": mask.unit_sizes} for name, mask in masks}
        flags = {"over": self.over, "decided_by_search": self.decided_by_search, "enforced": self.enforced}
        return {"masks": sizes, **flags}

    def restore(self, engine: Engine, described: dict[str, Any]) -> None:
        """Brings a freshly built search to the described shapes."""
        for name, sizes in described["masks"].items():
            submodule, mask = self.masked.submodules[name], self.masked.masks[name]
            resize(submodule, mask, sizes["group_sizes"], sizes["unit_sizes"], engine.optimizer.optimizer)
        self.over, self.enforced = described["over"], described["enforced"]
        self.decided_by_search = described["decided_by_search"]
        engine.prepare_again()

    def report(self) -> dict[str, Any]:
        """What was asked for and what was found, as plain JSON data."""
        found = physical_shape(self.masked.model)
        sizes = {"found": found, "original": self.original, "smallest": self.smallest}
        counts = {k: {"macs": count_macs(shape), "params": count_parameters(shape)} for k, shape in sizes.items()}
        return {
            "budget": self.budget.limit,
            "budget_kind": self.budget.kind,
            **counts["found"],
            "original": counts["original"],
            "smallest": counts["smallest"],
            "decided_by_search": self.decided_by_search,
            "enforced": self.enforced,
            "steps": self.args.max_steps,
            "search_steps": self.args.search_steps,
            "architecture": architecture(self.masked.model),
            "preset": self.args.preset,
            "seed": self.args.seed,
        }


MASK_TERMS = ("loss_entropy", "loss_variance", "loss_l1", "loss_budget")

__all__ = ["BiMaskSearch", "train_bimask"]
