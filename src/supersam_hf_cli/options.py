"""Every option of every verb, from a table that is made of the parsers (`make options`): nothing heavy is imported.

A test holds `options.json` to the parsers.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .names import did_you_mean


TABLE = Path(__file__).with_name("options.json")


@dataclass(frozen=True)
class Option:
    """One option.

    Args:
        name (`str`): As it is written behind `--`, with its section.
        accepts (`str`): Its values in words; empty of a switch, which takes none.
        default (`Any`): As JSON.
        help (`str`): One or more sentences.
    """

    name: str
    accepts: str
    default: Any
    help: str


@dataclass(frozen=True)
class Verb:
    """A verb as the table has it.

    Args:
        positionals (`tuple`): Name and help of what is given without an option.
        own (`tuple[Option, ...]`): Options beside those of a recipe.
        recipe (`tuple[Option, ...]`): Every value of its recipe, if it has one.
        sections (`tuple[str, ...]` or None): Sections and values that it reads; None: all.
    """

    positionals: tuple[tuple[str, str], ...]
    own: tuple[Option, ...]
    recipe: tuple[Option, ...]
    sections: tuple[str, ...] | None

    @property
    def options(self) -> tuple[Option, ...]:
        return (*self.own, *self.recipe)

    @property
    def read(self) -> tuple[Option, ...]:
        """Without the values of a recipe that other verbs read."""
        read = [one for one in self.recipe if self.sections is None or one.name.split(".")[0] in self.sections]
        return (*self.own, *read)


@cache
def table() -> dict[str, Any]:
    return json.loads(TABLE.read_text(encoding="utf-8"))


def verb_named(name: str) -> Verb:
    """A verb of the table: `run`, `ofb run`, ..."""
    entry = table()["verbs"][name]
    recipe = table()["recipes"][entry["recipe"]] if entry["recipe"] else []
    return Verb(
        tuple((name, text) for name, text in entry["positionals"]),
        tuple(Option(*values) for values in entry["own"]),
        tuple(Option(*values) for values in recipe),
        tuple(entry["sections"]) if entry["sections"] is not None else None,
    )


def known_keys(options: Iterable[Option]) -> dict[str, bool]:
    """Every name with its sections before it, and whether it is a section."""
    known: dict[str, bool] = {}
    for option in options:
        parts = option.name.split(".")
        known |= {".".join(parts[:count]): True for count in range(1, len(parts))}
        known.setdefault(option.name, False)
    return known


def unknown_word(verb: Verb, argv: list[str]) -> str | None:
    """What is wrong with the first word that is no option of the verb, or no value of one; None: nothing."""
    known = known_keys(verb.options)
    switches = {option.name for option in verb.options if not option.accepts}
    is_value = False
    for word in argv:
        if word == "--":
            return None
        if word.startswith("--"):
            name, given, _ = word[2:].partition("=")
            name = name.removesuffix("+").replace("dry-run", "dry_run")
            if name not in known and not name.endswith(".help"):
                return f"unknown option `--{name}`{did_you_mean(name, known, '--')}"
            is_value = not given and name not in switches
        elif is_value or not verb.recipe:  # what has no recipe has words without options, checked by its parser
            is_value = False
        elif word != "-h":
            hint = "; did you mean `--config`?" if word.endswith((".yaml", ".yml", ".json")) else ""
            return f"{word!r} belongs to no option{hint}"
    return None


__all__ = ["TABLE", "Option", "Verb", "known_keys", "table", "unknown_word", "verb_named"]
