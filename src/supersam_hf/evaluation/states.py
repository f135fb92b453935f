"""What subnets of one model share, kept within a limit."""

from collections import defaultdict

import torch


# One residual block: its layer, 0 for attention or 1 for the MLP, and its window. And a subnet as the blocks it runs.
Step = tuple[int, int, int]
Path = tuple[Step, ...]


class StateStore:
    """Hidden states of batches after leading blocks, those after few blocks first: more subnets begin with them.

    Where there is no room, states after more blocks make room; those after as many stay, as a pass over all batches
    would otherwise push out what the next pass begins with.

    Args:
        limit (`int`): Most bytes.

    Attributes:
        nbytes (`int`): Bytes that are kept now, reserved ones included.
        peak (`int`): Most bytes that were kept at a time.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.nbytes = self.peak = 0
        # by depth, then by number of the batch and path; and the bytes of a depth
        self._states: dict[int, dict[tuple[int, Path], torch.Tensor]] = defaultdict(dict)
        self._sizes: dict[int, int] = defaultdict(int)

    def get(self, number: int, path: Path) -> torch.Tensor | None:
        """The state of a batch after these blocks, if it is kept."""
        return self._states[len(path)].get((number, path))

    def put(self, number: int, path: Path, state: torch.Tensor) -> None:
        """Keeps a state if there is room."""
        if self._make_room(state.nbytes, len(path)):
            self._states[len(path)][number, path] = state
            self._sizes[len(path)] += state.nbytes
            self._count(state.nbytes)

    def reserve(self, nbytes: int) -> bool:
        """Takes room for something else, for which any state makes room; False if there is not so much."""
        if not self._make_room(nbytes, -1):
            return False
        self._count(nbytes)
        return True

    def _count(self, nbytes: int) -> None:
        self.nbytes += nbytes
        self.peak = max(self.peak, self.nbytes)

    def _make_room(self, nbytes: int, depth: int) -> bool:
        """Drops states after more blocks than `depth`, most blocks first, if that is enough."""
        missing = self.nbytes + nbytes - self.limit
        deeper = sorted((d for d, size in self._sizes.items() if d > depth and size), reverse=True)
        if missing > sum(self._sizes[d] for d in deeper):
            return False
        for d in deeper:
            while self._states[d] and self.nbytes + nbytes > self.limit:
                dropped = self._states[d].popitem()[1].nbytes
                self._sizes[d] -= dropped
                self.nbytes -= dropped
        return True


__all__ = ["Path", "StateStore", "Step"]
