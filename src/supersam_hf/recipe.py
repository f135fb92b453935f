"""A recipe: every value of a SuperSAM run, one section a stage. What the YAML files and the command line fill in."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from .data.arguments import DataArguments, DataPart, data_read
from .evaluation import CACHE_GB
from .fields import Checked, ClosedUnitInterval, Count, FieldError, NonNegative, Place, Seed, Side, Text, Whole
from .measure.energy import EnergyArguments
from .oneshot.arguments import PruneArguments
from .search.search import SearchArguments
from .training.adapt import AdaptArguments
from .training.bimask_sam import SamBiMaskArguments
from .training.pretrain import PretrainArguments
from .training.recover import RecoverArguments, SamFinetuneArguments
from .training.sandwich import SandwichArguments


@dataclass
class RunRecipe(Checked):
    """What every run has, whatever the method."""

    output_dir: Place = "runs/supersam"
    """Folder of everything the run writes. A stage whose output is there is not run again."""
    holdout_images: Whole = 100
    """Training images kept out of training."""
    seed: Seed | None = None
    """Seed of the whole run, in place of the sections' own; what is compared (evaluate, shapes) keeps its seed."""
    deterministic: bool = False
    """Only algorithms that give the same bits each time; slower, and an error where a device has none."""
    energy: EnergyArguments = field(default_factory=EnergyArguments)

    def share_seed(self, *sections: Any) -> None:
        """Gives these sections the seed of the run, if it has one."""
        if self.seed is None:
            return
        for section in sections:
            section.seed = self.seed

    def sections(self, *names: str) -> dict[str, Any]:
        """These sections as plain data, without what may change between a run and its continuation."""
        values = asdict(self)
        chosen = {name: values[name] for name in names}
        for section in chosen.values():
            if isinstance(section, dict):
                for key in ("num_workers", "report_to", "resume_from_checkpoint", "save_steps", "save_total_limit"):
                    section.pop(key, None)
                section.pop("logging_steps", None)
        return chosen

    def parts(self, *names: str) -> dict[str, Any]:
        """As [`sections`], of each only what is read: see [`read_of`]."""
        return read_of(self.sections(*(name.partition(".")[0] for name in names)), *names)


def read_of(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """What a stage reads of the sections of a recipe.

    Args:
        values (`dict`): Sections by name; those that are not there are left out.
        names (`str`): `section`, `section.field`, or `data.train`, `data.holdout`, `data.eval` for what the samples of
            that part depend on.
    """
    read: dict[str, Any] = {}
    for name in names:
        section, _, part = name.partition(".")
        if section not in values:
            continue
        value = values[section]
        if part in get_args(DataPart):
            value = data_read(value, part)  # type: ignore[arg-type]
        elif part:
            value = {part: value.get(part)}
        read[section] = read[section] | value if section in read else value
    return read


def check_model_folder(name: str | None, field: str = "model.name") -> None:
    """Raise `ValueError` for a path that is not there, which the Hub would call a wrong id."""
    is_path = name is not None and (name.startswith((".", "/", "~")) or name.count("/") > 1)
    if is_path and not Path(str(name)).is_dir():
        raise ValueError(f"`{field}` {name!r}: there is no such folder here (and an id on the Hub is `owner/name`).")


@dataclass
class ModelArguments(Checked):
    """The SAM to start from."""

    name: Place | None = None
    """Hub id or folder of a SAM or SuperSAM (facebook/sam-vit-base, ...); not needed with pretrain.enabled."""
    revision: Text | None = None
    """Branch, tag or commit on the Hub."""
    image_size: Side | None = None
    """Input size in px a side, positions interpolated; null: the checkpoint's."""
    window_size: Whole | None = None
    """Attention window in patches a side; null: the checkpoint's."""
    attn_implementation: Literal["sdpa", "eager"] = "sdpa"
    """Attention kernel."""


@dataclass
class SpaceArguments(Checked):
    """The elastic space. Nulls are filled from the supernet's own space, the layer ranking, or the paper's numbers."""

    protected_layers: list[Whole] | None = None
    """Layers neither removed nor narrowed; null: layer 0."""
    prunable_layers: list[Whole] | None = None
    """Layers a subnet may leave out; null: what rank-layers proposes, else 1 2 5 6 9 of 12."""
    prune_probability: ClosedUnitInterval | list[ClosedUnitInterval] | None = None
    """How often a prunable layer is left out when a subnet is sampled, 0 to 1; one, or one a layer; null: 0.5."""
    mlp_windows: list[Count] | None = None
    """MLP windows in hidden units; null: 1/4, 1/3, 1/2, 3/4 of the width, rounded down to a multiple of 12."""
    attention_windows: list[Count] | None = None
    """Attention windows as a width over all heads; null: attention is not elastic."""
    sample_full: bool = True
    """Sample the full width beside the windows, so that no size lies out of reach between the widest windows and the
    largest subnet; false: the windows alone (the paper)."""


@dataclass
class RankArguments(Checked):
    """Layer ranking: mIoU with each layer removed, then greedy cumulative removal."""

    enabled: bool = True
    """Run this stage in the pipeline."""
    num_images: Count = 100
    """Images of the holdout to rank on (the paper uses 100)."""
    max_removed: Whole = 6
    """Length of the greedy removal, in layers."""
    max_drop: ClosedUnitInterval = 0.1
    """Largest relative loss of mIoU that the proposed prunable set may cost."""
    max_prunable: Whole | None = None
    """Most layers proposed; null: 5 of 12."""


@dataclass
class ReorderArguments(Checked):
    """Reordering before training."""

    method: Literal["wanda", "taylor", "magnitude", "none"] = "wanda"
    """Saliency of a channel: wanda (weights times inputs), taylor (first-order change of the loss), magnitude."""
    combine: Literal["rank", "score"] = "rank"
    """Average the ranks of rows and columns (paper) or their raw scores (released code)."""
    num_images: Count = 16
    """Training images that calibrate Wanda or Taylor."""


@dataclass
class EvaluateArguments(Checked):
    """Evaluation on the evaluation split."""

    num_sampled: Whole = 20
    """Sampled subnets beside the largest and the smallest."""
    seed: Seed = 0
    """Seed of the sampled subnets."""
    multimask: bool = True
    """Also measure the three-mask output (oracle and predicted pick) of the named models."""
    before: bool = True
    """In the pipeline, evaluate before training as well."""
    original: Place | None = None
    """Checkpoint of the stock model's row; null: the model that the run starts from."""
    pareto: bool = True
    """Also evaluate the Pareto front of the search, once there is one."""
    subnets: list[Place] = field(default_factory=list)
    """JSON files of further subnets to evaluate."""


@dataclass
class MeasureArguments(Checked):
    """Latency and memory on this machine, one image with one box prompt."""

    enabled: bool = True
    """Measure in the pipeline's report."""
    batch_size: Count = 1
    """Images a forward."""
    repeats: Count = 20
    """Timed forwards; median and spread are reported."""
    warmup: Whole = 3
    """Forwards before timing."""


@dataclass
class Recipe(RunRecipe):
    """A SuperSAM run."""

    output_dir: Place = "runs/supersam"
    """Folder of everything the run writes. A stage whose output is there is not run again."""
    holdout_images: Count = 100
    """Last training images, kept out of training, to rank layers and to search on; never the evaluation split."""
    method: Literal["supernet", "one-shot"] = "supernet"
    """How `run` finds the smaller network: supernet: train all subnets at once, then search; one-shot: `prune` cuts
    to the budget at once, and `recover` trains that one network: quicker and better where one budget is all."""
    cache_gb: NonNegative = CACHE_GB
    """Most that ranking, search and evaluation keep of what subnets share, GB; what does not fit is computed anew."""
    model: ModelArguments = field(default_factory=ModelArguments)
    data: DataArguments = field(default_factory=DataArguments)
    pretrain: PretrainArguments = field(default_factory=PretrainArguments)
    space: SpaceArguments = field(default_factory=SpaceArguments)
    rank_layers: RankArguments = field(default_factory=RankArguments)
    reorder: ReorderArguments = field(default_factory=ReorderArguments)
    train: SandwichArguments = field(default_factory=SandwichArguments)
    recover: RecoverArguments = field(default_factory=RecoverArguments)
    finetune: SamFinetuneArguments = field(default_factory=SamFinetuneArguments)
    adapt: AdaptArguments = field(default_factory=AdaptArguments)
    search: SearchArguments = field(default_factory=SearchArguments)
    bimask: SamBiMaskArguments = field(default_factory=SamBiMaskArguments)
    """OFB's search on the image encoder, in place of training and searching a supernet; a verb of its own."""
    prune: PruneArguments = field(default_factory=PruneArguments)
    """One-shot pruning of the image encoder, in place of training and searching a supernet; a verb of its own."""
    evaluate: EvaluateArguments = field(default_factory=EvaluateArguments)
    measure: MeasureArguments = field(default_factory=MeasureArguments)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model.name is None and not self.pretrain.enabled:
            raise ValueError(
                "`model.name` is missing: give a SAM checkpoint (Hub id or folder), or set `pretrain.enabled: true`."
            )
        if self.pretrain.enabled and self.pretrain.mixed_precision != self.train.mixed_precision:
            raise ValueError(
                "`pretrain.mixed_precision` and `train.mixed_precision` differ; one process runs at one precision."
            )
        self.prune.adopt_budget(self.search)
        if self.method == "one-shot" and not self.prune.has_budget:
            raise ValueError("`method: one-shot` needs a budget: `prune.max_params`, `max_macs` or `max_latency_ms`.")
        alone = {"recover": self.recover, "finetune": self.finetune}
        for name, section in alone.items():
            try:
                section.fill(self.train)
            except FieldError as error:
                raise FieldError(f"{name}.{error.field}", error.text) from error
        trainings = (self.pretrain, self.train, *alone.values(), self.adapt)
        self.share_seed(self.data, *trainings, self.search, self.bimask, self.prune)
