"""Evolutionary search, as Once-for-All searches its supernet (Cai et al., 2019), one subnet at a time."""

import torch

from ..models.supersam.elastic_supersam import ElasticSpace, Subnet
from .engine import SearchEngine


# How often a child that was asked for before is replaced by another one.
MAX_RETRIES = 100
# How many random subnets are drawn for each feasible one of the population, at most.
MAX_DRAWS = 20


class EvolutionEngine(SearchEngine):
    """Random subnets first, then children of the best ones so far.

    A gene is one elastic layer: whether it is kept, and its windows. Half of the children are mutated copies of one
    parent (each gene drawn anew with probability `mutation`), half are crossovers of two (each gene from either).
    Once-for-All draws whole generations of 100; this draws one child at a time, which suits tens of trials.

    Args:
        space (`ElasticSpace`): Where to search.
        seed (`int`): Same seed and same scores, same asks.
        population (`int`, *optional*, defaults to 16): How many feasible random subnets come before the first child.
        parents (`int`, *optional*, defaults to 4): Children descend from this many of the best subnets so far.
        mutation (`float`, *optional*, defaults to 0.1): Probability, in (0, 1], that a mutated gene is drawn anew.
    """

    def __init__(
        self, space: ElasticSpace, seed: int, population: int = 16, parents: int = 4, mutation: float = 0.1
    ) -> None:
        if population < 1 or parents < 1:
            raise ValueError(f"`population` and `parents` must be at least 1, got {population} and {parents}.")
        if not 0 < mutation <= 1:
            raise ValueError(f"`mutation` must lie in (0, 1], got {mutation}.")
        self.space = space
        self.population = population
        self.parents = parents
        self.mutation = mutation
        self.generator = torch.Generator().manual_seed(seed)
        self.asked: dict[Subnet, int] = {}
        self.scores: dict[Subnet, float] = {}

    def ask(self) -> Subnet:
        child = self._child() if self.asked else self.space.smallest()
        for _ in range(MAX_RETRIES):
            if child not in self.asked:
                break
            child = self._child()
        self.asked[child] = self.asked.get(child, 0) + 1
        return child

    def tell(self, subnet: Subnet, score: float | None) -> None:
        if score is not None:
            self.scores[subnet] = score

    def close(self) -> None:
        """Holds nothing."""

    def _child(self) -> Subnet:
        # Infeasible subnets have no score. Where nearly all are, the children descend from the few that are not.
        growing = len(self.scores) < self.population and len(self.asked) < MAX_DRAWS * self.population
        if growing or not self.scores:
            return self.space.sample(self.generator)
        best = sorted(self.scores, key=lambda subnet: -self.scores[subnet])[: self.parents]
        if self._uniform() < 0.5:
            return self._mix(self._pick(best), self.space.sample(self.generator), self.mutation)
        return self._mix(self._pick(best), self._pick(best), 0.5)

    def _uniform(self) -> float:
        return float(torch.rand((), generator=self.generator, dtype=torch.float64))

    def _pick(self, subnets: list[Subnet]) -> Subnet:
        return subnets[int(self._uniform() * len(subnets))]

    def _mix(self, a: Subnet, b: Subnet, probability: float) -> Subnet:
        """`a` with each elastic layer taken from `b` with this probability."""
        removed, mlp, head = [], {}, {}
        for layer in self.space.elastic_layers:
            source = b if self._uniform() < probability else a
            if layer not in source.layers:
                removed.append(layer)
                continue
            position = source.layers.index(layer)
            mlp[layer], head[layer] = source.mlp_dim[position], source.head_dim[position]
        return self.space.subnet(tuple(removed), mlp, head)
