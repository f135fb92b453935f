"""The Pareto front: what no other point beats in both cost and quality."""

from collections.abc import Callable, Iterable
from typing import TypeVar


Point = TypeVar("Point")


def pareto_front(
    points: Iterable[Point], cost: Callable[[Point], float], quality: Callable[[Point], float]
) -> list[Point]:
    """The points that no other point dominates, by ascending cost.

    A point dominates another if it costs no more and is no worse, and is strictly better in one of the two. Equal
    points do not dominate each other: all of them are kept.

    Args:
        points (`Iterable[Point]`): Anything.
        cost (`Callable[[Point], float]`): Lower is better.
        quality (`Callable[[Point], float]`): Higher is better.
    """
    front: list[Point] = []
    # Of equal cost the best comes first, so one sweep that only compares with the last kept point is enough.
    for point in sorted(points, key=lambda p: (cost(p), -quality(p))):
        better = not front or quality(point) > quality(front[-1])
        equal = bool(front) and (cost(point), quality(point)) == (cost(front[-1]), quality(front[-1]))
        if better or equal:
            front.append(point)
    return front


def named_front(front: Iterable[Point]) -> dict[str, Point]:
    """The points of a front, by ascending cost, under the names that they are asked for by: `pareto-0` costs least."""
    return {f"pareto-{i}": point for i, point in enumerate(front)}
