"""What the figures show, read back from their artists, against brute force and closed forms."""

import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import same_color
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from PIL import Image

from supersam_hf import plots
from supersam_hf.models.supersam.elastic_supersam import ElasticSpace, Subnet
from supersam_hf.plots import layer_ranking, overlays, pareto, search, training, widths
from supersam_hf.search.objective import Evaluation


SPACE = ElasticSpace(6, 4, 96, 8, (0,), (1, 4), (0.5, 0.5), (24, 48))


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

    for room in (layer_ranking, overlays, pareto, search, training, widths):
        monkeypatch.setattr(room, "Figure", KeptFigure)
    return figures


def row(kind: str, params: int, miou: float | None, name: str = "a") -> dict[str, Any]:
    return {"name": name, "kind": kind, "params": params, "macs": 2 * params, "miou": miou}


def line_of(axes: Any, label: str) -> np.ndarray:
    (line,) = [line for line in axes.get_lines() if line.get_label() == label]
    return np.asarray(line.get_xydata())


def test_pareto_front_is_that_of_the_trained_subnets(drawn: list[Figure], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [row("trial", int(p), float(q)) for p, q in zip(rng.integers(10, 40, 60), rng.integers(0, 30, 60) / 30)]
    better = [row("original", 5, 0.99), row("before", 6, 0.98)]
    plots.plot_pareto(rows + better, tmp_path / "a.png")
    points = [(a["params"], a["miou"]) for a in rows]
    beaten = {a for a in points for b in points if b != a and b[0] <= a[0] and b[1] >= a[1]}
    truth = {(params / 1e6, miou) for params, miou in points if (params, miou) not in beaten}
    shown = line_of(drawn[0].axes[0], "Pareto front")
    assert {tuple(point) for point in shown.tolist()} == truth
    assert (np.diff(shown[:, 0]) >= 0).all()


@pytest.mark.parametrize("x, position", [("params", 50.0), ("macs", 0.05)])
def test_pareto_costs_and_budget_share_a_unit(drawn: list[Figure], tmp_path: Path, x: str, position: float) -> None:
    rows = [{**row("sampled", 50_000_000, 0.5), "macs": 50_000_000}, row("sampled", 60_000_000, 0.6)]
    plots.plot_pareto(rows, tmp_path / "a.png", x=x, budget=50_000_000)
    axes = drawn[0].axes[0]
    assert line_of(axes, "budget")[0, 0] == pytest.approx(position)
    assert axes.collections[0].get_offsets()[0].tolist() == pytest.approx([position, 0.5])


def test_pareto_labels_neither_overlap_nor_leave_the_panel(drawn: list[Figure], tmp_path: Path) -> None:
    corner = [row(kind, 90_000_000, 0.8, f"the {kind} one") for kind in ("original", "largest", "found", "smallest")]
    plots.plot_pareto([*corner, row("sampled", 30_000_000, 0.1)], tmp_path / "a.png")
    drawn[0].draw_without_rendering()
    axes = drawn[0].axes[0]
    boxes = [text.get_window_extent() for text in axes.texts if isinstance(text, Annotation)]
    assert len(boxes) == 4
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 for box in boxes)
    assert all(axes.bbox.y0 <= box.y0 and box.y1 <= axes.bbox.y1 for box in boxes)


def test_pareto_refuses_rows_it_cannot_draw(tmp_path: Path) -> None:
    good = [row("trial", 10, 0.5)]
    for rows, kwargs, message in (
        ([], {}, "`rows` is empty"),
        ([row("best", 10, 0.5)], {}, r"`kind` of row 'a' is 'best'; it may be one of \['before'"),
        ([row("trial", 10, None)], {}, "`miou` of row 'a' is None"),
        ([row("trial", 10, float("nan"))], {}, "`miou` of row 'a' is nan"),
        (good, {"x": "flops"}, "`x` is 'flops'"),
        (good, {"budget": 0}, "`budget` is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            plots.plot_pareto(rows, tmp_path / "new" / "a.png", **kwargs)
    with pytest.raises(ValueError, match=r"ends in one of \['.png'"):
        plots.plot_pareto(good, tmp_path / "a.txt")
    assert list(tmp_path.iterdir()) == []


def test_picture_is_written_into_a_new_folder_and_settings_stay(tmp_path: Path) -> None:
    with matplotlib.rc_context({"figure.facecolor": "black", "text.color": "white"}):
        before = dict(matplotlib.rcParams)
        path = plots.plot_pareto([row("trial", 10, 0.5)], tmp_path / "new" / "a.png")
        assert dict(matplotlib.rcParams) == before
    with Image.open(path) as image:
        assert (image.format, image.size) == ("PNG", (1440, 1000))
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def removal(layers: list[int], quality: float) -> dict[str, Any]:
    return {"layers": layers, "quality": quality, "params": 90_000_000 - 7_000_000 * len(layers)}


def test_layer_ranking_colours_the_proposal_and_names_each_step(drawn: list[Figure], tmp_path: Path) -> None:
    ranking = {
        "full": removal([], 0.8),
        "single": [removal([i], 0.1 * i) for i in range(5)],
        "greedy": [removal([4], 0.75), removal([1, 4], 0.7), removal([1, 3, 4], 0.2)],
        "prunable_layers": [1, 4],
        "prune_probability": [0.5, 0.5],
    }
    plots.plot_layer_ranking(ranking, tmp_path / "a.png")
    single, greedy, sizes = drawn[0].axes
    bars = {round(bar.get_x() + bar.get_width() / 2): bar for bar in single.patches}
    assert {layer: bar.get_height() for layer, bar in bars.items()} == pytest.approx({i: 0.1 * i for i in range(5)})
    assert {i for i, bar in bars.items() if same_color(bar.get_facecolor(), plots.VERMILLION)} == {1, 4}
    assert [label.get_text() for label in greedy.get_xticklabels()] == ["0\nnone", "1\n+4", "2\n+1", "3\n+3"]
    assert line_of(greedy, "mIoU").tolist() == [[0, 0.8], [1, 0.75], [2, 0.7], [3, 0.2]]
    assert [bar.get_height() for bar in sizes.patches] == [90, 83, 76, 69]
    assert greedy.collections[0].get_offsets().tolist() == [[2, 0.7]]
    with pytest.raises(ValueError, match="`greedy` of the ranking is empty"):
        plots.plot_layer_ranking({**ranking, "greedy": []}, tmp_path / "b.png")


SANDWICH = {"loss_largest": 0.1, "loss_smallest": 0.3, "loss_sampled": 0.2, "images_per_second": 3.0}


@pytest.mark.parametrize(
    "lines, labels",
    [
        ([{"loss": 0.5}], ["Loss"]),
        ([{**SANDWICH, "learning_rate": 1e-5}], ["Loss", "Learning\nrate"]),
        ([SANDWICH, {"miou_largest": 0.7}], ["Loss", "mIoU"]),
        ([{**SANDWICH, "learning_rate": 1e-5}, {"miou": 0.7}], ["Loss", "Learning\nrate", "mIoU"]),
    ],
)
def test_training_has_a_panel_for_what_was_logged(
    drawn: list[Figure], tmp_path: Path, lines: list[dict[str, float]], labels: list[str]
) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps({"step": i, **line}) + "\n" for i, line in enumerate(lines)))
    plots.plot_training(log, tmp_path / "a.png")
    assert [axes.get_ylabel() for axes in drawn[0].axes] == labels


def test_training_smooths_each_loss_and_leaves_out_a_line_cut_off(drawn: list[Figure], tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    values = [0.5 + 0.1 * (-1) ** i for i in range(200)]
    log.write_text("".join(json.dumps({"step": 10 * i, "loss": v}) + "\n" for i, v in enumerate(values)) + '{"step')
    plots.plot_training(log, tmp_path / "a.png")
    raw, smooth = (line.get_xydata() for line in drawn[0].axes[0].get_lines())
    assert raw.tolist() == [[10 * i, v] for i, v in enumerate(values)]
    # a mean of 11 values that swing by ±0.1 has one of them left over; at the ends it is of 6
    assert np.abs(smooth[5:-5, 1] - 0.5).max() == pytest.approx(0.1 / 11)
    assert smooth[0, 1] == pytest.approx(np.mean(values[:6]))


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"step": 1, "miou": 0.5}\n', "no line with a loss"),
        ("", "no line with a loss"),
        ('{"step": 1, "loss": 1.0}\n{"step\n', "Line 2 of .* is not JSON"),
        ('{"loss": 1.0}\n', "Line 1 of .* has no `step`"),
    ],
)
def test_training_refuses_what_is_not_its_log(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "log.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        plots.plot_training(tmp_path / "log.jsonl", tmp_path / "a.png")


def trial(params: int, quality: float | None, exceeded: str | None, score: float | None) -> Evaluation:
    return Evaluation(SPACE.smallest(), params, 1, None, quality, exceeded, score)


def test_search_follows_the_best_feasible_trial(drawn: list[Figure], tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    trials = [trial(10**6, q, None if q > 0.3 else "min_quality", q) for q in rng.random(40).tolist()]
    trials[3], trials[7] = trial(9 * 10**6, None, "max_params", None), trial(10**6, 2.0, "max_latency_ms", 2.0)
    plots.plot_search([t if i % 2 else t.to_dict() for i, t in enumerate(trials)], tmp_path / "a.png")
    left, right = drawn[0].axes
    qualities = [t.quality if t.feasible and t.quality is not None else -1.0 for t in trials]
    for number, best in line_of(left, "best so far").tolist():
        assert best == max(qualities[: int(number)])
    assert line_of(left, "infeasible, not run")[:, 0].tolist() == [4]
    assert line_of(right, "infeasible, not run")[:, 0].tolist() == [9]
    counts = {points.get_label(): len(points.get_offsets()) for points in left.collections}
    feasible = sum(t.feasible for t in trials)
    assert counts == {"feasible": feasible, "infeasible": 39 - feasible, "best": 1}


def test_search_for_a_small_subnet_marks_the_best_score_not_the_best_quality(
    drawn: list[Figure], tmp_path: Path
) -> None:
    plots.plot_search([trial(5 * 10**6, 0.9, None, 0.1), trial(10**6, 0.7, None, 0.8)], tmp_path / "a.png")
    star = drawn[0].axes[1].collections[-1]
    assert star.get_label() == "best"
    assert star.get_offsets().tolist() == [[1.0, 0.7]]


def test_search_refuses_no_trials_and_unscored_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`trials` is empty"):
        plots.plot_search([], tmp_path / "a.png")
    with pytest.raises(ValueError, match="Trial 2 is feasible but has no `quality` or no `score`"):
        plots.plot_search([trial(1, 0.5, None, 0.5), trial(1, 0.5, None, None)], tmp_path / "a.png")


def squares(*corners: tuple[int, int, int]) -> np.ndarray:
    """bool (K, 30, 40): squares from (x, y) with this side."""
    masks = np.zeros((len(corners), 30, 40), dtype=bool)
    for mask, (x, y, side) in zip(masks, corners):
        mask[y : y + side, x : x + side] = True
    return masks


def test_overlay_fills_objects_inside_an_opaque_contour_small_ones_on_top() -> None:
    colors = plots.overlay(squares((4, 4, 3), (2, 2, 10)))
    small, large = (matplotlib.colors.to_rgb(color) for color in plots.OBJECT_COLORS[:2])
    assert (colors[..., 3] > 0).sum() == 100
    assert (colors[..., 3] == 1).sum() == (100 - 64) + (9 - 1)
    assert colors[5, 5].tolist() == pytest.approx([*small, 0.45])
    assert colors[4, 4].tolist() == pytest.approx([*small, 1.0])
    assert colors[9, 9].tolist() == pytest.approx([*large, 0.45])
    assert not plots.overlay(np.zeros((0, 30, 40), dtype=bool)).any()


def sample(**changes: Any) -> dict[str, Any]:
    truth = squares((4, 4, 3), (20, 10, 10))
    found = {"image": np.zeros((30, 40, 3), np.uint8), "boxes": None, "points": np.array([[5, 5], [25, 15]])}
    found |= {"truth": truth, "predictions": {"original": truth, "found": ~truth}}
    return found | {"ious": {"original": [1.0, 0.5], "found": [0.0, 0.1]}} | changes


def test_overlays_have_a_row_a_sample_and_a_column_a_prediction(drawn: list[Figure], tmp_path: Path) -> None:
    nothing = np.zeros((0, 30, 40), dtype=bool)
    empty = sample(truth=nothing, points=None, predictions={"found": nothing, "original": nothing})
    empty["ious"] = {"found": [], "original": []}
    boxed = sample(boxes=np.array([[4, 4, 7, 7], [20, 10, 47, 37]]))
    plots.plot_overlays([boxed, empty], tmp_path / "a.png", ["found", "original"])
    axes = drawn[0].axes
    titles = [
        "image and prompts",
        "ground truth",
        "found, mIoU 0.05",
        "original, mIoU 0.75",
        "",
        "",
        "found",
        "original",
    ]
    assert [panel.get_title() for panel in axes] == titles
    assert [box.get_bbox().extents.tolist() for box in axes[0].patches] == [[4, 4, 7, 7], [20, 10, 47, 37]]
    assert (axes[2].images[1].get_array() == plots.overlay(boxed["predictions"]["found"])).all()
    # a box that reaches beyond the image does not enlarge the panel
    assert {(panel.get_xlim(), panel.get_ylim()) for panel in axes} == {((-0.5, 39.5), (29.5, -0.5))}


def test_overlays_refuse_samples_that_do_not_fit_together(tmp_path: Path) -> None:
    for samples, message in (
        ([], "`samples` is empty"),
        ([sample(image=np.zeros((30, 40, 3)))], "`image` of sample 0 is float64"),
        (
            [sample(), sample(predictions={"original": squares((1, 1, 2)), "found": squares()})],
            "'original' of sample 1 are",
        ),
        ([sample(), sample(ious={"original": [1.0, 1.0]})], "Sample 1 lacks `predictions` or `ious` of 'found'"),
        ([sample(ious={"original": [1.0], "found": [1.0]})], "`ious` of 'original' of sample 0"),
        ([sample(points=np.zeros((3, 2)))], "`points` of sample 0"),
    ):
        with pytest.raises(ValueError, match=message):
            plots.plot_overlays(samples, tmp_path / "a.png")


def test_windows_are_drawn_in_order_whatever_the_order_of_the_table(drawn: list[Figure], tmp_path: Path) -> None:
    plots.plot_windows({"wanda": {3072: 0.8, 768: 0.4}, "none": {768: 0.1, 1536: 0.3}}, tmp_path / "a.png")
    axes = drawn[0].axes[0]
    assert line_of(axes, "wanda").tolist() == [[768, 0.4], [3072, 0.8]]
    assert axes.get_xticks().tolist() == [768, 1536, 3072]
    for table in ({}, {"none": {}}):
        with pytest.raises(ValueError, match="`table` has no windows"):
            plots.plot_windows(table, tmp_path / "b.png")


def test_subnet_bars_are_its_widths_and_removed_layers_are_hatched(drawn: list[Figure], tmp_path: Path) -> None:
    subnet = Subnet((0, 2, 3, 4, 5), (96, 24, 48, 24, 96), (8, 8, 8, 8, 8))
    plots.plot_subnet(SPACE, {"found": subnet, "largest": SPACE.largest()}, tmp_path / "a.png")
    found, largest = drawn[0].axes
    bars = {round(bar.get_x() + bar.get_width() / 2): bar for bar in found.patches}
    assert {layer for layer, bar in bars.items() if bar.get_hatch()} == {1}
    solid = {layer: bar.get_height() for layer, bar in bars.items() if not bar.get_hatch()}
    assert solid == dict(zip(subnet.layers, subnet.mlp_dim))
    assert {layer for layer, bar in bars.items() if same_color(bar.get_facecolor(), plots.BLACK)} == {0}
    assert [bar.get_height() for bar in largest.patches] == [96] * 6


def test_subnet_shows_attention_over_all_heads_where_it_is_elastic(drawn: list[Figure], tmp_path: Path) -> None:
    space = ElasticSpace(3, 4, 96, 8, (0,), (), (), (24, 48), (16, 24))
    plots.plot_subnet(space, {"smallest": space.smallest()}, tmp_path / "a.png")
    bars = drawn[0].axes[0].patches
    assert [bar.get_height() for bar in bars if same_color(bar.get_facecolor(), plots.ORANGE)] == [32, 16, 16]


def test_subnet_of_another_space_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only `prunable_layers`"):
        plots.plot_subnet(SPACE, {"a": SPACE.subnet(removed=(2,))}, tmp_path / "a.png")
    with pytest.raises(ValueError, match="`subnets` is empty"):
        plots.plot_subnet(SPACE, {}, tmp_path / "a.png")
