"""What a search engine is: it asks for a subnet and is told how good it was."""

from abc import ABC, abstractmethod

from ..models.supersam.elastic_supersam import Subnet


class SearchEngine(ABC):
    """Proposes subnets of an elastic space.

    Every engine asks for the smallest subnet first, and asks for the same subnets when it is made with the same seed
    and told the same scores in the same order: that is what lets a search resume from its log. Several asks may be
    open at a time, and the same subnet may be asked for more than once; each ask is told once.
    """

    @abstractmethod
    def ask(self) -> Subnet | None:
        """The next subnet to try; None when the engine finds nothing new any more."""

    @abstractmethod
    def tell(self, subnet: Subnet, score: float | None) -> None:
        """Reports on a subnet that was asked for: its score (higher is better), or None if it is infeasible."""

    @abstractmethod
    def close(self) -> None:
        """Frees what the engine holds."""
