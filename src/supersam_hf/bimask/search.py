"""A bi-mask search as it stands: the masked model, its budget, what was cut so far, and what is left to decide."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..elastic.cost import count_macs, count_parameters
from .budget import SearchBudget, enforce, make_budget
from .cost import full_cost, physical_shape, smallest_shape, soft_cost
from .extract import architecture
from .history import SearchHistory
from .masking import MaskedModel
from .prune import cut_to_live, resize
from .space import SearchSpace


class BiMaskSearch:
    """Prunes a masked model step by step (OFB, Alg. 1) until every submodule is decided and the budget holds.

    Args:
        model (`PreTrainedModel`): Of one of the families (`families/`). Pretrained; used up.
        space ([`SearchSpace`]): What is searched.
        output_dir (`Path`): Takes `history.jsonl`.
        max_macs, max_params (`float`, *optional*): The budget, see [`make_budget`].
        pace (`Callable`, *optional*): Time of a network of given sizes, as a share of what was asked for: where it is
            above 1 at the end of the search, the budget is lowered and enforced until it is not.
        seed (`int`): Draws scores, architecture parameters and the decoder of PMIM.
        masks (`Any`): Further arguments of [`MaskedModel`].

    Attributes:
        masked ([`MaskedModel`]): What is trained.
        over (`bool`): Whether everything is decided and the budget holds.
        decided_by_search (`bool`): Whether it came so without the budget's rule.
        enforced (`list[dict]`): What the budget's rule removed.
    """

    def __init__(
        self,
        model: Any,
        space: SearchSpace,
        output_dir: Path,
        *,
        max_macs: float | None = None,
        max_params: float | None = None,
        pace: Any = None,
        seed: int = 0,
        **masks: Any,
    ) -> None:
        self.original = physical_shape(model)
        self.smallest = smallest_shape(self.original, space)
        self.budget: SearchBudget = make_budget(self.original, space, max_macs, max_params)
        self.full_cost = full_cost(self.original, self.budget.kind)
        torch.manual_seed(seed)  # for the decoder
        self.masked = MaskedModel(model, space, generator=torch.Generator().manual_seed(seed), **masks)
        # copies: the masks' own lists become shorter
        self.options = {n: (list(m.group_sizes), list(m.unit_sizes)) for n, m in self.masked.masks.items()}
        self.pace = pace
        self.history = SearchHistory(output_dir / "history.jsonl")
        self.enforced: list[dict[str, Any]] = []
        self.decided_by_search = False
        self.over = False

    def soft_fraction(self) -> torch.Tensor:
        """g(V) as a fraction of the original, with the scores of the last forward."""
        return soft_cost(self.masked, self.budget.kind, self.masked.values) / self.full_cost

    def live_fraction(self) -> float:
        """What the network has as it stands, as a fraction of the original."""
        return self.budget.cost(physical_shape(self.masked.model)) / self.budget.original

    def prune(self, eta: float, optimizer: torch.optim.Optimizer, *, last: bool) -> list[str]:
        """Algorithm 1, lines 10 to 14, and the budget's rule where pruning cannot reach the budget any more.

        Args:
            eta (`float`): Cells with p <= eta times the mean leave.
            last (`bool`): Whether the search must end now.

        Returns:
            `list[str]`: The submodules that became smaller; parameters were replaced if there are any.
        """
        # a list, so that every mask drops its cells
        dropped = [mask.drop_cells(eta) for mask in self.masked.masks.values() if not mask.decided]
        changed = cut_to_live(self.masked, optimizer) if any(dropped) else []
        self.over = self.decided_by_search = self.masked.decided and self._holds()
        # All decided and still too large: no step could change that, only the rule.
        if not self.over and (self.masked.decided or last):
            changed += self._enforce(optimizer)
        if self.over and self.pace is not None:
            changed += self._keep_pace(optimizer)
        return changed

    def _keep_pace(self, optimizer: torch.optim.Optimizer) -> list[str]:
        """Lowers the budget and enforces it until the network is as fast as was asked for, or can be no smaller."""
        changed: list[str] = []
        least = self.budget.cost(self.smallest)
        while (cost := self.budget.cost(shape := physical_shape(self.masked.model))) > least:
            share = self.pace(shape)
            if share <= 1:
                break
            self.budget = replace(self.budget, limit=max(least, min(cost - 1, int(cost / share))))
            self.decided_by_search = False
            changed += self._enforce(optimizer)
        return changed

    def _enforce(self, optimizer: torch.optim.Optimizer) -> list[str]:
        """Cells with the least bi-mask per MAC leave until the budget holds; what then is undecided keeps its size."""
        self.enforced += enforce(self.masked, self.options, self.budget, optimizer)
        for mask in self.masked.masks.values():
            mask.settle()
        self.over = True
        return [removal["submodule"] for removal in self.enforced]

    def _holds(self) -> bool:
        return self.budget.cost(physical_shape(self.masked.model)) <= self.budget.limit

    def record(self, step: int, removed: list[str]) -> None:
        """A line of the history."""
        macs = count_macs(physical_shape(self.masked.model))
        self.history.append(self.masked, step=step, macs=macs, removed=removed)

    def describe(self) -> dict[str, Any]:
        """Sizes and options as they are, as plain JSON data: what a checkpoint needs beside the tensors."""
        masks = self.masked.masks.items()
        sizes = {name: {"group_sizes": mask.group_sizes, "unit_sizes": mask.unit_sizes} for name, mask in masks}
        flags = {"over": self.over, "decided_by_search": self.decided_by_search, "enforced": self.enforced}
        return {"masks": sizes, "limit": self.budget.limit, **flags}

    def restore(self, described: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
        """Brings a freshly built search to the described sizes; the tensors' values are to be loaded after."""
        for name, sizes in described["masks"].items():
            submodule, mask = self.masked.submodules[name], self.masked.masks[name]
            resize(submodule, mask, sizes["group_sizes"], sizes["unit_sizes"], optimizer)
        self.over, self.enforced = described["over"], described["enforced"]
        # checkpoints of versions without a latency budget have no limit of their own
        self.budget = replace(self.budget, limit=described.get("limit", self.budget.limit))
        self.decided_by_search = described["decided_by_search"]

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
            "architecture": architecture(self.masked.model),
        }


__all__ = ["BiMaskSearch"]
