"""What the fuzzer breaks things with, and how it tells what may stand in a field."""

import copy
import math
import random
import types
import typing
from dataclasses import dataclass, is_dataclass
from typing import Any, Literal


Verdict = Literal["right", "clear error", "traceback", "silent nonsense", "hang", "crash"]
VERDICTS: tuple[Verdict, ...] = typing.get_args(Verdict)

JUNK: tuple[Any, ...] = (
    *(None, True, False, "", "text", "2", "-1", "nan", "a" * 5000, "../../etc/passwd", "\x00", "é\n| `x` |"),
    *(0, -1, 1, 2, 3, 7, 10**9, -(10**9), 10**30, 2**63, 0.0, 0.5, 2.7, -0.5, 1e300, 1e-320),
    *(math.nan, math.inf, -math.inf),
    *([], {}, [None], [0], [1, 1], [-1, 3], [math.nan], ["text"], [[1, 2]], {"a": 1}, {"": None}, [2.5], [10**9]),
)


@dataclass(frozen=True)
class Outcome:
    """How a case ended.

    Args:
        verdict (`str`): One of [`VERDICTS`].
        detail (`str`): What was said, or what is wrong.
    """

    verdict: Verdict
    detail: str = ""


@dataclass(frozen=True)
class Mutation:
    """One change to JSON-like data.

    Args:
        path (`tuple`): Keys and indices that lead to the value.
        how (`str`): "set", "delete", "add", "repeat" or "swap".
        value: What was set or added.
    """

    path: tuple[Any, ...]
    how: str
    value: Any = None

    @property
    def field(self) -> str:
        """The innermost name that a message can give."""
        names = [part for part in self.path if isinstance(part, str)]
        return names[-1] if names else ""

    def __str__(self) -> str:
        shown = "" if self.how in ("delete", "repeat", "swap") else f" {self.value!r:.60}"
        return f"{self.how} {'.'.join(map(str, self.path))}{shown}"


def places(data: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of every value in nested dicts and lists."""
    if isinstance(data, dict):
        inner = [(key, value) for key, value in data.items()]
    elif isinstance(data, list):
        inner = list(enumerate(data))
    else:
        return []
    found = []
    for key, value in inner:
        found.append((*prefix, key))
        found += places(value, (*prefix, key))
    return found


def mutated(data: Any, rng: random.Random, hows: tuple[str, ...] = ("set",) * 6 + ("delete", "add", "repeat")) -> Any:
    """A copy of the data with one thing changed, and the [`Mutation`]."""
    data, how = copy.deepcopy(data), rng.choice(hows)
    path = rng.choice(places(data))
    parent = data
    for part in path[:-1]:
        parent = parent[part]
    value = rng.choice(JUNK)
    if how == "delete":
        del parent[path[-1]]
    elif how == "add" and isinstance(parent, dict):
        path = (*path[:-1], rng.choice(["unknown", "Max_steps", "__class__", ""]))
        parent[path[-1]] = value
    elif how == "repeat" and isinstance(parent, list):
        parent.append(copy.deepcopy(parent[path[-1]]))
    else:
        how = "set"
        parent[path[-1]] = value
    return data, Mutation(path, how, value)


def admits(annotation: Any, value: Any) -> bool:
    """Whether a value is of a type: `bool` is no number, NaN and infinity are none, a list is no tuple's worse."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(admits(kind, value) for kind in inner)
    if origin is Literal:
        return any(value is choice or (type(value) is type(choice) and value == choice) for choice in inner)
    if origin is typing.Annotated:
        return admits(inner[0], value)
    if origin in (list, tuple, set):
        kinds = inner[:1] if origin is not tuple or inner[-1:] == (Ellipsis,) else inner
        if not isinstance(value, (list, tuple)):
            return False
        return all(admits(kinds[i % len(kinds)], item) for i, item in enumerate(value)) if kinds else True
    if origin is dict:
        return isinstance(value, dict)
    if annotation is type(None) or annotation is None:
        return value is None
    return _is_plain(annotation, value)


def _is_plain(annotation: Any, value: Any) -> bool:
    if not isinstance(annotation, type):
        return True
    if is_dataclass(annotation):
        return isinstance(value, (dict, annotation))
    if issubclass(annotation, bool) or annotation is bool:
        return isinstance(value, bool)
    if issubclass(annotation, (int, float)):
        numbers = (int,) if issubclass(annotation, int) else (int, float)
        if isinstance(value, bool) or not isinstance(value, numbers) or not _finite(value):
            return False
        if annotation in (int, float):
            return True
        try:  # a restricted type checks when it is made
            annotation(value)
        except ValueError:
            return False
        return True
    if issubclass(annotation, str) and annotation is not str:
        try:
            annotation(value)
        except (TypeError, ValueError):
            return False
        return isinstance(value, str)
    return isinstance(value, annotation)


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return True


def names_it(message: str, *names: str) -> bool:
    """Whether a message gives any of these names."""
    return any(name and name.lower() in message.lower() for name in names)
