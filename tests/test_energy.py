"""Energy of a stretch of work: what is recorded, what is left alone, and stages with and without it."""

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
from pathlib import Path
from typing import Any

import pytest
import torch

from supersam_hf.measure.energy import can_track_energy, track_energy
from supersam_hf.pipeline.folder import RunFolder
from supersam_hf.pipeline.runner import Stage, run_stages
from supersam_hf.recipe import RunRecipe


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


def test_what_is_recorded() -> None:
    with track_energy("fra") as record:
        assert record.use is None
        work()
    use = record.use
    assert 0.3 <= use.seconds < 5
    watts = use.kwh * 3.6e6 / use.seconds
    assert 1 < watts < 5000
    assert use.country == "FRA"
    # France's mean is about 50 g a kWh; no country's is above 1.5 kg.
    assert 0.01 < use.kg_co2eq / use.kwh < 0.2
    assert use.hardware
    assert use.method.startswith("whole machine; CPU ")
    assert json.loads(json.dumps(asdict(use))) == asdict(use)


def test_without_a_country_no_emissions_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with track_energy() as record:
        work(0.1)
    assert record.use.kwh > 0
    assert (record.use.country, record.use.kg_co2eq) == (None, None)
    monkeypatch.setenv("CODECARBON_COUNTRY_ISO_CODE", "USA")
    with track_energy() as record:
        work(0.1)
    assert record.use.country == "USA"
    assert record.use.kg_co2eq > 0


def test_unknown_countries(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="three-letter ISO code.*'Narnia'"), track_energy("Narnia"):
        pass
    monkeypatch.setenv("CODECARBON_COUNTRY_ISO_CODE", "XX")
    with caplog.at_level(logging.WARNING), track_energy() as record:
        work(0.1)
    assert "unknown country, 'XX'" in caplog.text
    assert record.use.kg_co2eq is None


def test_it_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    """No file, no output, no connection, no handler of signals, no thread that stays, no random number drawn."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("it asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    threads, random = set(threading.enumerate()), torch.get_rng_state()
    with track_energy("FRA") as record:
        assert {number: signal.getsignal(number) for number in handlers} == handlers
    assert record.use is not None
    assert torch.equal(torch.get_rng_state(), random)
    for thread in set(threading.enumerate()) - threads:
        thread.join(timeout=5)
        assert not thread.is_alive()
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_nothing_is_said_from_the_first_import_on(tmp_path: Path) -> None:
    """codecarbon sets its own level as it is imported."""
    script = (
        "from supersam_hf.measure.energy import track_energy\nwith track_energy(): pass\nwith track_energy(): pass"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_an_error_of_the_block_is_its_own() -> None:
    with pytest.raises(KeyError, match="mine"), track_energy() as record:
        raise KeyError("mine")
    assert record.use is not None


def test_a_meter_that_fails_only_warns(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("CODECARBON_GPU_IDS", "0")
    monkeypatch.setattr("psutil.virtual_memory", lambda: 1 / 0)
    with caplog.at_level(logging.WARNING), track_energy() as record:
        done = True
    assert done
    assert record.use is None
    assert "energy used is not known" in caplog.text


def staged(folder: Path, function: Callable[[RunFolder], None] | None = None) -> dict[str, Any]:
    """Runs one stage in a folder and returns its record."""

    def write(run: RunFolder) -> None:
        work(0.2)
        (run.folder / "done.txt").write_text("done")

    run = RunFolder(RunRecipe(output_dir=str(folder)), {})
    run_stages(run, {"first": Stage(function or write, "done.txt", ("holdout_images",))})
    return json.loads((folder / "stages" / "first.json").read_text())


def test_stages_record_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODECARBON_COUNTRY_ISO_CODE", "DEU")
    record = staged(tmp_path / "run")
    assert set(record) == {"seconds", "values", "energy"}
    assert 0.2 <= record["seconds"] <= record["energy"]["seconds"] < record["seconds"] + 1
    assert record["energy"]["country"] == "DEU"
    assert staged(tmp_path / "run") == record, "a stage that is done is not measured again"


def test_stages_without_codecarbon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setitem(sys.modules, "codecarbon", None)  # as if it were not installed
    assert not can_track_energy()
    with pytest.raises(ImportError, match=r"supersam-hf\[energy\]"), track_energy():
        pass
    with caplog.at_level(logging.INFO):
        assert set(staged(tmp_path / "run")) == {"seconds", "values"}
    assert caplog.text.count("Energy is not recorded") == 1


def test_a_stage_that_fails_fails_as_ever(tmp_path: Path) -> None:
    def fail(run: RunFolder) -> None:
        raise RuntimeError("out of disk")

    with pytest.raises(RuntimeError, match="out of disk"):
        staged(tmp_path / "run", fail)
    assert not (tmp_path / "run" / "stages" / "first.json").exists()
    record = staged(tmp_path / "run")
    assert record["resumed"] is True, "what it took now is not all that it took"
    assert [path.name for path in (tmp_path / "run" / "stages").iterdir()] == ["first.json"]
