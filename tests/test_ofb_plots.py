"""What the figures of an OFB search show, read back from their artists."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from supersam_hf import plots


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were drawn. They are written coarsely: a test reads the artists, not the pixels."""
    figures: list[Figure] = []

    class KeptFigure(Figure):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            figures.append(self)

        def savefig(self, fname: Any, **kwargs: Any) -> None:
            super().savefig(fname, dpi=40, **kwargs)

    monkeypatch.setattr(plots.ofb, "Figure", KeptFigure)
    return figures


def architecture(hidden: int, heads: list[int], channels: list[int], mlp: list[int]) -> dict[str, Any]:
    return {"hidden_size": hidden, "num_attention_heads": heads, "head_dim": channels, "intermediate_size": mlp}


ORIGINAL = architecture(32, [2, 2, 2], [16, 16, 16], [128, 128, 128])
FOUND = architecture(24, [2, 1, 2], [8, 16, 4], [32, 128, 96])


def write_lines(path: Path, lines: list[dict[str, Any]], tail: str = "") -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
    return path


@pytest.fixture
def history(tmp_path: Path) -> Path:
    scores = {"importance": [0.9, 0.7, 0.5, 0.3], "bimask": [0.9, 0.4, 0.6, 0.2]}
    names = [f"{kind}.{i}" for i in range(3) for kind in ("attention", "mlp")]
    start = {"step": 0, "architecture": ORIGINAL, "submodules": dict.fromkeys(["embedding", *names], scores)}
    later = {"step": 10, "architecture": FOUND, "submodules": dict.fromkeys(names, scores)}
    return write_lines(tmp_path / "history.jsonl", [start, later], tail='{"step": 20, "arch')


def test_bimask_lines_descend_and_end_where_the_network_ends(
    drawn: list[Figure], history: Path, tmp_path: Path
) -> None:
    assert plots.plot_bimask(history, tmp_path / "a.png") == tmp_path / "a.png"
    panels = drawn[0].axes[:4]
    assert [axes.get_title() for axes in panels] == [
        "MLP 1: importance $S$",
        "MLP 1: bi-mask $m$",
        "Attention 1: importance $S$",
        "Attention 1: bi-mask $m$",
    ]
    for axes in panels:
        assert len(axes.get_lines()) == 2
        assert all((np.diff(line.get_ydata()) < 0).all() for line in axes.get_lines())
    assert sorted(panels[1].get_lines()[0].get_ydata()) == [0.2, 0.4, 0.6, 0.9]
    # 128 hidden units both times; 2 heads of 16, then one head of 16
    assert [line.get_xdata()[-1] for line in panels[0].get_lines()] == [127, 127]
    assert [line.get_xdata()[-1] for line in panels[2].get_lines()] == [31, 15]


def test_later_bimasks_are_lighter(drawn: list[Figure], history: Path, tmp_path: Path) -> None:
    plots.plot_bimask(history, tmp_path / "a.png", submodules=["mlp.0"])
    early, late = (to_hex(line.get_color()) for line in drawn[0].axes[0].get_lines())
    light = [sum(int(color[i : i + 2], 16) for i in (1, 3, 5)) for color in (early, late)]
    assert light[0] < light[1]


@pytest.mark.parametrize("submodules", [["mlp.7"], []])
def test_unknown_submodules_are_refused(history: Path, tmp_path: Path, submodules: list[str]) -> None:
    with pytest.raises(ValueError, match="`submodules` must name some of"):
        plots.plot_bimask(history, tmp_path / "a.png", submodules=submodules)
    with pytest.raises(ValueError, match="is it the history of a search"):
        plots.plot_bimask(write_lines(tmp_path / "log.jsonl", [{"step": 1}]), tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"\.png"):
        plots.plot_bimask(history, tmp_path / "a.txt")


def test_architecture_has_a_cell_a_head_and_a_bar_a_layer(drawn: list[Figure], tmp_path: Path) -> None:
    plots.plot_architecture({"original": ORIGINAL, "found": FOUND}, tmp_path / "a.png")
    heads, mlp, embedding = drawn[0].axes
    texts = {(round(t.get_position()[0]), round(t.get_position()[1])): t.get_text() for t in heads.texts}
    assert texts == {(0, 1): "8", (0, 2): "8", (1, 1): "16", (2, 1): "4", (2, 2): "4"}
    cells = [patch for patch in heads.patches if isinstance(patch, Rectangle)]
    assert len(cells) == 6
    assert sum(cell.get_hatch() is not None for cell in cells) == 1
    before, after = mlp.containers
    assert [bar.get_height() for bar in before] == [128, 128, 128]
    assert [bar.get_height() for bar in after] == [32, 128, 96]
    assert [bar.get_width() for bar in embedding.containers[0]] == [32, 24]


def test_several_architectures_stand_side_by_side(drawn: list[Figure], tmp_path: Path) -> None:
    plots.plot_architecture({"original": ORIGINAL, "a": FOUND, "b": FOUND}, tmp_path / "a.png")
    assert len(drawn[0].axes) == 4
    first, second = drawn[0].axes[2].containers[1:]
    edges = [(bar.get_x(), bar.get_x() + bar.get_width()) for pair in zip(first, second) for bar in pair]
    assert all(right <= left + 1e-9 for (_, right), (left, _) in zip(edges, edges[1:]))


def test_architectures_that_do_not_compare_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one more"):
        plots.plot_architecture({"original": ORIGINAL}, tmp_path / "a.png")
    short = architecture(32, [2, 2], [16, 16], [128, 128])
    with pytest.raises(ValueError, match="'short' has .* layers"):
        plots.plot_architecture({"original": ORIGINAL, "short": short}, tmp_path / "a.png")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    lines = [
        {"step": i, "loss_class": 1 / i, "loss": 2 / i, "macs": 0.8, "macs_live": 1 / i, "step_seconds": 0.1}
        for i in range(1, 9)
    ]
    return write_lines(tmp_path / "log.jsonl", [*lines[:4], {"step": 4, "top1": 0.5}, *lines[4:]])


def test_every_loss_term_has_a_panel(drawn: list[Figure], log: Path, tmp_path: Path) -> None:
    plots.plot_losses(log, tmp_path / "a.png")
    total, term = drawn[0].axes
    assert (total.get_title(), term.get_title()) == ("total (Eq. 8)", "classification")
    assert term.get_lines()[0].get_ydata().tolist() == [1 / i for i in range(1, 9)]
    with pytest.raises(ValueError, match="no line with a loss"):
        plots.plot_losses(write_lines(tmp_path / "b.jsonl", [{"step": 1}]), tmp_path / "a.png")


def test_macs_stand_over_the_step_time(drawn: list[Figure], log: Path, tmp_path: Path) -> None:
    plots.plot_macs(log, tmp_path / "a.png", budget=0.5, pruned_at=[2, 4])
    work, seconds = drawn[0].axes
    lines = {line.get_label(): line for line in work.get_lines()}
    assert lines["$g(V)$"].get_ydata().tolist() == [0.8] * 8
    assert lines["network as it stands"].get_ydata().tolist() == [1 / i for i in range(1, 9)]
    assert set(lines["budget (50%)"].get_ydata()) == {0.5}
    assert list(lines["units removed"].get_xdata()) == [2, 4]
    assert seconds.get_lines()[0].get_ydata().tolist() == [0.1] * 8
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 100


def test_macs_refuses_what_it_cannot_draw(log: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`budget` must be a fraction"):
        plots.plot_macs(log, tmp_path / "a.png", budget=2e9)
    with pytest.raises(ValueError, match=r"no line with \['params', 'params_live'\]"):
        plots.plot_macs(log, tmp_path / "a.png", kind="params")
