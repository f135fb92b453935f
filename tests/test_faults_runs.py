"""Runs and their folders: who writes there, what a refused model leaves, what is deleted, what a correction undoes."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from supersam_hf import SuperSamModel, SuperSamProcessor
from supersam_hf.data.prepare import PrepareArguments, prepare
from supersam_hf.files import write_json
from supersam_hf.lock import LOCK_FILE, sole_writer
from supersam_hf.measure.energy import EnergyArguments
from supersam_hf.pipeline.folder import RunFolder
from supersam_hf.pipeline.run_record import sitting
from supersam_hf.recipe import RunRecipe
from supersam_hf_cli import main


@contextmanager
def writer_of(folder: Path) -> Iterator[int]:
    """Another process that writes to a folder; its pid."""
    ready, begun = os.pipe()
    pid = os.fork()
    if pid == 0:
        with sole_writer(folder):
            os.write(begun, b"!")
            signal.pause()
    os.read(ready, 1)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def run_in(folder: Path, start: dict[str, Any] | None = None) -> RunFolder:
    recipe = RunRecipe(output_dir=str(folder), energy=EnergyArguments(country="DEU"))
    return RunFolder(recipe, {"name": "a"} if start is None else start)


# Two processes on one folder


def test_a_second_process_is_refused_and_told_who_writes(tmp_path: Path) -> None:
    with writer_of(tmp_path) as pid:
        with pytest.raises(ValueError, match=rf"being written by process {pid} on \S+ \(since .*choose another"):
            with run_in(tmp_path).writing():
                pass
        assert not (tmp_path / "start.json").exists()
    with run_in(tmp_path).writing():  # it was killed: its lock keeps nobody out
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
    assert not (tmp_path / LOCK_FILE).exists()


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--pretrain.enabled", "true"],
        ["measure", "--pretrain.enabled", "true"],
        ["ofb", "run", "--pretrain.enabled", "true"],
        ["segment", "--model.name", "VIT"],
    ],
)
def test_every_verb_with_an_output_folder_is_refused(
    words: list[str], tmp_path: Path, vit_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(vit_folder) if word == "VIT" else word for word in words]
    with writer_of(tmp_path) as pid:
        assert main([*words, "--data.source", "shapes", "--output_dir", str(tmp_path)]) == 2
    assert f"process {pid}" in capsys.readouterr().err
    assert not (tmp_path / "run.json").exists()


def foreign_record(folder: Path, age_s: float) -> Path:
    path = folder / LOCK_FILE
    write_json(path, {"pid": 1, "host": "another.machine", "since": "2026-01-01T00:00:00+00:00"})
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def test_the_lock_of_another_machine_says_how_to_remove_it(tmp_path: Path) -> None:
    path = foreign_record(tmp_path, age_s=30)
    with pytest.raises(ValueError, match=rf"process 1 on another.machine.*gone.*remove {path}, or wait"):
        with sole_writer(tmp_path):
            pass
    assert path.exists()
    foreign_record(tmp_path, age_s=300)  # it does not renew it any more
    with sole_writer(tmp_path):
        pass


def test_a_process_that_the_launcher_started_anew_takes_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign_record(tmp_path, age_s=1)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with sole_writer(tmp_path):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}', "\x00"])
def test_a_record_that_was_cut_off_keeps_nobody_out(content: str, tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).write_text(content)
    with sole_writer(tmp_path):
        pass


def test_no_link_in_a_folder_is_written_through(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "run"
    folder.mkdir()
    outside.write_text("mine")
    for name in (LOCK_FILE, "x.json", "x.json.tmp", ".x.json.writing"):
        (folder / name).symlink_to(outside)
    with pytest.raises(OSError, match="symbolic link"):
        sole_writer(folder).__enter__()
    write_json(folder / "x.json", {})
    assert (folder / "x.json").read_text() == "{}\n"
    assert not (folder / "x.json").is_symlink()
    assert outside.read_text() == "mine"


# What a refused model leaves


def test_a_refused_model_does_not_keep_the_right_one_out(
    tmp_path: Path, vit_folder: Path, stock_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A ViT, then the SAM that was meant."""
    words = ["--subnet", "largest", "--output_dir", str(tmp_path)]
    assert main(["extract", "--model.name", str(vit_folder), *words]) == 2
    assert not (tmp_path / "start.json").exists()
    assert not (tmp_path / "recipe.yaml").exists()
    assert main(["extract", "--model.name", str(stock_folder), *words]) == 0, capsys.readouterr().err
    assert json.loads((tmp_path / "start.json").read_text())["name"] == str(stock_folder)
    assert str(stock_folder) in (tmp_path / "recipe.yaml").read_text()


def test_what_was_killed_before_it_made_anything_binds_nobody(tmp_path: Path) -> None:
    for name in ("start.json", "run.json"):
        (tmp_path / name).write_text('{"name": "wrong"}')
    (tmp_path / "run.json").unlink()
    with sitting(run_in(tmp_path), "a: 1\n", reads_data=False):
        assert json.loads((tmp_path / "start.json").read_text()) == {"name": "a"}
        (tmp_path / "pretrained").mkdir()
    with pytest.raises(ValueError, match="begun from another model"):
        run_in(tmp_path, {"name": "b"})


# What is deleted


def test_what_is_not_the_runs_stays(tmp_path: Path, supernet: SuperSamModel) -> None:
    for name in ("subnet.tmp", "subnet", "subnet.before"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text(name)
    run = run_in(tmp_path)
    for _ in range(2):
        run.write_model("subnet", supernet, SuperSamProcessor.for_config(supernet.config))
    assert (tmp_path / "subnet" / "model.safetensors").is_file()
    kept = {path.parent.name: path.read_text() for path in tmp_path.glob("*/notes.txt")}
    assert kept == {"subnet.tmp": "subnet.tmp", "subnet.before": "subnet.before", "subnet.before1": "subnet"}
    assert not list(tmp_path.glob(".subnet*"))


def test_a_text_beside_what_is_written_stays(tmp_path: Path) -> None:
    (tmp_path / "run.json.tmp").write_text("mine")
    write_json(tmp_path / "run.json", {})
    assert (tmp_path / "run.json.tmp").read_text() == "mine"


def test_prepare_takes_away_what_a_killed_one_left(tmp_path: Path) -> None:
    for name in ("cat/1.png", "dog/2.png"):
        (tmp_path / "raw" / name).parent.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "raw" / name)
    args, target = PrepareArguments(str(tmp_path / "raw")), tmp_path / "out" / "data"
    pid = os.fork()
    if pid == 0:

        def die(*_: Any) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        Path.rename = die
        prepare(args, target)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    assert [path.name for path in target.parent.iterdir()] == [".data.writing"]
    prepare(args, target)
    assert [path.name for path in target.parent.iterdir()] == ["data"]
