"""Benchmarks: their floors, the form they share, and the runner."""

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch


BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def common(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("common")


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
        "| bf16 | 0.3333 | 1 |  |",
        "| more |  |  | 4 |",
    ]
    written = json.loads(output.read_text())
    assert written["benchmark"] == "test_benchmarks"  # the file that measures
    assert (written["dtype"], written["quick"], written["settings"]) == ("bf16", True, {"device": "cpu"})
    assert written["rows"][1] == {"name": "more", "ms": None, "terms": 4}
    assert written["hardware"]["threads"] == 1
    assert written["versions"]["torch"] == torch.__version__
