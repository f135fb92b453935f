"""Random search: the baseline every engine has to beat."""

import torch

from ..models.supersam.elastic_supersam import ElasticSpace, Subnet
from .engine import SearchEngine


class RandomEngine(SearchEngine):
    """Asks for the smallest subnet, then for subnets as the sandwich rule samples them.

    Args:
        space (`ElasticSpace`): Where to search.
        seed (`int`): Same seed, same asks.
    """

    def __init__(self, space: ElasticSpace, seed: int) -> None:
        self.space = space
        self.generator = torch.Generator().manual_seed(seed)
        self.started = False

    def ask(self) -> Subnet:
        if not self.started:
            self.started = True
            return self.space.smallest()
        return self.space.sample(self.generator)

    def tell(self, subnet: Subnet, score: float | None) -> None:
        """Random search does not learn."""

    def close(self) -> None:
        """Holds nothing."""
