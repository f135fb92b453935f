"""`run.json`, one seed for everything, and the same run twice."""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fresh
import numpy as np
import pytest
import torch
from accelerate import PartialState
from PIL import Image
from safetensors.torch import load_file
from test_pipeline import argv

from supersam_hf.data import DataArguments, ImageClassificationArguments, open_source
from supersam_hf.data.fingerprint import data_fingerprint, local_fingerprint
from supersam_hf.data.shapes import shapes
from supersam_hf.ofb_recipe import OfbModelArguments, OfbRecipe
from supersam_hf.pipeline.context import Run
from supersam_hf.pipeline.run_record import begun, git_revision, present, read_record, sitting, versions
from supersam_hf.recipe import ModelArguments, Recipe
from supersam_hf.training.errors import TrainingError
from supersam_hf.training.pretrain import PretrainArguments
from supersam_hf_cli import main


def record_of(folder: Path) -> dict[str, Any]:
    record = read_record(folder)
    assert record is not None
    return record


def test_a_run_says_what_it_ran_with(supersam_run: Path) -> None:
    record = record_of(supersam_run)
    assert record["versions"]["torch"] == torch.__version__
    assert record["versions"]["numpy"] == np.__version__
    assert record["recipe"] == json.loads((supersam_run / "results.json").read_text())["recipe"]
    assert record["data"] == {"generated": True}
    assert record["images"] == {"train_images": 10, "eval_images": 6}
    assert record["processes"] == 1
    assert record["hardware"]["torch"] == torch.__version__
    (sitting,) = record["sittings"]
    assert sitting["outcome"] == "finished"
    assert sitting["began"] < sitting["ended"]


@pytest.fixture
def begun_run(tmp_path: Path) -> Path:
    """Its pretraining alone."""
    folder = tmp_path / "run"
    assert main(argv(folder, "pretrain", seed=7)) == 0
    return folder


def test_every_sitting_is_there_and_what_changed_between_them(begun_run: Path) -> None:
    assert main(argv(begun_run, "extract", seed=7, reorder__num_images=3)) == 2, "there is nothing to extract"
    record = record_of(begun_run)
    assert [sitting["outcome"] for sitting in record["sittings"]] == ["finished", "failed"]
    assert record["sittings"][1]["changed"] == {"recipe.reorder.num_images": 4}
    assert record["recipe"]["reorder"]["num_images"] == 3


def test_a_killed_sitting_has_no_end() -> None:
    now = {"versions": {"torch": "2.13"}, "git": None, "processes": 1}
    first = begun(None, now)
    assert first["sittings"][0]["ended"] is None
    second = begun(json.loads(json.dumps(first)), {**now, "versions": {"torch": "2.14", "numpy": "2"}})
    assert second["sittings"][1]["changed"] == {"versions.torch": "2.13", "versions.numpy": None}
    assert second["versions"]["torch"] == "2.14"


def test_one_seed_is_everyones_but_not_of_what_is_compared() -> None:
    recipe = Recipe(seed=11, pretrain=PretrainArguments(enabled=True))
    sections = (recipe.data, recipe.pretrain, recipe.train, recipe.finetune, recipe.adapt, recipe.search)
    assert [section.seed for section in sections] == [11] * 6
    assert (recipe.evaluate.seed, recipe.data.shapes_seed) == (0, 0)
    ofb = OfbRecipe(seed=12, model=OfbModelArguments(name="org/vit"))
    assert [section.seed for section in (ofb.data, ofb.pretrain, ofb.search, ofb.finetune)] == [12] * 4
    with pytest.raises(ValueError, match="`seed` must be a whole number from 0 to 2\\*\\*32 - 1 or null, got -1"):
        Recipe(seed=-1, pretrain=PretrainArguments(enabled=True))


def weights(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Of every model that a run saved, by its folder."""
    return {file.parent.name: load_file(file) for file in sorted(folder.glob("*/model.safetensors"))}


def test_the_same_run_twice_is_the_same_to_the_last_bit(supersam_run: Path, tmp_path: Path) -> None:
    """The second in deterministic mode, in a process of its own."""
    words = argv(tmp_path / "again", seed=0, deterministic="true", measure__enabled="false")
    fresh.run("-m", "supersam_hf", *words, check=True)
    once, again = weights(supersam_run), weights(tmp_path / "again")
    assert set(once) == set(again) == {"pretrained", "reordered", "supernet", "subnet", "recovered"}
    for name, model in once.items():
        assert set(model) == set(again[name])
        assert all(torch.equal(value, again[name][key]) for key, value in model.items()), name
    tables = []
    for folder in (supersam_run, tmp_path / "again"):
        results = json.loads((folder / "results.json").read_text())
        rows = [*results["rows"], *results["before"]]
        tables.append([{k: v for k, v in row.items() if not k.startswith("latency")} for row in rows])
    assert tables[0] == tables[1]
    for name in ("ranking.json", "search.json"):
        assert json.loads((supersam_run / name).read_text()) == json.loads((tmp_path / "again" / name).read_text())


def test_another_seed_is_another_run(begun_run: Path, supersam_run: Path) -> None:
    mine, theirs = weights(begun_run)["pretrained"], weights(supersam_run)["pretrained"]
    assert any(not torch.equal(value, theirs[key]) for key, value in mine.items())


def test_a_revision_is_that_of_the_checkout_that_tracks_the_file(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    file = tmp_path / "module.py"
    file.write_text("one = 1\n")
    assert git_revision(file) is None
    git("init")
    assert git_revision(file) is None, "it lies in a checkout that does not know it"
    git("add", ".")
    git("commit", "-m", "first")
    revision = git("rev-parse", "HEAD")
    assert git_revision(file) == {"revision": revision, "dirty": False}
    file.write_text("one = 2\n")
    assert git_revision(file) == {"revision": revision, "dirty": True}


def test_versions_leave_out_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supersam_hf.pipeline.run_record.PACKAGES", ("torch", "no-such-package"))
    assert set(versions()) == {"python", "torch"}


def test_a_dataset_is_known_by_its_files(tmp_path: Path) -> None:
    for name in ("b/two.png", "a/one.png"):
        (tmp_path / "data" / name).parent.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "data" / name)
    args = DataArguments(source=str(tmp_path / "data"))
    before = data_fingerprint(args)
    size = sum(file.stat().st_size for file in (tmp_path / "data").rglob("*.png"))
    assert (before["files"], before["bytes"]) == (2, size)
    (tmp_path / "data").rename(tmp_path / "moved")
    assert local_fingerprint(tmp_path / "moved") == before
    assert data_fingerprint(ImageClassificationArguments(source=str(tmp_path / "moved"))) == before
    (tmp_path / "moved" / "a" / "one.png").rename(tmp_path / "moved" / "a" / "three.png")
    assert local_fingerprint(tmp_path / "moved")["digest"] != before["digest"]


def test_data_that_were_not_touched_are_not_looked_through_again(tmp_path: Path) -> None:
    """Whole again is only the stamp: a record whose stamp holds keeps what it says."""
    (tmp_path / "data" / "a").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "data" / "a" / "one.png")
    run: Any = SimpleNamespace(recipe=Recipe(model=ModelArguments(name="org/sam")), state=PartialState())
    run.recipe.data.source = str(tmp_path / "data")
    first = present(run, None, ("train", "eval"))
    assert first["data"]["files"] == 1
    marked = {**first, "data": {**first["data"], "files": -1}}
    assert present(run, marked, ("train", "eval"))["data"]["files"] == -1
    (tmp_path / "data" / "b").mkdir()
    assert present(run, marked, ("train", "eval"))["data"]["files"] == 1
    assert present(run, marked, ())["data"]["files"] == -1, "nothing of the data is read"
    assert present(run, None, ())["data"] == {}
    assert (
        "data_stamp"
        not in begun(begun(None, marked), present(run, marked, ("train", "eval")))["sittings"][-1]["changed"]
    )


def test_a_streamed_dataset_is_known_by_its_shards(tmp_path: Path) -> None:
    shapes(2, 64).to_parquet(tmp_path / "train-0.parquet")
    args = DataArguments(source=str(tmp_path), streaming=True)
    assert data_fingerprint(args) == {"rows": 2, "digest": open_source(args, "train").fingerprint()}


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(path: Path, data: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("supersam_hf.files.write_whole", write)


def test_a_full_disk_does_not_hide_what_ended_the_sitting(
    begun_run: Path, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(Recipe(output_dir=str(begun_run), pretrain=PretrainArguments(enabled=True)))

    def fail() -> None:
        with sitting(run):
            request.getfixturevalue("full_disk")
            raise TrainingError("step 3 failed")

    with pytest.raises(TrainingError, match="step 3 failed"):
        fail()
    assert "not recorded: [Errno 28] No space left" in caplog.text


def test_a_broken_record_is_named(begun_run: Path, capsys: pytest.CaptureFixture) -> None:
    (begun_run / "run.json").write_text('{"versions": ')
    assert main(argv(begun_run, "pretrain", seed=7)) == 2
    assert f"{begun_run / 'run.json'} is not JSON" in capsys.readouterr().err
