"""Instance mIoU of many subnets of one supernet, what they share computed once."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from ..data.loader import shared
from ..models.supersam import ElasticSpace, Subnet
from .decoding import EmbeddedPrompts
from .result import EvaluationResult, by_image, evaluating, no_sums, object_ious, result_of, summed
from .states import Path, StateStore, Step
from .targets import Targets


logger = logging.getLogger(__name__)

CACHE_GB = 4.0


@dataclass(frozen=True)
class PreparedBatch:
    """What all subnets see of a batch: the state after `root`, prompts and targets."""

    state: torch.Tensor
    prompts: EmbeddedPrompts
    targets: Targets

    @property
    def nbytes(self) -> int:
        return self.state.nbytes + self.prompts.nbytes + self.targets.nbytes


class SubnetEvaluator:
    """Evaluates subnets as `evaluate` does each of them, with equal results, in less time.

    Batches are loaded, and what no subnet changes of them computed, once: the targets, the embedded prompts, and what
    comes out of the leading layers that `space` leaves alone. Subnets of one call go through the residual blocks
    (attention, then MLP, of each layer) depth first, a trie of them, a batch at a time, so that a block runs once for
    all that share it and those before; later calls go on from states that are still kept.

    As long as it lives, the model's weights must not change.

    Args:
        model (`SuperSamModel`): In any mode; it is evaluated in eval mode.
        loader (`DataLoader`): From `data.build_loader`, evaluation mode.
        space (`ElasticSpace`, *optional*): Where all subnets are from; without it, none of the layers is known to be
            left alone, and images themselves are kept as they are embedded.
        accelerator (`Accelerator`, *optional*): Splits the batches over its processes, and says the precision.
        cache_gb (`float`): Most that is kept from batch to batch, in GB (10^9 bytes), on the model's device. What
            does not fit is loaded and computed anew. Beside it, what is under way takes a state of one batch a block
            at most.

    Raises:
        ValueError: If `cache_gb` is negative.
    """

    def __init__(
        self,
        model: Any,
        loader: DataLoader,
        *,
        space: ElasticSpace | None = None,
        accelerator: Accelerator | None = None,
        cache_gb: float = CACHE_GB,
    ) -> None:
        if not cache_gb >= 0:
            raise ValueError(f"`cache_gb` is {cache_gb}; give 0 or more, in GB.")
        self.model, self.loader, self.accelerator = model, loader, accelerator
        self.store = StateStore(int(cache_gb * 1e9))
        self._root = () if space is None else root_of(space)
        self._kept: list[PreparedBatch] = []
        self._complete = self._told = False

    def miou(self, subnet: Subnet | None) -> float:
        """mIoU of one subnet's single mask; None is the largest."""
        return self.mious([subnet])[0]

    def mious(self, subnets: Sequence[Subnet | None]) -> list[float]:
        """mIoU of each subnet's single mask: what ranking and search ask for."""
        return [result.miou for result in self.results(subnets, multimask=False)]

    def results(self, subnets: Sequence[Subnet | None], *, multimask: bool = True) -> list[EvaluationResult]:
        """`evaluate` of each subnet (None: the largest).

        Args:
            multimask (`bool`): Also look at the three-mask output.

        Raises:
            ValueError: If a subnet does not fit the model, is not of `space`, or no image shows an object.
        """
        paths = [self._path(subnet) for subnet in subnets]
        ordered = sorted(set(paths))
        sums = {path: no_sums(multimask) for path in ordered}
        images: dict[Path, list[tuple[float, int]]] = {path: [] for path in ordered}
        with evaluating(self.model, self.accelerator):
            for number, batch in self._batches():
                for path, embeddings in self._embeddings(number, batch.state, len(self._root), ordered):
                    ious = object_ious(self.model, embeddings, batch.prompts, batch.targets, multimask)
                    sums[path] += summed(ious)
                    images[path] += by_image(ious, batch.prompts.owner)
        results = {path: result_of(sums[path], self.accelerator, images[path]) for path in ordered}
        return [results[path] for path in paths]

    def _path(self, subnet: Subnet | None) -> Path:
        subnet = self.model.vision_encoder.checked(subnet)
        path = blocks(zip(subnet.layers, subnet.mlp_dim, subnet.head_dim))
        if path[: len(self._root)] != self._root:
            raise ValueError(f"{subnet.to_json()} changes layers that `space` leaves alone; it is not of this space.")
        return path

    def _batches(self) -> Iterator[tuple[int, PreparedBatch]]:
        """All batches of this process, by number: those that are kept, and the others, loaded now."""
        yield from enumerate(self._kept)
        if self._complete:
            return
        rank, world = (self.accelerator.process_index, self.accelerator.num_processes) if self.accelerator else (0, 1)
        with shared(self.loader, rank, world):
            for number, loaded in self._loaded(len(self._kept)):
                batch = self._prepared(loaded)
                # leading ones alone, so that a pass can begin after them
                if number == len(self._kept) and self.store.reserve(batch.nbytes):
                    self._kept.append(batch)
                yield number, batch
            self._tell(len(self.loader))

    def _loaded(self, first: int) -> Iterator[tuple[int, Mapping[str, torch.Tensor]]]:
        """The batches of the loader from the `first` on, by number."""
        batches: Any = self.loader.batch_sampler
        batches.begin(0, first)
        try:
            yield from enumerate(self.loader, start=first)
        finally:
            batches.begin(0)

    def _tell(self, total: int) -> None:
        """Says once, after a first pass, what does not fit."""
        self._complete = len(self._kept) == total
        if not (self._complete or self._told):
            text = "`cache_gb` of %g holds %d of the %d evaluation batches; the others are loaded anew each time."
            logger.warning(text, self.store.limit / 1e9, len(self._kept), total)
            self._told = True

    def _prepared(self, batch: Mapping[str, torch.Tensor]) -> PreparedBatch:
        batch = {k: v.to(self.model.device) for k, v in batch.items()}
        state = self.model.vision_encoder.embed(batch["pixel_values"])
        for step in self._root:
            state = self._run(state, step)
        return PreparedBatch(state, EmbeddedPrompts.of(self.model, batch), Targets.of(batch))

    def _run(self, state: torch.Tensor, step: Step) -> torch.Tensor:
        """One residual block: (batch, grid, grid, channels) to the same."""
        layer, part, window = step
        return self.model.vision_encoder.layers[layer](state, window, window, ("attn", "mlp")[part])

    def _embeddings(
        self, number: int, state: torch.Tensor, depth: int, paths: Sequence[Path]
    ) -> Iterator[tuple[Path, torch.Tensor]]:
        """Image embeddings of each path, depth first; all share their first `depth` blocks, which `state` is after."""
        while depth < len(paths[0]) and all(path[depth : depth + 1] == paths[0][depth : depth + 1] for path in paths):
            depth += 1
            state = self._after(number, state, paths[0][:depth], keep=len(paths[-1]) > depth)
        for step, group in groupby(paths, key=lambda path: path[depth : depth + 1]):
            if not step:  # ends here
                yield paths[0], self.model.vision_encoder.neck(state)
            else:
                yield from self._embeddings(number, state, depth, list(group))

    def _after(self, number: int, state: torch.Tensor, path: Path, keep: bool) -> torch.Tensor:
        """The state after the last block of `path`, from the one before it."""
        kept = self.store.get(number, path)
        if kept is not None:
            return kept
        state = self._run(state, path[-1])
        if keep and number < len(self._kept):
            self.store.put(number, path, state)
        return state


def blocks(layers: Iterable[tuple[int, int, int]]) -> Path:
    """The residual blocks of layers (layer, MLP window, attention window)."""
    return tuple(step for layer, mlp_dim, head_dim in layers for step in ((layer, 0, head_dim), (layer, 1, mlp_dim)))


def root_of(space: ElasticSpace) -> Path:
    """The blocks of the leading layers that every subnet of a space has, and at full width."""
    layers = range(space.num_hidden_layers)
    first = next((i for i in layers if i not in space.protected_layers), space.num_hidden_layers)
    return blocks((i, space.mlp_dim, space.head_dim) for i in layers[:first])


__all__ = ["CACHE_GB", "SubnetEvaluator", "root_of"]
