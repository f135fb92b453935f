"""A recipe: every value of a SuperSAM run, one section a stage. What the YAML files and the command line fill in."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from .data.arguments import DataArguments
from .evaluation import CACHE_GB
from .measure.energy import EnergyArguments
from .search.search import SearchArguments
from .training.adapt import AdaptArguments
from .training.bimask_sam import SamBiMaskArguments
from .training.finetune import FinetuneArguments
from .training.pretrain import PretrainArguments
from .training.sandwich import SandwichArguments


@dataclass
class RunRecipe:
    """What every run has, whatever the method."""

    output_dir: str = "runs/supersam"
    """Folder of everything the run writes. A stage whose output is there is not run again."""
    holdout_images: int = 100
    """Training images kept out of training."""
    seed: int | None = None
    """Seed of the whole run, in place of the sections' own; what is compared (evaluate, shapes) keeps its seed."""
    deterministic: bool = False
    """Only algorithms that give the same bits each time; slower, and an error where a device has none."""
    energy: EnergyArguments = field(default_factory=EnergyArguments)

    def share_seed(self, *sections: Any) -> None:
        """Gives these sections the seed of the run, if it has one."""
        if self.seed is None:
            return
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"`seed` must be a whole number from 0 to 2**32 - 1, got {self.seed}.")
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


def check_model_folder(name: str | None, field: str = "model.name") -> None:
    """Raise `ValueError` for a path that is not there, which the Hub would call a wrong id."""
    is_path = name is not None and (name.startswith((".", "/", "~")) or name.count("/") > 1)
    if is_path and not Path(str(name)).is_dir():
        raise ValueError(f"`{field}` {name!r}: there is no such folder here (and an id on the Hub is `owner/name`).")


@dataclass
class ModelArguments:
    """The SAM to start from."""

    name: str | None = None
    """Hub id or folder of a SAM or SuperSAM (facebook/sam-vit-base, ...); not needed with pretrain.enabled."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""
    image_size: int | None = None
    """Input size in px a side, positions interpolated; null: the checkpoint's."""
    window_size: int | None = None
    """Attention window in patches a side; null: the checkpoint's."""
    attn_implementation: Literal["sdpa", "eager"] = "sdpa"
    """Attention kernel."""


@dataclass
class SpaceArguments:
    """The elastic space. Nulls are filled from the supernet's own space, the layer ranking, or the paper's numbers."""

    protected_layers: list[int] | None = None
    """Layers neither removed nor narrowed; null: layer 0."""
    prunable_layers: list[int] | None = None
    """Layers a subnet may leave out; null: what rank-layers proposes, else 1 2 5 6 9 of 12."""
    prune_probability: float | list[float] | None = None
    """How often a prunable layer is left out when a subnet is sampled, 0 to 1; one, or one a layer; null: 0.5."""
    mlp_windows: list[int] | None = None
    """MLP windows in hidden units; null: 1/4, 1/3, 1/2, 3/4 of the width, rounded down to a multiple of 12."""
    attention_windows: list[int] | None = None
    """Attention windows as a width over all heads; null: attention is not elastic."""


@dataclass
class RankArguments:
    """Layer ranking: mIoU with each layer removed, then greedy cumulative removal."""

    enabled: bool = True
    """Run this stage in the pipeline."""
    num_images: int = 100
    """Images of the holdout to rank on (the paper uses 100)."""
    max_removed: int = 6
    """Length of the greedy removal, in layers."""
    max_drop: float = 0.1
    """Largest relative loss of mIoU that the proposed prunable set may cost."""
    max_prunable: int | None = None
    """Most layers proposed; null: 5 of 12."""


@dataclass
class ReorderArguments:
    """Reordering before training."""

    method: Literal["wanda", "magnitude", "none"] = "wanda"
    """Saliency of a channel."""
    combine: Literal["rank", "score"] = "rank"
    """Average the ranks of rows and columns (paper) or their raw scores (released code)."""
    num_images: int = 16
    """Training images that calibrate Wanda."""


@dataclass
class EvaluateArguments:
    """Evaluation on the evaluation split."""

    num_sampled: int = 20
    """Sampled subnets beside the largest and the smallest."""
    seed: int = 0
    """Seed of the sampled subnets."""
    multimask: bool = True
    """Also measure the three-mask output (oracle and predicted pick) of the named models."""
    before: bool = True
    """In the pipeline, evaluate before training as well."""
    original: str | None = None
    """Checkpoint of the stock model's row; null: the model that the run starts from."""
    pareto: bool = True
    """Also evaluate the Pareto front of the search, once there is one."""
    subnets: list[str] = field(default_factory=list)
    """JSON files of further subnets to evaluate."""


@dataclass
class MeasureArguments:
    """Latency and memory on this machine, one image with one box prompt."""

    enabled: bool = True
    """Measure in the pipeline's report."""
    batch_size: int = 1
    """Images a forward."""
    repeats: int = 20
    """Timed forwards; median and spread are reported."""
    warmup: int = 3
    """Forwards before timing."""


@dataclass
class Recipe(RunRecipe):
    """A SuperSAM run."""

    output_dir: str = "runs/supersam"
    """Folder of everything the run writes. A stage whose output is there is not run again."""
    holdout_images: int = 100
    """Last training images, kept out of training, to rank layers and to search on; never the evaluation split."""
    cache_gb: float = CACHE_GB
    """Most that ranking, search and evaluation keep of what subnets share, GB; what does not fit is computed anew."""
    model: ModelArguments = field(default_factory=ModelArguments)
    data: DataArguments = field(default_factory=DataArguments)
    pretrain: PretrainArguments = field(default_factory=PretrainArguments)
    space: SpaceArguments = field(default_factory=SpaceArguments)
    rank_layers: RankArguments = field(default_factory=RankArguments)
    reorder: ReorderArguments = field(default_factory=ReorderArguments)
    train: SandwichArguments = field(default_factory=SandwichArguments)
    finetune: FinetuneArguments = field(default_factory=FinetuneArguments)
    adapt: AdaptArguments = field(default_factory=AdaptArguments)
    search: SearchArguments = field(default_factory=SearchArguments)
    bimask: SamBiMaskArguments = field(default_factory=SamBiMaskArguments)
    """OFB's search on the image encoder, in place of training and searching a supernet; a verb of its own."""
    evaluate: EvaluateArguments = field(default_factory=EvaluateArguments)
    measure: MeasureArguments = field(default_factory=MeasureArguments)

    def __post_init__(self) -> None:
        if self.model.name is None and not self.pretrain.enabled:
            raise ValueError(
                "`model.name` is missing: give a SAM checkpoint (Hub id or folder), or set `pretrain.enabled: true`."
            )
        if self.holdout_images < 1:
            raise ValueError(f"`holdout_images` must be 1 or more, got {self.holdout_images}.")
        if not self.cache_gb >= 0:
            raise ValueError(f"`cache_gb` must be 0 or more, in GB, got {self.cache_gb}.")
        if self.pretrain.enabled and self.pretrain.mixed_precision != self.train.mixed_precision:
            raise ValueError(
                "`pretrain.mixed_precision` and `train.mixed_precision` differ; one process runs at one precision."
            )
        self.share_seed(self.data, self.pretrain, self.train, self.finetune, self.adapt, self.search, self.bimask)
