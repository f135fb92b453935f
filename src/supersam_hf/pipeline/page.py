"""`report.html`: a run on one page that needs nothing beside itself."""

import base64
import importlib.resources
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..escape import printable
from ..files import check_links, check_overwritable, write_whole
from ..plots import plot_bimask, plot_losses, plot_training
from ..plots.common import read_log
from .page_facts import page_facts


@dataclass(frozen=True)
class Figure:
    """A figure of the page.

    Args:
        file (`str`): As the run leaves it.
        title, caption (`str`): What it is, and how to read it.
        log (`str`): What it is drawn from where the run has not left it yet.
        draw (`Callable`, *optional*): Draws it: log in, picture out.
        needs (`str`): What some key of the log must begin with.
    """

    file: str
    title: str
    caption: str
    log: str = ""
    draw: Callable[[Path, Path], Path] | None = None
    needs: str = "loss"


FIGURES = (
    Figure(
        "pareto.png", "Size and quality", "Each point is a model; those on the line are not bettered by a smaller."
    ),
    Figure("overlays.png", "What it sees", "Ground truth, and the masks of each model on evaluation images."),
    Figure("subnet.png", "Architecture", "What is left of each layer."),
    Figure("architecture.png", "Architecture", "What is left of each submodule."),
    Figure(
        "training.png",
        "Training",
        "Losses and quality of each subnet over the steps.",
        "train/log.jsonl",
        plot_training,
    ),
    Figure(
        "bimask.png",
        "Bi-mask search",
        "Scores of the units as the search decides which to keep.",
        "search/history.jsonl",
        plot_bimask,
        needs="architecture",
    ),
    Figure("macs.png", "Budget", "Multiply-accumulates over the steps of the search."),
    Figure("params.png", "Budget", "Parameters over the steps of the search."),
    Figure("losses.png", "Losses", "Loss terms over the steps of the search.", "search/log.jsonl", plot_losses),
    Figure("ranking.png", "Layers", "Quality with each layer removed alone, and with ever more of them removed."),
    Figure("search.png", "Search", "Subnets that were tried."),
)


def write_page(folder: Path | str, output: Path | str | None = None) -> Path:
    """Writes the page of a run, done or not.

    Args:
        folder (`Path` or `str`): Of the run.
        output (`Path` or `str`, *optional*): The file; `report.html` in the run's folder if not given.

    Returns:
        `Path`: The file.

    Raises:
        ValueError: If the folder holds no run, or a link in it leads out of it, or a file lies at `output` that is no
            page of ours.
    """
    from jinja2 import Environment, StrictUndefined

    folder = Path(folder)
    given, output = output is not None, Path(output or folder / "report.html")
    if output.is_dir():
        raise ValueError(f"`output` is {str(output)!r}, which is a folder; give the file to write.")
    if given:
        check_overwritable(output, "`output`")
    check_links(folder)
    facts = page_facts(folder)
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=printable
    )
    template = environment.from_string((importlib.resources.files(__package__) / "page.html").read_text("utf-8"))
    text = template.render(f=facts, figures=[(figure, _inlined(path)) for figure, path in _pictures(folder)])
    output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(output, text)
    return output


def _pictures(folder: Path) -> list[tuple[Figure, bytes]]:
    """The figures that the run has left, and those that its logs allow."""
    found = []
    with tempfile.TemporaryDirectory() as drawn:
        for figure in FIGURES:
            path, log = folder / figure.file, folder / figure.log
            if not path.is_file() and figure.draw is not None and _has(log, figure.needs):
                path = figure.draw(log, Path(drawn) / figure.file)
            if path.is_file():
                found.append((figure, path.read_bytes()))
    return found


def _has(log: Path, needs: str) -> bool:
    return log.is_file() and any(key.startswith(needs) for line in read_log(log) for key in line)


def _inlined(picture: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(picture).decode("ascii")


__all__ = ["write_page"]
