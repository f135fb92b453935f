"""A recipe of OFB: every value of a run, one section a stage. What the YAML files and the command line fill in."""

from dataclasses import dataclass, field, replace
from typing import Literal

from .bimask.space import SearchSpace
from .data.classification_arguments import ImageClassificationArguments
from .fields import Checked, Count, Place, Positive, Side, Text, Whole
from .oneshot.arguments import PruneArguments
from .recipe import RunRecipe
from .training.bimask import BiMaskArguments
from .training.finetune import ClassifierFinetuneArguments
from .training.pretrain_classifier import PretrainClassifierArguments


@dataclass
class OfbModelArguments(Checked):
    """The ViT, DeiT or Swin classifier to start from."""

    name: Place | None = None
    """Hub id or folder of a ViT, DeiT, Swin or OFB classifier (facebook/deit-small-patch16-224,
    microsoft/swin-tiny-patch4-window7-224, ...); not needed with pretrain.enabled."""
    revision: Text | None = None
    """Branch, tag or commit on the Hub."""
    image_size: Side | None = None
    """Input size in px a side, positions interpolated; null: the checkpoint's."""
    attn_implementation: Literal["sdpa", "eager"] = "sdpa"
    """Attention kernel."""
    new_labels: bool = False
    """Transfer: a new head for the dataset's classes; false: the dataset's classes are found in the checkpoint by
    name, and the head's other rows are left out."""


@dataclass
class WholeArguments(Checked):
    """Training of the whole network before it is pruned at once. All that is not here is as in `finetune`, without its
    distillation."""

    enabled: bool = True
    """With method one-shot: train the whole network first, so that importance is measured on a network that knows the
    data, and what is left can learn from it."""
    max_steps: Count | None = None
    """Optimiser steps; null: a third of those of `finetune`."""
    learning_rate: Positive | None = None
    """AdamW's peak learning rate; null: that of `finetune`."""


@dataclass
class EvaluateClassifierArguments(Checked):
    """Evaluation on the evaluation split."""

    original: Place | None = None
    """Checkpoint of the original's row; null: the model that the run starts from."""


@dataclass
class MeasureClassifierArguments(Checked):
    """Latency of one image and throughput of a batch, original and found model in interleaved rounds."""

    enabled: bool = True
    """Measure in the pipeline's report."""
    batch_size: Count = 64
    """Images a forward for throughput; latency is that of one image."""
    repeats: Count = 20
    """Timed forwards; median and spread are reported."""
    warmup: Whole = 3
    """Forwards before timing."""


@dataclass
class OfbRecipe(RunRecipe):
    """An OFB run."""

    output_dir: Place = "runs/ofb"
    """Folder of everything the run writes. A stage whose output is there is not run again."""
    holdout_images: Whole = 0
    """Training images kept out of training, drawn by `data.seed`, for what `eval_steps` shows; 0: it shows the
    evaluation split. Nothing is chosen by either."""
    method: Literal["bimask", "one-shot"] = "bimask"
    """How `run` finds the smaller network: bimask: `search` learns which units matter while it trains; one-shot:
    `train-whole` trains the whole network, `prune` cuts it at once, `finetune` trains what is left."""
    retrain: bool = True
    """In the pipeline, retrain the found model; false: it stays as it comes out of the search."""
    model: OfbModelArguments = field(default_factory=OfbModelArguments)
    data: ImageClassificationArguments = field(default_factory=ImageClassificationArguments)
    pretrain: PretrainClassifierArguments = field(default_factory=PretrainClassifierArguments)
    space: SearchSpace = field(default_factory=SearchSpace)
    """With `search.preset: official`, a section that says nothing stands for the released space."""
    search: BiMaskArguments = field(default_factory=BiMaskArguments)
    whole: WholeArguments = field(default_factory=WholeArguments)
    prune: PruneArguments = field(default_factory=PruneArguments)
    finetune: ClassifierFinetuneArguments = field(default_factory=ClassifierFinetuneArguments)
    evaluate: EvaluateClassifierArguments = field(default_factory=EvaluateClassifierArguments)
    measure: MeasureClassifierArguments = field(default_factory=MeasureClassifierArguments)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model.name is None and not self.pretrain.enabled:
            raise ValueError(
                "`model.name` is missing: give a ViT or DeiT classifier (Hub id or folder), or set "
                "`pretrain.enabled: true`."
            )
        if self.model.new_labels and self.pretrain.enabled:
            raise ValueError("`model.new_labels` is for checkpoints; with `pretrain.enabled` the head is new anyway.")
        if self.search.preset == "official" and self.space == SearchSpace():
            self.space = SearchSpace.official()
        self.prune.adopt_budget(self.search)
        if self.model.new_labels and self.method == "one-shot" and not self.whole.enabled:
            raise ValueError(
                "`model.new_labels` gives the model an untrained head, by whose loss no unit's importance can be "
                "told: leave `whole.enabled` true."
            )
        self.share_seed(self.data, self.pretrain, self.search, self.prune, self.finetune)

    @property
    def whole_training(self) -> ClassifierFinetuneArguments:
        """The training of the whole network, every value."""
        args, whole = self.finetune, self.whole
        steps = max(1, args.max_steps // 3) if whole.max_steps is None else whole.max_steps
        return replace(
            args,
            max_steps=steps,
            warmup_steps=min(args.warmup_steps, steps - 1),
            learning_rate=args.learning_rate if whole.learning_rate is None else whole.learning_rate,
            teacher=None,
            loss=replace(args.loss, distillation="none"),
        )


__all__ = [
    "EvaluateClassifierArguments",
    "MeasureClassifierArguments",
    "OfbModelArguments",
    "OfbRecipe",
    "WholeArguments",
]
