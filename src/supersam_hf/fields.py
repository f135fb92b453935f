"""Types of the values that users give, each with its bounds, and one check of them for every class of arguments.

`jsonargparse` holds the types to their bounds where it reads a recipe or the command line. A class that derives from
[`Checked`] holds them too where it is made in Python, so that a bound is stated once, in the annotation.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

from jsonargparse.typing import restricted_number_type, restricted_string_type


MOST = 10**9  # of what is counted: steps, images, px

if TYPE_CHECKING:  # to a type checker they are the types that they restrict
    Count: TypeAlias = int
    Whole: TypeAlias = int
    Seed: TypeAlias = int
    Side: TypeAlias = int
    Tenths: TypeAlias = int
    Positive: TypeAlias = float
    NonNegative: TypeAlias = float
    Finite: TypeAlias = float
    Fraction: TypeAlias = float
    ClosedUnitInterval: TypeAlias = float
    OpenUnitInterval: TypeAlias = float
    BelowOne: TypeAlias = float
    Text: TypeAlias = str
    Place: TypeAlias = str
else:
    Count = restricted_number_type("Count", int, [(">=", 1), ("<=", MOST)])
    Whole = restricted_number_type("Whole", int, [(">=", 0), ("<=", MOST)])
    Seed = restricted_number_type("Seed", int, [(">=", 0), ("<", 2**32)])
    Side = restricted_number_type("Side", int, [(">=", 1), ("<=", 2**16)])
    Tenths = restricted_number_type("Tenths", int, [(">=", 1), ("<=", 9)])
    Positive = restricted_number_type("Positive", float, [(">", 0), ("<", math.inf)])
    NonNegative = restricted_number_type("NonNegative", float, [(">=", 0), ("<", math.inf)])
    Finite = restricted_number_type("Finite", float, [(">", -math.inf), ("<", math.inf)])
    ClosedUnitInterval = restricted_number_type("ClosedUnitInterval", float, [(">=", 0), ("<=", 1)])
    OpenUnitInterval = restricted_number_type("OpenUnitInterval", float, [(">", 0), ("<", 1)])
    Fraction = restricted_number_type("Fraction", float, [(">", 0), ("<=", 1)])
    BelowOne = restricted_number_type("BelowOne", float, [(">=", 0), ("<", 1)])
    Text = restricted_string_type("Text", r"(?s)[^\0]*[^\s\0][^\0]*$")
    # A file or folder here, or an id on the Hub; `~` is the home folder.
    Place = restricted_string_type("Place", r"(?s)(?=.)[^\0]*[^\s\0][^\0]*$")

WORDS = {
    Count: f"a whole number from 1 to {MOST:,}",
    Whole: f"a whole number from 0 to {MOST:,}",
    Seed: "a whole number from 0 to 2**32 - 1",
    Side: f"a whole number from 1 to {2**16:,}",
    Tenths: "a whole number from 1 to 9",
    Positive: "a number above 0",
    NonNegative: "a number of 0 or more",
    Finite: "a number",
    ClosedUnitInterval: "a number from 0 to 1",
    OpenUnitInterval: "a number between 0 and 1",
    Fraction: "a number above 0, at most 1",
    BelowOne: "a number of 0 or more, below 1",
    Text: "text that is not empty",
    Place: "a path or an id",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    NoneType: "null",
}
T = TypeVar("T")


class FieldError(ValueError):
    """A value that its field does not take.

    Args:
        field (`str`): The field; its sections before it, as far as they are known (`train.learning_rate`).
        text (`str`): What it must be, and what it got.
    """

    def __init__(self, field: str, text: str) -> None:
        super().__init__(f"`{field}` {text}")
        self.field, self.text = field, text


@dataclass
class Checked:
    """A dataclass whose values are held to their annotations when it is made.

    Raises:
        FieldError: If a value is of another type, out of its range, NaN or infinite.
    """

    def __post_init__(self) -> None:
        check_fields(self)


def check_fields(made: Any) -> None:
    """Holds the values of a dataclass, frozen or not, to their annotations. Raises as [`Checked`]."""
    cls: Any = type(made)
    for name, hint in hints(cls).items():
        object.__setattr__(made, name, checked(name, hint, getattr(made, name)))


@cache
def hints(cls: Any) -> dict[str, Any]:
    """Annotations of a dataclass's fields, in their order."""
    all_hints = get_type_hints(cls)
    return {field.name: all_hints[field.name] for field in fields(cls)}


def checked(name: str, hint: Any, value: Any) -> Any:
    """`value` as its annotation has it: a whole number as a float where that is asked for, `~` expanded.

    Raises:
        FieldError: If it does not fit the annotation.
    """
    for option in options_of(hint):
        try:
            return _as(name, option, value)
        except FieldError:
            raise  # an entry of a list, named by its place
        except (TypeError, ValueError, OverflowError):
            continue
    raise FieldError(name, f"must be {words(hint)}, got {shown(value)}.")


def options_of(hint: Any) -> tuple[Any, ...]:
    """The types of a union; any other annotation alone."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _as(name: str, hint: Any, value: Any) -> Any:
    """`value` as one type, which is no union. Raises `TypeError` or `ValueError` where it is none of these."""
    origin = get_origin(hint)
    if origin is list:
        return [checked(f"{name}[{i}]", get_args(hint)[0], entry) for i, entry in enumerate(_of(value, (list, tuple)))]
    if origin is dict:
        kind = get_args(hint)[1]
        return {_of(key, str): checked(f"{name}.{key}", kind, entry) for key, entry in _of(value, dict).items()}
    if origin is Literal:
        if not isinstance(value, str) or value not in get_args(hint):
            raise ValueError(value)
        return value
    if hint is Any:
        return value
    base = getattr(hint, "_type", hint)  # what a restricted type restricts
    if base in (int, float):
        return base(hint(_number(base, value)))
    if base is str:
        text = os.fspath(value) if hint is Place else _of(value, str)
        return str(hint(_at_home(name, text) if hint is Place else text))
    return _of(value, hint)


def _of(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(value)
    return value


def _number(base: type, value: Any) -> int | float:
    """A number that is no truth value; a float is finite."""
    if isinstance(value, bool) or not isinstance(value, Integral if base is int else Real):
        raise TypeError(value)
    number = base(value)
    if not math.isfinite(number):
        raise ValueError(value)
    return number


def _at_home(name: str, path: str) -> str:
    expanded = os.path.expanduser(path)
    if expanded.startswith("~") and not os.path.exists(expanded):
        raise FieldError(name, f"begins with the home folder of a user that is not here, got {path!r}.")
    return expanded


def place(text: str) -> str:
    """A path or an id of the command line, `~` expanded: a `type` of argparse."""
    return str(checked("path", Place, text))


def words(hint: Any) -> str:
    """What an annotation accepts, for messages and help."""
    options = options_of(hint)
    if len(options) > 1:
        return " or ".join(words(option) for option in options)
    if get_origin(hint) is Literal:
        return f"one of {', '.join(get_args(hint))}"
    if get_origin(hint) is list:
        return f"a list, each {words(get_args(hint)[0])}"
    if get_origin(hint) is dict:
        return "a mapping"
    return WORDS.get(hint, getattr(hint, "__name__", str(hint)))


def shown(value: Any) -> str:
    """A value as messages show it: `null`, `true`, and at most 80 characters of anything else."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**80 else "a whole number of over 80 digits"
    return text if len(text) <= 80 else f"{text[:77]}..."


def hint_of(cls: Any, name: str) -> Any:
    """Annotation of a field by its sections and name (`train.learning_rate`); None if there is no such field."""
    first, _, rest = name.partition(".")
    hint = hints(cls).get(first)
    inner = [option for option in options_of(hint) if is_dataclass(option)]
    return hint if not rest else hint_of(inner[0], rest) if inner else None


@contextmanager
def section(name: str) -> Iterator[None]:
    """Puts the section's name before that of a field that is refused within."""
    try:
        yield
    except FieldError as error:
        raise FieldError(f"{name}.{error.field}", error.text) from None


def build(cls: Callable[..., T], values: Mapping[str, Any]) -> T:
    """A dataclass from nested plain data; sections that are left out stay as they are by default.

    Raises:
        FieldError: Naming the field with its sections.
    """
    made = {}
    known: dict[str, Any] = hints(cls)
    for name, value in values.items():
        inner: list[Any] = [option for option in options_of(known[name]) if is_dataclass(option)]
        if inner and isinstance(value, Mapping):
            with section(name):
                value = build(inner[0], value)
        made[name] = value
    return cls(**made)


__all__ = [
    "MOST",
    "BelowOne",
    "Checked",
    "ClosedUnitInterval",
    "Count",
    "FieldError",
    "Finite",
    "Fraction",
    "NonNegative",
    "OpenUnitInterval",
    "Place",
    "Positive",
    "Seed",
    "Side",
    "Tenths",
    "Text",
    "Whole",
    "build",
    "check_fields",
    "checked",
    "hint_of",
    "hints",
    "place",
    "section",
    "shown",
    "words",
]
