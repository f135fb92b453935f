"""The parser of verbs that read no recipe."""

import argparse
import sys
from typing import Any, NoReturn


class CommandParser(argparse.ArgumentParser):
    """Says what is wrong without the usage, and takes no name that is cut short."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}", f"`{self.prog} --help` lists what it takes.", sep="\n", file=sys.stderr)
        self.exit(2)


def section_of(values: dict[str, Any], section: str) -> dict[str, Any]:
    """Takes `section.name` out of parsed values, as values by name; those that were not given are left out."""
    prefix = f"{section}."
    taken = {name: values.pop(name) for name in [*values] if name.startswith(prefix)}
    return {name.removeprefix(prefix): value for name, value in taken.items() if value is not None}
