"""Recipes read within bounds, before anything parses them: no pipe or device, no 100 MB, no aliases that multiply."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from .names import did_you_mean


MOST_BYTES = 1_000_000
MOST_VALUES = 10_000
MOST_LEVELS = 20
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class RecipeError(ValueError):
    """A file that is no recipe, or more than one."""


def read_recipe(path: str | Path) -> dict[str, Any]:
    """The values of a recipe (YAML, or JSON, which is YAML too), as they are nested.

    Raises:
        RecipeError: If it is no ordinary file, too large, no text, no YAML, has more than `MOST_VALUES` values
            (aliases counted as what they stand for) or `MOST_LEVELS` levels, names a key twice, or is no mapping.
    """
    values = read_yaml(read_text(path))
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise RecipeError(f"is no recipe: it holds {type(values).__name__}, not `section: {{name: value}}`")
    return values


def read_text(path: str | Path) -> str:
    """A text file of at most `MOST_BYTES`. Raises `RecipeError` for anything else, without waiting for a pipe."""
    try:
        # a pipe that nobody writes to is opened at once, and refused
        descriptor = os.open(os.path.expanduser(path), os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RecipeError(f"cannot be read: {reason}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise RecipeError("is no ordinary file (but a folder, a pipe or a device)")
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise RecipeError(f"is larger than {MOST_BYTES / 1e6:g} MB, so it is no recipe")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(f"is no text in UTF-8 (byte {error.start:,})") from error


def read_yaml(text: str) -> Any:
    """The value of a YAML text within the bounds. Raises `RecipeError` as [`read_recipe`]."""
    try:
        check_extent(text)
        node = yaml.compose(text, Loader=LOADER)
        twice = next(repeated_keys(node), None)
        if twice is not None:
            raise RecipeError(f"has `{twice.value}` twice, again in line {twice.start_mark.line + 1}")
        return yaml.load(text, Loader=LOADER)
    except yaml.YAMLError as error:
        raise RecipeError(f"is no YAML: {_told(error)}") from error


def check_extent(text: str) -> None:
    """Raises `RecipeError` if a YAML text has too many values or levels, or one that holds itself.

    It is read as a stream of events, in which an alias takes no more room than its name.
    """
    anchors: dict[str, int] = {}  # how many values each stands for
    within: list[tuple[str | None, int]] = [(None, 0)]  # of each level: its anchor, and its values so far
    for event in yaml.parse(text, Loader=LOADER):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in [anchor for anchor, _ in within]:
                raise RecipeError(f"has `*{event.anchor}` inside of `&{event.anchor}`: it would never end")
            _add(within, anchors.get(str(event.anchor), 1))
        elif isinstance(event, yaml.ScalarEvent):
            anchors |= {event.anchor: 1} if event.anchor else {}
            _add(within, 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            within.append((event.anchor, 1))
            if len(within) > MOST_LEVELS:
                raise RecipeError(f"is nested over {MOST_LEVELS} levels deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = within.pop()
            anchors |= {anchor: size} if anchor else {}
            _add(within, size)


def _add(within: list[tuple[str | None, int]], size: int) -> None:
    anchor, before = within.pop()
    if before + size > MOST_VALUES:
        raise RecipeError(f"has over {MOST_VALUES:,} values, aliases counted as what they stand for")
    within.append((anchor, before + size))


def repeated_keys(node: Any) -> Iterator[yaml.ScalarNode]:
    """Keys that a mapping has already, of which YAML would take the last without a word."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen and key.value != "<<":
                    yield key
                seen.add(key.value)
            yield from repeated_keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from repeated_keys(value)


def _told(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"{problem}, line {mark.line + 1}, column {mark.column + 1}" if mark else problem


def check_keys(values: dict[Any, Any], known: dict[str, bool], section: str = "") -> None:
    """Raises `RecipeError` for the first key that is no option, with the one that it may have meant.

    Args:
        values: As [`read_recipe`] returns them.
        known: Every option, and whether it is a section; `model` has options below it, `model.name` has not.
        section: What stands before the keys.
    """
    for key, value in values.items():
        name = f"{section}{key}"
        if name not in known:
            raise RecipeError(f"has no use for `{name}`{did_you_mean(name, known)}")
        if known[name] and isinstance(value, dict):
            check_keys(value, known, f"{name}.")


def given_options(argv: list[str]) -> Iterator[tuple[str, str]]:
    """Options of a command line with their values; those without a value are left out."""
    for place, word in enumerate(argv):
        if not word.startswith("--"):
            continue
        name, given, value = word[2:].partition("=")
        if given:
            yield name, value
        elif place + 1 < len(argv) and not argv[place + 1].startswith("--"):
            yield name, argv[place + 1]


def check_word(name: str, value: str, known: dict[str, bool]) -> None:
    """Raises `RecipeError` for a value of the command line that is YAML or JSON beyond the bounds, and for a key of a
    section given as such that is no option; a section is not read from a file of its own."""
    if known.get(name):
        values = read_yaml(value)
        if not isinstance(values, dict) and values is not None:
            raise RecipeError(f"`--{name}` takes a mapping such as '{{key: value}}', got {value[:80]!r}")
        check_keys(values or {}, known, f"{name}.")
    elif value.lstrip()[:1] in ("[", "{", "&", "*", "!"):
        try:
            check_extent(value)
        except RecipeError as error:
            raise RecipeError(f"`--{name}` {error}") from None
        except yaml.YAMLError:
            return  # no YAML: text, or refused by its type


__all__ = [
    "MOST_BYTES",
    "MOST_LEVELS",
    "MOST_VALUES",
    "RecipeError",
    "check_extent",
    "check_keys",
    "check_word",
    "given_options",
    "read_recipe",
    "read_text",
    "read_yaml",
]
