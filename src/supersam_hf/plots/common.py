"""What all figures share: colours, style, reading logs, and writing the picture."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..files import MARK, check_overwritable, file_aside


# Okabe and Ito's palette: told apart by colour-blind readers too.
BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
YELLOW, BLACK, GREY, LIGHT = "#F0E442", "#222222", "#8C8C8C", "#D9D9D9"
OBJECT_COLORS = (VERMILLION, SKY, YELLOW, GREEN, PURPLE, ORANGE, BLUE)
NAMED_COLORS = {
    **{"original": BLACK, "largest": GREEN, "smallest": PURPLE, "sampled": BLUE},
    **{"found": VERMILLION, "found + recovery": VERMILLION},
}
STYLE = {
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.7,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "xtick.color": "#4D4D4D",
    "ytick.color": "#4D4D4D",
    "hatch.linewidth": 0.5,
}
FORMATS = (".png", ".pdf", ".svg")
# Where each format says who wrote it.
AUTHOR = {".png": "Software", ".pdf": "Creator", ".svg": "Creator"}


def check_path(path: str | Path) -> Path:
    """`path` as a `Path`; `ValueError` if it does not end as a picture does, or a file lies there that is not ours."""
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"`path` is {path}; give a file that ends in one of {list(FORMATS)}.")
    check_overwritable(path, "`path`")
    return path


def save(figure: Figure, path: Path) -> Path:
    """Writes the picture whole, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with file_aside(path) as aside:
        kind = path.suffix.lower()
        figure.savefig(aside, format=kind.removeprefix("."), metadata={AUTHOR[kind]: MARK})
    return path


def name_axes(axes: Axes, x: str, y: str, title: str | None = None) -> None:
    """Labels both axes, and the panel."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if title is not None:
        axes.set_title(title)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSONL log; a last line without its newline is still being written and is left out.

    Raises:
        ValueError: If a line is not a JSON object with a `step`.
    """
    whole = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    lines = []
    for number, text in enumerate(whole, start=1):
        try:
            line = json.loads(text)
        except ValueError as error:
            raise ValueError(f"Line {number} of {path} is not JSON; repair the log.") from error
        if not isinstance(line, dict) or "step" not in line:
            raise ValueError(f"Line {number} of {path} has no `step`; is it the log of a training?")
        lines.append(line)
    return lines


def series(lines: list[dict[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values, (lines with the key,) each; None is a gap."""
    found = [(line["step"], math.nan if line[key] is None else line[key]) for line in lines if key in line]
    steps, values = zip(*found)
    return np.asarray(steps), np.asarray(values, dtype=float)


def smooth(values: np.ndarray) -> np.ndarray:
    """Centred running mean over about a twentieth of the values; shorter at both ends, so that nothing is made up."""
    half = len(values) // 40
    return np.array([values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))])


def draw_smoothed(axes: Axes, steps: np.ndarray, values: np.ndarray, color: str, label: str | None = None) -> None:
    """A logged series, faintly as it is and boldly its running mean."""
    axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
    axes.plot(steps, smooth(values), color=color, label=label)
