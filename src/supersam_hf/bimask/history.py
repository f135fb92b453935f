"""The course of a search, a JSON line at its beginning and at every pruning: what Fig. 5 and 6 of OFB show."""

import json
from pathlib import Path
from typing import Any

import torch

from ..files import open_no_link, whole_lines, write_whole
from .extract import architecture
from .masking import MaskedModel
from .scores import BiMask


# Values kept of each distribution: enough for a curve.
POINTS = 64


class SearchHistory:
    """Writes `history.jsonl`.

    Args:
        path (`Path`): The file; its folder is made when the first line is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def forget_after(self, step: int) -> None:
        """Removes the lines beyond `step`: a resumed search writes them again."""
        if self.path.exists():
            kept = [line for line in whole_lines(self.path) if 0 < step >= json.loads(line)["step"]]
            write_whole(self.path, "".join(f"{line}\n" for line in kept))

    def append(self, masked: MaskedModel, *, step: int, macs: int, removed: list[str]) -> None:
        """One line: sizes, and for every submodule S and m in the order of S, and p."""
        line = {
            "step": step,
            "lambda": masked.lam,
            "macs": macs,
            "architecture": architecture(masked.model),
            "submodules": {name: distributions(mask, masked.lam) for name, mask in masked.masks.items()},
            "removed": removed,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8", opener=open_no_link) as file:
            file.write(json.dumps(line) + "\n")


@torch.no_grad()
def distributions(mask: BiMask, lam: float) -> dict[str, Any]:
    """Importance in descending order, and the bi-mask of the same units, at up to 64 evenly spaced ranks."""
    importance, order = mask.importance().flatten().sort(descending=True, stable=True)
    bimask = mask(lam).flatten()[order]
    ranks = torch.linspace(0, len(order) - 1, min(POINTS, len(order))).round().long().to(order.device)
    return {
        "importance": _rounded(importance[ranks]),
        "bimask": _rounded(bimask[ranks]),
        "probabilities": [_rounded(row) for row in mask.probabilities()],
        "group_sizes": list(mask.group_sizes),
        "unit_sizes": list(mask.unit_sizes),
    }


def _rounded(values: torch.Tensor) -> list[float]:
    return [round(value, 5) for value in values.tolist()]


__all__ = ["SearchHistory", "distributions"]
