"""Which name was meant: of a verb, an option, a key of a recipe."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """`; did you mean ...?`, or nothing: the names that differ in a few letters, or lack the section only.

    Args:
        name (`str`): What was written.
        known (`Iterable[str]`): The names that there are.
        prefix (`str`): Stands before each in the message (`--`).
    """
    names = list(known)
    found = [one for one in names if one.endswith(f".{name}")] or difflib.get_close_matches(name, names, n=1)
    found = found or [one for one in names if one.rpartition(".")[2] == name.rpartition(".")[2]]
    if not found:
        return ""
    listed = ", ".join(f"`{prefix}{one}`" for one in found[:4])
    return f"; did you mean {listed}?" if len(found) == 1 else f"; did you mean one of {listed}?"


__all__ = ["did_you_mean"]
