"""One writer a folder: who is refused, what the message names, and whom a lock must not keep out."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from supersam_hf.data.skipped import SkipLog
from supersam_hf.files import write_json
from supersam_hf.lock import LOCK_FILE, sole_writer
from supersam_hf.pipeline.folder import RunFolder
from supersam_hf.pipeline.journal import Journal
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


def test_a_second_process_is_refused_and_told_who_writes(tmp_path: Path) -> None:
    with writer_of(tmp_path) as pid:
        with pytest.raises(ValueError, match=rf"being written by process {pid} on \S+ \(since .*choose another"):
            with RunFolder(RunRecipe(output_dir=str(tmp_path)), {"name": "a"}).writing():
                pass
        assert not (tmp_path / "start.json").exists()
    # it was killed: its lock keeps nobody out
    with RunFolder(RunRecipe(output_dir=str(tmp_path)), {"name": "a"}).writing():
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
    assert not (tmp_path / LOCK_FILE).exists()


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--pretrain.enabled", "true"],
        ["measure", "--pretrain.enabled", "true"],
        ["ofb", "run", "--pretrain.enabled", "true", "--search.max_macs", "0.5"],
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
    (folder / LOCK_FILE).symlink_to(outside)
    with pytest.raises(OSError, match="symbolic link"), sole_writer(folder):
        pass
    assert outside.read_text() == "mine"


def test_journals_that_are_links_are_not_written_through(tmp_path: Path) -> None:
    """A run's folder may come from elsewhere."""
    outside, linked = tmp_path / "outside", tmp_path / "linked.jsonl"
    outside.write_text("{}\nmine")
    linked.symlink_to(outside)
    with pytest.raises(OSError, match="symbolic link"):
        Journal(linked, {}).get("a", lambda: 1)
    skipped = tmp_path / "skipped.jsonl"
    skipped.symlink_to(tmp_path / "new")
    with pytest.raises(OSError, match="symbolic link"):
        SkipLog(skipped).add("a", "b")
    assert not (tmp_path / "new").exists()
    assert outside.read_text() == "{}\nmine"
