"""Text that others chose (names of folders, datasets, classes and branches, hardware) in Markdown, code and figures.

What is written around it stays what it is: no link, no HTML, no column of a table and no line comes from such a text.
"""

import json
import re
import shlex
from collections.abc import Sequence
from urllib.parse import quote


# What renderers make links of by itself.
LINKS = re.compile(r"://|www\.|@|\bmailto:|\bxmpp:", re.IGNORECASE)
ENTITIES = {"\\": "&#92;", "&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;"}
# A `_` between letters is none of Markdown's; anywhere else it may begin emphasis.
MARKS = re.compile(r"[`*\[\]~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def one_line(text: object) -> str:
    """As a text of one line that can be stored: what cannot be printed is a space, such as line ends, control
    characters and bytes that are no UTF-8."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def printable(value: object) -> object:
    """Any value; of a text, what can be stored and is no control character, its lines as they are."""
    if not isinstance(value, str):
        return value
    return type(value)("".join(c if c.isprintable() or c in "\n\t" else " " for c in value))


def prose(text: object) -> str:
    """As plain text within a sentence, a headline or a cell; what would become a link is shown as code."""
    line = one_line(text)
    if LINKS.search(line):
        return code(line)
    plain = re.sub(r"[\\&<>|]", lambda match: ENTITIES[match[0]], line)
    return MARKS.sub(lambda match: "\\" + match[0], plain)


def code(text: object) -> str:
    """As a code span, for which no sign has a meaning. [`cell`] is needed within a table."""
    line = one_line(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    pad = " " if not line or line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def hub_link(repo_id: str, kind: str = "") -> str:
    """A repository on the Hub as a link. `kind` is "datasets/" for a dataset."""
    return f"[{prose(repo_id)}](https://huggingface.co/{kind}{quote(one_line(repo_id))})"


def cell(markdown: str) -> str:
    """Markdown as it stands in the cell of a table: code spans too must not end it."""
    return re.sub(r"(\\*)\|", r"\1\1\\|", markdown)


def table_row(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(map(cell, cells)) + " |"


def python(text: str) -> str:
    """As a string in Python code, on one line."""
    return json.dumps(text, ensure_ascii=False) if text.isprintable() else repr(text)


def shell(text: str) -> str:
    """As one word of a shell command, on one line."""
    return shlex.quote(one_line(text))


def figure(text: str) -> str:
    """As matplotlib draws it: `$` is no mathematics, and a legend leaves out no name for its first letter."""
    line = one_line(text).replace("$", r"\$")
    return f" {line}" if line.startswith("_") else line


__all__ = ["cell", "code", "figure", "hub_link", "one_line", "printable", "prose", "python", "shell", "table_row"]
