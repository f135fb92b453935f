"""Benchmarks: their floors, the form they share, and the runner."""

import argparse
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from supersam_hf.plots import benchmarks


BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
DTYPES = ("fp32", "bf16")


@pytest.fixture
def common(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("common")


@pytest.fixture
def runner(common: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The runner, over scripts that the tests write."""
    module = importlib.import_module("run")
    monkeypatch.setattr(module, "SCRIPTS", tmp_path)
    return module


@pytest.fixture
def small_rates(common: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Rates of small matrices and buffers, in a moment."""
    monkeypatch.setattr(common, "MATMUL_SIDES", (64, 256))
    monkeypatch.setattr(common, "COPY_BYTES", 2**22)
    return common


def test_a_floor_is_the_slower_of_work_and_memory(common: Any) -> None:
    rates = common.Rates(macs=2e9, bytes=1e9)
    assert common.floor_ms(macs=4_000_000, bytes=1_000_000, rates=rates) == pytest.approx(2.0)
    assert common.floor_ms(macs=1_000_000, bytes=3_000_000, rates=rates) == pytest.approx(3.0)


@pytest.mark.parametrize("dtype", ["fp32", torch.bfloat16])
def test_rates_are_those_of_a_machine(small_rates: Any, dtype: Any) -> None:
    rates = small_rates.measured_rates("cpu", dtype)
    # a slow core multiplies 10⁸ times a second and copies 10⁸ bytes; no machine of 2²⁰ cores is faster than 10¹⁷
    assert 1e7 < rates.macs < 1e17
    assert 1e7 < rates.bytes < 1e17


def add_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--terms", type=int, default=2)


def addition(args: argparse.Namespace) -> dict[str, Any]:
    rows = [{"name": args.dtype, "ms": 1 / 3, "ratio": 1.0}, {"name": "more", "ms": None, "terms": args.terms}]
    return {"rows": rows, "settings": {"device": args.device}}


def test_a_benchmark_prints_its_rows_and_writes_what_it_ran_on(
    common: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    output, threads = tmp_path / "new" / "addition.json", torch.get_num_threads()
    options = ["--quick", "--dtype", "bf16", "--device", "cpu", "--threads", "1", "--terms", "4", "--output", output]
    monkeypatch.setattr(sys, "argv", ["addition.py", *map(str, options)])
    common.main("Adds.", add_option, addition)
    torch.set_num_threads(threads)
    assert capsys.readouterr().out.splitlines() == [
        "| name | ms | ratio | terms |",
        "|---|---|---|---|",
        "| bf16 | 0.333 | 1 |  |",
        "| more |  |  | 4 |",
    ]
    written = json.loads(output.read_text())
    assert written["benchmark"] == "test_benchmarks"  # the file that measures
    assert (written["dtype"], written["quick"], written["settings"]) == ("bf16", True, {"device": "cpu"})
    assert written["rows"][1] == {"name": "more", "ms": None, "terms": 4}
    assert written["hardware"]["threads"] == 1
    assert written["versions"]["torch"] == torch.__version__


# What it writes is what it was started with; the floor is a quarter of the time that is compared with.
ENCODER = """
import json, os, sys
value = dict(zip(sys.argv[1::2], sys.argv[2::2]))
stock = {"name": "stock", "ms": 4.0, "ratio": 1.0, "floor_ms": 1.0, "pid": os.getpid()}
ours = {"name": "ours", "ms": 2.0, "ratio": 0.5, "ratio_p10": 0.4, "ratio_p90": 0.7, "floor_ms": 1.0}
ours["threads"] = os.environ["OMP_NUM_THREADS"]
hardware = {"device": "A processor", "threads": 1, "os": "an OS"}
result = {"benchmark": "encoder", "dtype": value["--dtype"], "quick": False, "rows": [stock, ours]}
with open(value["--output"], "w") as file:
    json.dump({**result, "hardware": hardware, "versions": {"torch": "9.9"}}, file)
"""


def test_the_runner_keeps_what_ran_and_names_what_failed(runner: Any, tmp_path: Path) -> None:
    (tmp_path / "encoder.py").write_text(ENCODER)
    (tmp_path / "loader.py").write_text("import sys\nprint('working')\nraise ValueError('no data')")
    (tmp_path / "import_time.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "search_fp32.json").write_text('{"benchmark": "search", "dtype": "fp32", "error": "of an earlier run"}')
    names = ["encoder", "search", "loader", "import_time"]
    options = ["--dtype", "fp32", "bf16", "--threads", "3", "--output", str(folder)]
    assert runner.main(["--only", *names, *options]) == 1
    page = (folder / "bench.md").read_text().splitlines()
    assert page[0] == "A processor, 1 threads, an OS; torch 9.9."
    for dtype in ("fp32", "bf16"):
        (line,) = [line for line in page if line.startswith(f"| encoder | {dtype} | ours |")]
        assert line.split(" | ")[3:] == ["2", "0.5 (0.4 to 0.7)", "1", "50%", "threads 3 |"]
    assert page[-4:] == [
        "- **search fp32 failed**: there is no search.py",
        "- **search bf16 failed**: there is no search.py",
        "- **loader failed**: ValueError: no data",
        "- **import_time failed**: ended by SIGKILL",
    ]
    processes = {json.loads((folder / f"encoder_{dtype}.json").read_text())["rows"][0]["pid"] for dtype in DTYPES}
    assert len(processes | {os.getpid()}) == 3
    assert (folder / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_the_runner_ends_well_and_keeps_what_it_does_not_run(runner: Any, tmp_path: Path) -> None:
    (tmp_path / "encoder.py").write_text(ENCODER)
    options = ["--threads", "1", "--output", str(tmp_path / "out"), "--only", "encoder", "--dtype"]
    assert runner.main([*options, "fp32"]) == 0
    assert runner.main([*options, "bf16"]) == 0
    page = (tmp_path / "out" / "bench.md").read_text()
    assert page.count("| encoder | fp32 | ours |") == page.count("| encoder | bf16 | ours |") == 1


def test_import_time_is_that_of_fresh_interpreters(common: Any) -> None:
    measure = importlib.import_module("import_time").measure
    rows = {row["name"]: row for row in measure(argparse.Namespace(quick=True, rounds=5))["rows"]}
    stock, ours, helped = rows.values()
    assert stock["ratio"] == 1.0
    # here neither of the three is there already; a test of time would depend on the machine
    assert stock["cpu_ms"] > ours["cpu_ms"] > 1
    assert stock["cpu_ms"] > helped["cpu_ms"] > 1


def test_the_loader_is_timed_against_the_step_that_it_feeds(common: Any) -> None:
    loader = importlib.import_module("loader")
    parser = argparse.ArgumentParser()
    loader.arguments(parser)
    args = parser.parse_args([], argparse.Namespace(quick=True, device="cpu"))
    rows = {row["name"]: row for row in loader.measure(args)["rows"]}
    sources = ("map-style", "stream of parquet", "stream of SA-1B tars")
    assert list(rows) == ["sandwich step", *(f"{source}, 0 workers" for source in sources)]
    for row in rows.values():
        assert row["ms"] * row["samples_per_s"] == pytest.approx(1000)
        assert row["ratio"] == pytest.approx(row["ms"] / rows["sandwich step"]["ms"])


def test_the_figure_shows_ratios_their_spread_and_the_floor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(benchmarks, "save", lambda figure, path: figures.append(figure))
    ours = {"name": "ours", "ms": 2.0, "ratio": 0.5, "ratio_p10": 0.4, "ratio_p90": 0.7, "floor_ms": 1.2}
    stock, uncompared = {"name": "stock", "ms": 4.0, "ratio": 1.0}, {"name": "of its own", "ms": 3.0}
    results = [
        {"benchmark": "encoder", "dtype": "bf16", "rows": [stock, ours, uncompared]},
        {"benchmark": "search", "dtype": "fp32", "rows": [{"name": "prefix kept", "ms": 9.0, "ratio": 0.25}]},
    ]
    benchmarks.plot_benchmarks(results, tmp_path / "a.png")
    encoder, search = figures[0].axes
    assert [label.get_text() for label in encoder.get_yticklabels()] == ["stock", "ours"]
    assert [label.get_text() for label in search.get_yticklabels()] == ["prefix kept"]
    drawn = [bar.lines for bar in encoder.containers]
    assert [point.get_xdata()[0] for point, _, _ in drawn] == [1.0, 0.5]
    (whisker,) = drawn[1][2][0].get_segments()
    assert whisker[:, 0] == pytest.approx([0.4, 0.7])
    # 1.2 of the 4 ms that stock takes
    (floor,) = [dots for dots in encoder.collections if dots.get_label() == "floor of this machine"]
    assert floor.get_offsets()[0, 0] == pytest.approx(0.3)


def test_a_figure_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no row with a `ratio`"):
        benchmarks.plot_benchmarks([{"benchmark": "a", "dtype": "fp32", "rows": [{"name": "b"}]}], tmp_path / "a.png")
    with pytest.raises(ValueError, match="`dtype` must be one of"):
        benchmarks.plot_benchmarks([{"benchmark": "a", "dtype": "fp16", "rows": []}], tmp_path / "a.png")


def test_the_ablation_reads_a_recipe(common: Any) -> None:
    recipe = str(BENCHMARKS.parent / "recipes" / "ofb_swin" / "cifar10_cpu.yaml")
    found = importlib.import_module("ofb_ablation").ofb_recipe(["--config", recipe, "--search.max_steps", "400"])
    assert (found.search.max_steps, found.pretrain.enabled) == (400, True)
