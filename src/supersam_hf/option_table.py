"""Writes the table of all options that the command line's front door reads: `python -m supersam_hf.option_table`."""

import argparse
import importlib
import json
from collections.abc import Iterable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from docstring_parser import parse_from_object

from supersam_hf_cli import OFB_VERBS, VERBS
from supersam_hf_cli.options import TABLE

from .cli import ALWAYS, COMMANDS, OFB_SECTIONS, SECTIONS, recipe_class, recipe_parser
from .fields import hints, options_of, words
from .segmenter_recipe import SegmenterRecipe
from .training.bimask_arguments import open_fields


Row = list[Any]  # name, accepted values in words, default, help


def option_table() -> dict[str, Any]:
    """Every recipe's values, and every verb's own options."""
    recipes = {"supersam": recipe_class("supersam"), "ofb": recipe_class("ofb"), "segment": SegmenterRecipe}
    verbs = {verb: _verb(verb, "supersam", SECTIONS.get(verb)) for verb in VERBS}
    verbs |= {f"ofb {verb}": _verb(verb, "ofb", OFB_SECTIONS.get(verb)) for verb in OFB_VERBS}
    return {"recipes": {name: list(recipe_rows(cls)) for name, cls in recipes.items()}, "verbs": verbs}


def recipe_rows(cls: Any, section: str = "") -> Iterable[Row]:
    """A row for each value of a dataclass, its sections' too."""
    documented = [parse_from_object(base).params for base in reversed(cls.__mro__) if is_dataclass(base)]
    told = {part.arg_name: part.description for params in documented for part in params}
    left_open = open_fields(cls) if hasattr(cls, "search_steps") else []
    for field in fields(cls):
        inner = [option for option in options_of(hints(cls)[field.name]) if is_dataclass(option)]
        if inner:
            rows = recipe_rows(inner[0], f"{section}{field.name}.")
            yield from rows
            continue
        made = field.default if field.default_factory is MISSING else field.default_factory()
        default = None if field.name in left_open or made is MISSING else made
        text = " ".join(str(told.get(field.name) or "").split())
        yield [f"{section}{field.name}", words(hints(cls)[field.name]), default, text]


def _verb(verb: str, method: Any, sections: tuple[str, ...] | None) -> dict[str, Any]:
    recipe: str | None = method
    if method == "supersam" and verb in COMMANDS:
        parser = importlib.import_module(f".commands.{verb}", __package__).parser()
        recipe = {"segment": "segment", "preview": "supersam"}.get(verb)
    else:
        parser = recipe_parser(verb, method)
    known = set(_fields_of(recipe))
    own = [action for action in parser._actions if action.dest.split(".")[0] not in known]
    return {
        "recipe": recipe,
        "sections": None if sections is None else sorted({*sections, *ALWAYS}),
        "positionals": [[action.metavar or action.dest, action.help] for action in own if not action.option_strings],
        "own": [_own_row(action) for action in own if action.option_strings and not _is_machinery(action)],
    }


def _fields_of(recipe: str | None) -> Iterable[str]:
    if recipe is None:
        return ()
    cls = SegmenterRecipe if recipe == "segment" else recipe_class(recipe)  # type: ignore[arg-type]
    return (field.name for field in fields(cls))


def _is_machinery(action: argparse.Action) -> bool:
    return action.dest in ("help", "print_shtab")


def _own_row(action: argparse.Action) -> Row:
    if action.dest == "print_config":
        return ["print_config", "", None, "print every value as a recipe, and stop"]
    accepts = "" if action.nargs == 0 else _accepts(action)
    default = None if action.default is argparse.SUPPRESS else action.default
    return [action.option_strings[0].removeprefix("--"), accepts, default, action.help or ""]


def _accepts(action: argparse.Action) -> str:
    if action.choices:
        return f"one of {', '.join(map(str, action.choices))}"
    return str(action.metavar or {int: "a whole number", float: "a number"}.get(action.type, "text"))  # type: ignore[call-overload]


def as_text(table: dict[str, Any]) -> str:
    """JSON, one option a line, so that changes of it can be read."""
    lines = ["{", '"recipes": {']
    for number, (name, rows) in enumerate(table["recipes"].items(), start=1):
        body = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        lines.append(f'"{name}": [\n{body}\n]{"," if number < len(table["recipes"]) else ""}')
    verbs = ",\n".join(f'"{name}": {_verb_text(entry)}' for name, entry in table["verbs"].items())
    return "\n".join([*lines, "},", '"verbs": {', verbs, "}", "}", ""])


def _verb_text(entry: dict[str, Any]) -> str:
    own = ",\n".join(json.dumps(row, ensure_ascii=False) for row in entry["own"])
    rest = json.dumps({name: value for name, value in entry.items() if name != "own"}, ensure_ascii=False)
    return f'{rest[:-1]}, "own": [\n{own}\n]}}'


if __name__ == "__main__":
    TABLE.write_text(as_text(option_table()), encoding="utf-8")
