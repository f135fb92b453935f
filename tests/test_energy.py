"""Costs: energy of a stretch of work, sittings that add up, killed ones too, and the stages of a run."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import Any

import fresh
import pytest
import torch

from supersam_hf.measure.cost import Cost, CostMeter, read_sittings, total_cost
from supersam_hf.measure.energy import EnergyArguments, EnergyMeter, EnergyUse, can_track_energy
from supersam_hf.pipeline.context import Run
from supersam_hf.pipeline.costs import cost_file, run_costs
from supersam_hf.pipeline.folder import RunFolder
from supersam_hf.pipeline.runner import Stage, is_done, run_stages
from supersam_hf.recipe import Recipe, RunRecipe
from supersam_hf.training.milestone import Milestone
from supersam_hf.training.pretrain import PretrainArguments
from supersam_hf.training.sandwich import SandwichArguments


pytest.importorskip("codecarbon")


@pytest.fixture(autouse=True)
def no_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("CODECARBON_")]:
        monkeypatch.delenv(name)


def work(seconds: float = 0.3) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        torch.randn(64, 64) @ torch.randn(64, 64)


def used(args: EnergyArguments | None = None, seconds: float = 0.1) -> EnergyUse | None:
    """What some work used."""
    meter = EnergyMeter(args)
    meter.start()
    work(seconds)
    use = meter.read()
    meter.stop()
    return use


def test_what_is_recorded() -> None:
    started = time.perf_counter()
    use = used(EnergyArguments(country="fra"), 0.3)
    watts = use.energy_kwh * 3.6e6 / (time.perf_counter() - started)
    assert 0.1 < watts < 5000
    assert use.country == "FRA"
    # France's mean is about 50 g a kWh; no country's is above 1.5 kg.
    assert 0.01 < use.kg_per_kwh < 0.2
    assert use.emissions_kg == pytest.approx(use.energy_kwh * use.kg_per_kwh)
    assert use.hardware
    assert use.method.startswith("whole machine; CPU ")


def test_a_countrys_factor_is_codecarbons_own() -> None:
    from codecarbon import OfflineEmissionsTracker

    tracker = OfflineEmissionsTracker(country_iso_code="DEU", output_methods=[], allow_multiple_runs=True)
    tracker.start()
    work(0.3)
    tracker.stop()
    found = tracker.final_emissions_data
    ours = used(EnergyArguments(country="DEU")).kg_per_kwh
    assert ours == pytest.approx(found.emissions / found.energy_consumed, rel=1e-6)


def test_without_a_country_no_emissions_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    use = used()
    assert use.energy_kwh > 0
    assert (use.country, use.emissions_kg) == (None, None)
    monkeypatch.setenv("CODECARBON_COUNTRY_ISO_CODE", "USA")
    use = used()
    assert use.country == "USA"
    assert use.emissions_kg > 0
    use = used(EnergyArguments(kg_per_kwh=0.437))
    assert (use.country, use.kg_per_kwh) == (None, 0.437)
    assert use.emissions_kg == pytest.approx(0.437 * use.energy_kwh)


def test_bad_factors(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="three-letter ISO code.*'Narnia'"):
        EnergyArguments(country="Narnia")
    with pytest.raises(ValueError, match="`kg_per_kwh` must be a number of 0 or more or null, got -1"):
        EnergyArguments(kg_per_kwh=-1)
    with pytest.raises(ValueError, match="give one of them"):
        EnergyArguments(country="FRA", kg_per_kwh=0.4)
    monkeypatch.setenv("CODECARBON_COUNTRY_ISO_CODE", "XX")
    with caplog.at_level(logging.WARNING):
        use = used()
    assert "unknown country, 'XX'" in caplog.text
    assert use.emissions_kg is None


def test_it_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    """No file, no output, no connection, no handler of signals, no thread that stays, no random number drawn."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("it asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    threads, random = set(threading.enumerate()), torch.get_rng_state()
    meter = EnergyMeter(EnergyArguments(country="FRA"))
    meter.start()
    assert {number: signal.getsignal(number) for number in handlers} == handlers
    assert meter.read() is not None
    meter.stop()
    assert torch.equal(torch.get_rng_state(), random)
    for thread in set(threading.enumerate()) - threads:
        thread.join(timeout=5)
        assert not thread.is_alive()
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_nothing_is_said_from_the_first_import_on(tmp_path: Path) -> None:
    """codecarbon sets its own level as it is imported."""
    script = (
        "from supersam_hf.measure.energy import EnergyMeter\n"
        "for _ in range(2):\n    m = EnergyMeter(); m.start(); m.read(); m.stop()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_a_meter_that_fails_only_warns(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("CODECARBON_GPU_IDS", "0")
    monkeypatch.setattr("psutil.virtual_memory", lambda: 1 / 0)
    with caplog.at_level(logging.WARNING):
        assert used() is None
    assert "energy used is not known" in caplog.text


def test_sittings_add_up(tmp_path: Path) -> None:
    file, factor = tmp_path / "costs" / "train.json", EnergyArguments(kg_per_kwh=0.5)
    with CostMeter(file, factor) as meter:
        meter.add(iterations=1, images=4, samples=8)
        work(0.2)
        meter.flush()
        before = meter.total()
        assert (before.iterations, before.images, before.samples) == (1, 4, 8)
        assert 0.2 <= before.seconds < 2
        meter.add(iterations=2, images=8)
        assert meter.total() == before, "it counts up to the last flush"
    with CostMeter(file, factor) as meter:
        meter.add(iterations=10)
    first, second = read_sittings(file)
    total = meter.total()
    assert total == total_cost([first, second])
    assert (total.iterations, total.images, total.samples) == (13, 12, 8)
    assert total.seconds == first["seconds"] + second["seconds"]
    assert total.energy_kwh == first["energy_kwh"] + second["energy_kwh"] > 0
    assert total.emissions_kg == pytest.approx(0.5 * total.energy_kwh)
    assert first["began"] <= first["written"] <= second["began"]


def test_a_killed_sitting_keeps_what_was_flushed(tmp_path: Path) -> None:
    """Killed by itself, without any chance to write: what it flushed, and what the clock flushed, is there."""
    script = (
        "import os, signal, sys, time\nfrom pathlib import Path\n"
        "from supersam_hf.measure.cost import CostMeter, read_sittings\n"
        "file = Path(sys.argv[1]); meter = CostMeter(file, every=0.05).__enter__()\n"
        "meter.add(iterations=3); meter.flush(); meter.add(images=5)\n"
        "while read_sittings(file)[-1]['images'] < 5: time.sleep(0.01)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    file = tmp_path / "cost.json"
    done = fresh.run("-c", script, file, cwd=tmp_path)
    assert done.returncode == -signal.SIGKILL
    with CostMeter(file) as meter:
        meter.add(iterations=1)
    assert (meter.total().iterations, meter.total().images) == (4, 5)
    assert all(sitting["energy_kwh"] > 0 for sitting in read_sittings(file))


def test_an_error_of_the_block_is_its_own(tmp_path: Path) -> None:
    def fail() -> None:
        with CostMeter(tmp_path / "cost.json") as meter:
            meter.add(iterations=1)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fail()
    assert read_sittings(tmp_path / "cost.json")[0]["iterations"] == 1


def test_a_file_that_cannot_be_written_only_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "costs").write_text("no folder")
    with caplog.at_level(logging.WARNING), CostMeter(tmp_path / "costs" / "train.json") as meter:
        meter.add(iterations=1)
    assert meter.total().iterations == 1
    assert "What it costs is not recorded" in caplog.text


def test_what_one_sitting_did_not_record_is_not_known_of_all() -> None:
    told = asdict(Cost(seconds=1.0, energy_kwh=0.5, emissions_kg=0.1, kg_per_kwh=0.2, country="FRA"))
    silent = asdict(Cost(seconds=2.0))
    other = asdict(Cost(seconds=4.0, energy_kwh=0.5, emissions_kg=0.3, kg_per_kwh=0.6, country="DEU"))
    assert total_cost([told, silent]) == Cost(seconds=3.0, country="FRA")
    both = total_cost([told, other])
    assert (both.seconds, both.energy_kwh, both.emissions_kg) == (5.0, 1.0, pytest.approx(0.4))
    assert (both.kg_per_kwh, both.country) == (None, "FRA; DEU")


def staged(folder: Path, function: Callable[[RunFolder], None] | None = None, redo: str | None = None) -> Any:
    """Runs one stage in a folder and returns its record."""

    def write(run: RunFolder) -> None:
        work(0.2)
        run.meter.add(iterations=7)
        (run.folder / "done.txt").write_text("done")

    run = RunFolder(RunRecipe(output_dir=str(folder)), {})
    run_stages(run, {"first": Stage(function or write, "done.txt", ("holdout_images",))}, redo=redo)
    return json.loads((folder / "stages" / "first.json").read_text())


def test_stages_record_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODECARBON_COUNTRY_ISO_CODE", "DEU")
    record = staged(tmp_path / "run")
    assert set(record) == {"cost", "values"}
    assert 0.2 <= record["cost"]["seconds"] < 2
    assert (record["cost"]["iterations"], record["cost"]["country"]) == (7, "DEU")
    assert staged(tmp_path / "run") == record, "a stage that is done is not measured again"
    assert run_costs(tmp_path / "run") == {"first": record["cost"], "total": record["cost"]}


def test_stages_without_codecarbon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setitem(sys.modules, "codecarbon", None)  # as if it were not installed
    assert not can_track_energy()
    with caplog.at_level(logging.INFO):
        cost = staged(tmp_path / "run")["cost"]
    assert cost["seconds"] >= 0.2
    assert (cost["energy_kwh"], cost["emissions_kg"], cost["method"]) == (None, None, None)
    assert caplog.text.count("Energy is not recorded") == 1


def test_a_stage_that_failed_counts_too(tmp_path: Path) -> None:
    def fail(run: RunFolder) -> None:
        work(0.2)
        run.meter.add(iterations=5)
        raise RuntimeError("out of disk")

    with pytest.raises(RuntimeError, match="out of disk"):
        staged(tmp_path / "run", fail)
    assert not (tmp_path / "run" / "stages" / "first.json").exists()
    cost = staged(tmp_path / "run")["cost"]
    assert cost["iterations"] == 12
    assert cost["seconds"] >= 0.4
    assert staged(tmp_path / "run", redo="first")["cost"]["iterations"] == 7, "begun anew, it costs what it costs"


def test_costs_are_in_the_order_of_the_pipeline(tmp_path: Path) -> None:
    """Also those of stages that began within one second."""
    for name in ("adapt", "extract", "pretrain", "report", "train"):
        with CostMeter(cost_file(tmp_path, name)):
            pass
    assert list(run_costs(tmp_path)) == ["pretrain", "train", "extract", "report", "adapt", "total"]


def test_the_recording_ends_though_its_last_line_cannot_be_written(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with pytest.raises(TypeError, match="Decimal"), CostMeter(tmp_path / "cost.json") as meter:
        meter.add(images=Decimal(1))  # type: ignore[arg-type]
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=5)
        assert not thread.is_alive(), thread


def test_a_milestone_that_only_looks_on_changes_no_output(tmp_path: Path) -> None:
    def recipe(milestone: Milestone | None) -> Recipe:
        train = SandwichArguments(eval_steps=1, milestone=milestone)
        return Recipe(output_dir=str(tmp_path), pretrain=PretrainArguments(enabled=True), train=train)

    stage = Stage(lambda run: (run.folder / "done.txt").write_text("done"), "done.txt", ("train",))
    run_stages(Run(recipe(None)), {"train": stage})
    assert is_done(Run(recipe(Milestone())), "train", stage)
    with pytest.raises(ValueError, match=r"other values of `train\.milestone\.miou`, .*Add `--redo train`"):
        is_done(Run(recipe(Milestone(stop=True))), "train", stage)
    run_stages(Run(recipe(Milestone(stop=True))), {"train": stage}, redo="train")
    with pytest.raises(ValueError, match=r"other values of `train\.milestone"):
        is_done(Run(recipe(Milestone())), "train", stage)
