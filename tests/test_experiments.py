"""Experiments in small: every table and figure, on generated shapes; what is done is not done again."""

import csv
import hashlib
import json
import shutil
import signal
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from matplotlib.figure import Figure
from PIL import Image

from supersam_hf.experiments.arguments import ExperimentArguments
from supersam_hf.experiments.runs import ExperimentRuns
from supersam_hf.experiments.statistics import Spread, area_under_front
from supersam_hf.experiments.table1 import compare_table1
from supersam_hf.plots.experiments import _draw_original
from supersam_hf_cli import main


RECIPES = Path(__file__).parents[1] / "recipes" / "experiments"
BASE: dict[str, Any] = {
    "holdout_images": 4,
    "data": {
        "source": "shapes",
        "shapes_image_size": 64,
        "shapes_train_images": 16,
        "shapes_eval_images": 4,
        "max_objects": 2,
        "box_padding": 3,
        "batch_size": 4,
    },
    "pretrain": {
        "enabled": True,
        "image_size": 64,
        "hidden_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 3,
        "decoder_size": 32,
        "max_steps": 3,
        "warmup_steps": 1,
    },
    "rank_layers": {"num_images": 4, "max_removed": 2, "max_drop": 1.0},
    "space": {"sample_full": False},  # as the bases of the package: the paper's windows
    "reorder": {"num_images": 4},
    "train": {
        "max_steps": 2,
        "save_steps": 2,
        "eval_steps": 1,
        "learning_rate": 1.0e-3,
        "milestone": {"miou": 0.001},
    },
}
VARIANTS = ("none", "magnitude", "wanda")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "base.yaml"
    path.write_text(yaml.safe_dump(BASE))
    return path


def argv(kind: str, base: Path, folder: Path, *settings: str) -> list[str]:
    words = ["experiment", "--config", RECIPES / f"{kind}.yaml", "--base", base, "--output_dir", folder]
    return [str(word) for word in (*words, "--seeds", 0, 1, "--set", "evaluate.num_sampled=2", *settings)]


def supernets(folder: Path) -> dict[str, str]:
    found = sorted(folder.glob("runs/*/seed-*/supernet/model.safetensors"))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def written(folder: Path, kind: str) -> Any:
    return json.loads((folder / kind / "experiment.json").read_text())


@pytest.fixture(scope="module")
def folder(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Table I was made here first."""
    folder = tmp_path_factory.mktemp("experiments")
    assert main(argv("table1_reordering", base, folder)) == 0
    return folder


@pytest.fixture(scope="module")
def fig4(folder: Path, base: Path) -> Any:
    """Fig. 4 in the folder of Table I."""
    before, times = supernets(folder), {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/*/supernet/*")}
    assert main(argv("fig4_pareto", base, folder)) == 0
    assert supernets(folder) == before  # nothing was trained again
    assert {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/*/supernet/*")} == times
    return written(folder, "fig4_pareto")


def test_table_1_is_what_the_runs_wrote(folder: Path) -> None:
    rows = {(row["variant"], row["seed"]): row for row in written(folder, "table1_reordering")["results"]["runs"]}
    assert set(rows) == {(variant, seed) for variant in VARIANTS for seed in (0, 1)}
    for (variant, seed), row in rows.items():
        record = json.loads((folder / f"runs/{variant}/seed-{seed}/milestone.json").read_text())
        assert (row["iterations"], row["images"]) == (record["step"], 4 * record["step"])
        assert row["seconds"] == pytest.approx(record["seconds"] / 3600)
    with (folder / "table1_reordering/table.csv").open() as file:
        assert [(line["variant"], int(line["seed"])) for line in csv.DictReader(file)] == list(rows)
    table = (folder / "table1_reordering/table.md").read_text()
    assert all(f"| {variant} | 2 of 2 |" in table for variant in VARIANTS)
    assert len(supernets(folder)) == 6


def test_all_runs_share_one_ranking_and_one_start(folder: Path) -> None:
    layers = json.loads((folder / "runs/layers/seed-0/ranking.json").read_text())["prunable_layers"]
    spaces = [json.loads(path.read_text())["elastic_space"] for path in folder.glob("runs/*/*/supernet/config.json")]
    assert [space["prunable_layers"] for space in spaces] == [layers] * 6
    assert [path.parent.name for path in folder.glob("runs/**/pretrained")] == ["start"]
    assert not list(folder.glob("runs/*/*/search*"))


def test_what_never_reached_the_target_is_said(folder: Path, base: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder / "runs", copy / "runs")
    for place in ("none/seed-0", "none/seed-1", "wanda/seed-1"):
        (copy / "runs" / place / "milestone.json").unlink()
    args = ExperimentArguments.read(RECIPES / "table1_reordering.yaml")
    args.base, args.seeds = str(base), [0, 1]
    comparison = compare_table1(ExperimentRuns(args, copy))
    none, _, wanda = [line for line in comparison.table.splitlines() if line.startswith("| ")][-3:]
    assert none.startswith("| none | 0 of 2 | not reached in 2 | ")
    assert wanda.startswith("| wanda | 1 of 2 | ")
    one = json.loads((copy / "runs/wanda/seed-0/milestone.json").read_text())
    assert comparison.results["summary"]["wanda"]["iterations"]["values"] == (one["step"],)
    comparison.draw(tmp_path / "figure.png")
    assert np.asarray(Image.open(tmp_path / "figure.png")).std() > 0


def test_fig_4_compares_the_same_subnets(folder: Path, fig4: Any) -> None:
    rows = [row for row in fig4["results"]["runs"] if row["kind"] == "sampled"]
    subnets = {}
    for variant in VARIANTS:
        for seed in (0, 1):
            results = json.loads((folder / f"runs/{variant}/seed-{seed}/results.json").read_text())["rows"]
            subnets[variant, seed] = [row["subnet"] for row in results if row["kind"] == "sampled"]
            mious = [row["miou"] for row in results if row["kind"] == "sampled"]
            assert [r["miou"] for r in rows if (r["variant"], r["seed"]) == (variant, seed)] == mious
    assert len({json.dumps(found) for found in subnets.values()}) == 1
    assert len(subnets["none", 0]) == 2


def test_fig_4_pairs_variants_seed_by_seed(fig4: Any) -> None:
    rows = [row for row in fig4["results"]["runs"] if row["kind"] == "sampled"]

    def mean(variant: str, seed: int) -> float:
        return statistics.mean(r["miou"] for r in rows if (r["variant"], r["seed"]) == (variant, seed))

    for other in ("none", "magnitude"):
        pair = fig4["results"]["pairs"][f"wanda - {other}"]
        differences = [mean("wanda", seed) - mean(other, seed) for seed in (0, 1)]
        assert pair["values"] == pytest.approx(differences)
        assert (pair["mean"], pair["sd"]) == pytest.approx(
            (statistics.mean(differences), statistics.stdev(differences))
        )


def test_fig_5_sets_windows_against_both(folder: Path, base: Path, fig4: Any) -> None:
    """Supernet A, of any depth and width, is the base without prunable layers; B is that of Fig. 4."""
    before = supernets(folder)
    assert main(argv("fig5_structured_vs_windows", base, folder)) == 0
    assert before.items() <= supernets(folder).items()
    config = json.loads((folder / "runs/windows/seed-0/supernet/config.json").read_text())
    assert (config["elastic_space"]["prunable_layers"], config["elastic_space"]["mlp_windows"]) == (
        [],
        [48, 60, 96, 144],
    )
    results = written(folder, "fig5_structured_vs_windows")["results"]
    ours = [row for row in results["runs"] if row["kind"] != "original"]
    sizes = {v: [row["params"] for row in ours if row["variant"] == v] for v in ("windows", "wanda")}
    low, high = max(map(min, sizes.values())), min(map(max, sizes.values()))
    assert results["range"] == [low, high]
    grid = np.linspace(low, high, 20_001)[:-1]  # brute force: the best that is to be had for each size
    for variant in sizes:
        points = [r for r in ours if (r["variant"], r["seed"]) == (variant, 0)]
        heights = [max(r["miou"] for r in points if r["params"] <= size) for size in grid]
        assert results["frontier"][variant]["values"][0] == pytest.approx(statistics.mean(heights), abs=1e-4)


def test_fig_3_goes_over_seeds(folder: Path, base: Path) -> None:
    assert main(argv("fig3_layers", base, folder)) == 0
    results = written(folder, "fig3_layers")["results"]
    rankings = [json.loads((folder / f"runs/layers/seed-{n}/ranking.json").read_text()) for n in (0, 1)]
    assert rankings[0]["full"]["quality"] != rankings[1]["full"]["quality"]  # other prompts
    for layer in range(4):
        values = [ranking["single"][layer]["quality"] for ranking in rankings]
        assert results["single"][str(layer)]["mean"] == pytest.approx(statistics.mean(values))
    assert [len(order) for order in results["orders"]] == [2, 2]


def test_a_folder_of_other_values_is_refused_before_anything_runs(
    folder: Path, base: Path, capsys: pytest.CaptureFixture
) -> None:
    before = supernets(folder)
    assert main(argv("fig4_pareto", base, folder, "train.learning_rate=2e-3", "--seeds", "2", "1")) == 2
    assert "train.learning_rate" in capsys.readouterr().err
    assert supernets(folder) == before


@pytest.mark.slow
def test_a_killed_experiment_ends_as_one_that_was_not(folder: Path, base: Path, fig4: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "supersam_hf", *argv("fig4_pareto", base, tmp_path / "killed")]
    log = tmp_path / "killed/runs/magnitude/seed-0/train/log.jsonl"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not log.exists():
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed/fig4_pareto").exists()
    subprocess.run(command, check=True, capture_output=True)
    assert supernets(tmp_path / "killed") == {
        name: digest for name, digest in supernets(folder).items() if "windows" not in name
    }
    assert written(tmp_path / "killed", "fig4_pareto")["results"] == fig4["results"]


def test_the_area_under_a_front_is_that_of_its_steps() -> None:
    rows = [{"params": 10, "miou": 0.2}, {"params": 20, "miou": 0.5}, {"params": 25, "miou": 0.4}]
    rows.append({"params": 40, "miou": 0.8})
    assert area_under_front(rows, 10, 40) == pytest.approx((0.2 * 10 + 0.5 * 20) / 30)
    assert area_under_front(rows, 20, 50) == pytest.approx((0.5 * 20 + 0.8 * 10) / 30)
    assert area_under_front(rows, 21, 22) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="No subnet has 5"):
        area_under_front(rows, 5, 40)


@pytest.mark.parametrize(("original", "edge"), [(0.21, True), (0.70, False)])
def test_an_original_far_below_does_not_squeeze_the_subnets(original: float, edge: bool) -> None:
    axes = Figure().subplots()
    axes.scatter([1, 2], [0.60, 0.72])
    _draw_original(axes, {"params": 2e6, "miou": original}, [0.60, 0.72])
    assert (axes.get_ylim()[0] > original) == edge
    assert (len(axes.texts) == 1) == edge


def test_a_spread_is_mean_and_sample_deviation() -> None:
    spread = Spread.of([1.0, 2.0, 6.0])
    assert (spread.mean, spread.sd) == pytest.approx((3.0, 7**0.5))
    assert spread.text("{:.1f}".format) == "3.0 ± 2.6"
    assert Spread.of([1.0]).text("{:.1f}".format) == "1.0"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (["train.max_steps"], "section.key=value"),
        (["random:reorder.method=none"], "names no variant"),
        (["data.batch_size=[1"], "YAML"),
        (["train.milestone=null"], "train.milestone"),
        (["train.max_stepz=3"], "max_stepz"),
    ],
)
def test_wrong_settings_are_named(
    settings: list[str], named: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(argv("table1_reordering", base, tmp_path / "out", *settings)) == 2
    assert named in capsys.readouterr().err
    assert not list(tmp_path.glob("out/runs/*"))


def test_wrong_recipes_are_named(tmp_path: Path) -> None:
    path = tmp_path / "experiment.yaml"
    good: dict[str, Any] = {"kind": "fig4_pareto", "variants": {"a": {}, "b": {}}}
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"kind": "fig6"}, "`kind` must be one of"),
        ({"variants": {}}, "`variants` is empty"),
        ({"variants": {"a/b": {}}}, "become folders"),
        ({"seeds": [1, 1]}, "`seeds` must be different"),
        ({"pairs": [["a", "c"]]}, "`pairs` names"),
        ({"labels": {"c": "C"}}, "`labels` names"),
        ({"colour": "red"}, "unknown fields"),
    ]
    for changed, message in wrong:
        path.write_text(yaml.safe_dump({**good, **changed}))
        with pytest.raises(ValueError, match=message):
            ExperimentArguments.read(path)


def test_settings_reach_all_runs_or_one(base: Path, tmp_path: Path) -> None:
    args = ExperimentArguments.read(RECIPES / "fig5_structured_vs_windows.yaml")
    args.base = str(base)
    args.use(["train.learning_rate=5e-4", "windows:space.mlp_windows=[24, 48]"])
    runs = ExperimentRuns(args, tmp_path)
    a, b = runs.recipe("windows", 2), runs.recipe("wanda", 2)
    assert a.train.learning_rate == b.train.learning_rate == 5e-4
    assert (a.space.mlp_windows, b.space.mlp_windows) == ([24, 48], None)
    assert (a.space.prunable_layers, b.space.prunable_layers) == ([], None)
