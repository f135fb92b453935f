"""What a reader of a Markdown file gets: its text, links, HTML, tables and code."""

import re
from dataclasses import dataclass, field

import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token


@dataclass
class Rendered:
    """A Markdown file as it is shown.

    Args:
        front (`dict`): Its metadata.
        text (`str`): What is to be read, code included, a line a block.
        bare (`str`): The same without code.
        links (`list[str]`): Targets of links and pictures.
        html (`list[str]`): Its HTML, but for comments.
        tables (`list[list[int]]`): Of each table, the cells of each row.
        headings (`list[str]`): Its headlines.
        code (`dict[str, list[str]]`): Its code blocks by language.
    """

    front: dict = field(default_factory=dict)
    text: str = ""
    bare: str = ""
    links: list[str] = field(default_factory=list)
    html: list[str] = field(default_factory=list)
    tables: list[list[int]] = field(default_factory=list)
    headings: list[str] = field(default_factory=list)
    code: dict[str, list[str]] = field(default_factory=dict)


def rendered(markdown: str) -> Rendered:
    """Reads a file as GitHub and the Hub do: CommonMark with tables and strikethrough."""
    found = Rendered()
    match = re.match(r"---\n(.*?)\n---\n", markdown, re.DOTALL)
    if match:
        found.front, markdown = yaml.safe_load(match[1]), markdown[match.end() :]
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown)
    for number, token in enumerate(tokens):
        if token.type == "tr_open":
            found.tables[-1].append(0)
        elif token.type in ("th_open", "td_open"):
            found.tables[-1][-1] += 1
        elif token.type == "table_open":
            found.tables.append([])
        elif token.type == "fence":
            found.code.setdefault(token.info, []).append(token.content)
            found.text += token.content
        elif token.type == "html_block":
            _note_html(found, token.content)
        elif token.type == "inline":
            line = _read(found, token.children or [])
            found.text += f"{line}\n"
            if tokens[number - 1].type == "heading_open":
                found.headings.append(line)
    return found


def _read(found: Rendered, tokens: list[Token]) -> str:
    said = ""
    for token in tokens:
        if token.type in ("link_open", "image"):
            found.links.append(str(token.attrGet("href") or token.attrGet("src")))
        if token.type == "html_inline":
            _note_html(found, token.content)
        elif token.type in ("text", "text_special", "image"):
            found.bare += token.content
        if token.type not in ("html_inline", "link_open", "link_close"):
            said += " " if token.type == "softbreak" else token.content
    found.bare += "\n"
    return said


def _note_html(found: Rendered, html: str) -> None:
    rest = re.sub(r"<!-- (?:supersam|end of supersam|recipe)[^<>]* -->", "", html).strip()
    found.html += [rest] if rest else []
