"""Bi-mask search on the image encoder of a SAM, with the loss of its masks: OFB's search where SuperSAM samples."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from ..bimask.space import SearchSpace
from ..evaluation import PROMPTS
from ..fields import FieldError, Positive
from ..measure.cost import CostMeter
from ..models.supersam import SuperSamModel
from .bimask import BiMaskTrainer, new_search
from .bimask_arguments import MaskSearchArguments
from .context import data_context
from .engine import Engine
from .losses import LossArguments, mask_loss
from .sandwich import freeze_prompt_encoder


def encoder_space() -> SearchSpace:
    """OFB's Table 1 without the embedding; heads one by one, as the layers of a small SAM have few."""
    return SearchSpace(heads=[1, None, 1], embedding_ratio=None)


@dataclass
class SamBiMaskArguments(MaskSearchArguments):
    """Bi-mask search on the image encoder of a SAM: MLP widths, heads and Q-K-V channels."""

    learning_rate: Positive = 1e-4
    """AdamW's peak rate of the weights."""
    space: SearchSpace = field(default_factory=encoder_space)
    """What is searched; the embedding cannot be."""
    loss: LossArguments = field(default_factory=LossArguments)
    """Loss terms."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.space.embedding_ratio is not None:
            raise FieldError("space.embedding_ratio", "must be null: the embedding of a SAM keeps its width.")


class MaskTerms:
    """The loss of the masks for a batch's prompts; there is no masked image modelling."""

    def __init__(self, args: LossArguments) -> None:
        self.args = args

    def begin(self, engine: Engine) -> None:
        pass

    def mask_ratio(self, step: int) -> float:
        return 0.0

    def __call__(
        self, engine: Engine, batch: dict[str, torch.Tensor], ratio: float, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        prompts = {name: batch[name] for name in PROMPTS if name in batch}
        outputs = engine.model(pixel_values=batch["pixel_values"], multimask_output=False, **prompts)
        logits, ious = outputs.pred_masks[:, :, 0], outputs.iou_scores[:, :, 0]
        return {"loss_mask": mask_loss(logits, ious, batch["low_res_masks"], self.args, None)}


def train_sam_bimask(
    model: SuperSamModel,
    loader: DataLoader,
    args: SamBiMaskArguments,
    output_dir: Path | str,
    *,
    evaluate: Callable[[Engine], dict[str, float]] | None = None,
    meter: CostMeter | None = None,
) -> tuple[SuperSamModel, dict[str, Any]]:
    """Searches the image encoder of `model` for one within the budget, and trains it; `model` is used up.

    Args:
        model ([`SuperSamModel`]): Any SAM, pretrained.
        loader (`DataLoader`): From `data.build_loader`, training mode.
        args ([`SamBiMaskArguments`]): Multiply-accumulates are the image encoder's, parameters the whole model's.
        output_dir (`Path` or `str`): Takes `log.jsonl`, `history.jsonl` and the checkpoints from which an interrupted
            search goes on.
        evaluate (`Callable`, *optional*): Metrics by name, every `eval_steps`; `engine.unwrapped` is the masked model.
        meter ([`CostMeter`], *optional*): Counts what the training costs.

    Returns:
        `tuple`: The found network, standalone, its config's `search` saying how it was found; and the report: budget,
        size, architecture, and what the budget's rule had to remove (`enforced`).

    Raises:
        ValueError: If no network of the space meets the budget (saying what the smallest is).
        NonFiniteLossError: If a loss term becomes NaN or infinite, naming step and term.
    """
    freeze_prompt_encoder(model)
    search = new_search(model, args.space, args, Path(output_dir))
    context = {"space": vars(args.space), "data": data_context(loader)}
    trainer = BiMaskTrainer(search, args, MaskTerms(args.loss))
    return trainer.fit(loader, Path(output_dir), context, evaluate, meter)


__all__ = ["SamBiMaskArguments", "encoder_space", "train_sam_bimask"]
