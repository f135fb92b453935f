"""Runs and their folders: what a refused model leaves, what is deleted, what a correction undoes."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from supersam_hf import SuperSamModel, SuperSamProcessor
from supersam_hf.data.prepare import PrepareArguments, prepare
from supersam_hf.files import write_json
from supersam_hf.measure.energy import EnergyArguments
from supersam_hf.pipeline.folder import RunFolder
from supersam_hf.pipeline.journal import Journal
from supersam_hf.pipeline.run_record import sitting
from supersam_hf.pipeline.runner import is_done, run_stages
from supersam_hf.pipeline.supersam import STAGES
from supersam_hf.recipe import Recipe, RunRecipe
from supersam_hf.search.log import SearchLog
from supersam_hf.training.checkpoints import checkpoints
from supersam_hf.training.finetune import FinetuneArguments, finetune
from supersam_hf.training.milestone import Milestone
from supersam_hf.training.pretrain import PretrainArguments
from supersam_hf_cli import main


def run_in(folder: Path, start: dict[str, Any] | None = None) -> RunFolder:
    recipe = RunRecipe(output_dir=str(folder), energy=EnergyArguments(country="DEU"))
    return RunFolder(recipe, {"name": "a"} if start is None else start)


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
    with sitting(run_in(tmp_path), "a: 1\n", reads=()):
        assert json.loads((tmp_path / "start.json").read_text()) == {"name": "a"}
        (tmp_path / "pretrained").mkdir()
    with pytest.raises(ValueError, match="begun from another model"):
        run_in(tmp_path, {"name": "b"})


def test_what_lay_there_before_does_not_bind_a_refused_model(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")

    def fail(made: str) -> None:
        with sitting(run_in(tmp_path), "a: 1\n", reads=()):
            (tmp_path / made).mkdir()
            raise ZeroDivisionError

    for made, bound in (("costs", False), ("train", True)):
        with pytest.raises(ZeroDivisionError):
            fail(made)
        assert {(tmp_path / name).exists() for name in ("start.json", "recipe.yaml")} == {bound}


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


def test_no_link_beside_what_is_written_is_followed(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "run"
    folder.mkdir()
    outside.write_text("mine")
    for name in ("x.json", "x.json.tmp"):
        (folder / name).symlink_to(outside)
    write_json(folder / "x.json", {})
    assert outside.read_text() == "mine"
    assert (folder / "x.json").read_text() == "{}\n"


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


# What a correction undoes


def recipe_with(folder: Path, **values: Any) -> Recipe:
    """Section and field joined by two underscores."""
    pretrain, energy = PretrainArguments(enabled=True), EnergyArguments(country="DEU")
    recipe: Any = Recipe(output_dir=str(folder), pretrain=pretrain, energy=energy)
    for key, value in values.items():
        section, _, field = key.rpartition("__")
        setattr(getattr(recipe, section) if section else recipe, field, value)
    return recipe


EARLY = ("pretrain", "rank-layers", "reorder", "train", "search")
CORRECTIONS = {
    "data__eval_split": ("test", ()),
    "data__max_eval_images": (5, ()),
    "data__shapes_eval_images": (5, ()),
    "data__eval_batch_size": (1, ()),
    "data__num_workers": (1, ()),
    "train__eval_steps": (5, ()),
    "data__crop_eval": (64, ("rank-layers", "search")),
    "data__crop_train": ([32, 64], ("pretrain", "reorder", "train")),
    "data__batch_size": (2, ("pretrain", "reorder", "train")),
    "space__mlp_windows": ([12], ("reorder",)),
    "space__protected_layers": ([1], ("rank-layers", "reorder")),
    "data__prompt": ("point", EARLY),
    "data__source": ("elsewhere", EARLY),
    "data__train_split": ("half", EARLY),
    "holdout_images": (7, EARLY),
    "search__trials": (7, ("search",)),
}


def stale(folder: Path, recipe: Recipe, names: tuple[str, ...] = EARLY) -> tuple[str, ...]:
    """The stages that were made with other values of what they read."""
    run, found = RunFolder(recipe, {"name": "a"}), []
    for name in names:
        try:
            assert is_done(run, name, STAGES[name])
        except ValueError:
            found.append(name)
    return tuple(found)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as earlier versions recorded it: whole sections, and no more than these."""
    folder = tmp_path_factory.mktemp("done")
    recipe = recipe_with(folder)
    sections = {"reorder": ("data", "space", "reorder")}
    sections |= {"rank-layers": ("data", "space", "rank_layers", "holdout_images")}
    sections |= {name: ("data", name, "holdout_images") for name in ("pretrain", "train", "search")}
    sections |= {"evaluate-before": ("data", "evaluate"), "report": ("data", "evaluate", "measure")}
    (folder / "stages").mkdir()
    for name, read in sections.items():
        output = folder / STAGES[name].output
        output.parent.mkdir(exist_ok=True)
        output.write_text("{}")
        write_json(folder / "stages" / f"{name}.json", {"values": recipe.sections(*read)})
    return folder


@pytest.mark.parametrize(("field", "value", "undone"), [(key, *pair) for key, pair in CORRECTIONS.items()])
def test_a_correction_undoes_what_read_the_value(field: str, value: Any, undone: tuple[str, ...], done: Path) -> None:
    # what earlier versions did not record is not known to have changed
    known = tuple(name for name in undone if not (field == "holdout_images" and name == "reorder"))
    assert stale(done, recipe_with(done, **{field: value})) == known


def test_evaluations_read_the_evaluation_split(done: Path) -> None:
    later = ("evaluate-before", "report")
    assert stale(done, recipe_with(done, data__eval_split="test"), later) == later
    assert stale(done, recipe_with(done, data__crop_eval=64), later) == later
    assert stale(done, recipe_with(done, data__crop_train=[32, 64]), later) == ()
    assert stale(done, recipe_with(done, evaluate__pareto=False), later) == ("report",)


def test_a_milestone_that_ends_a_training_reads_what_it_is_evaluated_on(tmp_path: Path) -> None:
    values = {"train__milestone": Milestone(miou=0.5, stop=True), "train__eval_steps": 5}
    recipe = recipe_with(tmp_path, **values)
    for name in ("supernet", "stages"):
        (tmp_path / name).mkdir()
    (tmp_path / "supernet" / "config.json").write_text("{}")
    write_json(tmp_path / "stages" / "train.json", {"values": STAGES["train"].values(recipe)})
    assert stale(tmp_path, recipe, ("train",)) == ()
    assert stale(tmp_path, recipe_with(tmp_path, **values, data__crop_eval=64), ("train",)) == ("train",)
    assert stale(tmp_path, recipe_with(tmp_path, **values, data__eval_split="test"), ("train",)) == ()


def test_to_evaluate_anew_before_training_is_not_to_train_anew(done: Path, tmp_path: Path) -> None:
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    run = RunFolder(recipe_with(tmp_path, data__eval_split="test"), {"name": "a"})

    def write(run: RunFolder) -> None:
        (run.folder / "evaluation_before.json").write_text("anew")

    before = replace(STAGES["evaluate-before"], function=write)
    stages = {**{name: STAGES[name] for name in EARLY[:3]}, "evaluate-before": before, "train": STAGES["train"]}
    run_stages(run, stages, redo="evaluate-before")
    assert (tmp_path / "evaluation_before.json").read_text() == "anew"
    assert (tmp_path / "supernet" / "config.json").is_file()


def test_journals_go_on_when_a_value_that_they_do_not_read_is_corrected(done: Path, tmp_path: Path) -> None:
    """They were begun by an earlier version, which listed the whole section."""
    recipe, corrected = recipe_with(done), recipe_with(done, data__eval_split="test", data__eval_batch_size=1)
    path = tmp_path / "evaluations.jsonl"
    Journal(path, {**recipe.sections("data", "holdout_images"), "weights": "w"}).get("key", lambda: 7)

    def context(of: Recipe, *names: str) -> dict[str, Any]:
        return {**of.parts(*names), "weights": "w"}

    again = Journal(path, context(corrected, "data.holdout", "holdout_images"))
    assert again.results == {"key": 7}
    with pytest.raises(ValueError, match="another `data.eval_split`"):
        Journal(path, context(corrected, "data.eval"))
    log = tmp_path / "trials.jsonl"
    SearchLog(log, {"seed": 0, "context": {**recipe.sections("data", "holdout_images"), "weights": "w"}})
    SearchLog(log, {"seed": 0, "context": context(corrected, "data.holdout", "holdout_images")})
    other = recipe_with(done, data__source="elsewhere")
    with pytest.raises(ValueError, match="`context.data.source`"):
        SearchLog(log, {"seed": 0, "context": context(other, "data.holdout", "holdout_images")})


def test_a_training_goes_on_when_the_evaluation_is_corrected(
    tmp_path: Path, stock_folder: Path, shapes_loader: Callable[..., Any]
) -> None:
    def train(steps: int, **data: Any) -> None:
        args = FinetuneArguments(max_steps=4, save_steps=steps)
        finetune(SuperSamModel.from_pretrained(stock_folder), shapes_loader(**data), args, tmp_path)

    train(2)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-00000002", "checkpoint-00000004"]
    shutil.rmtree(tmp_path / "checkpoint-00000004")
    train(2, eval_split="test", crop_eval=64, eval_batch_size=1)
    assert checkpoints(tmp_path)[-1].name == "checkpoint-00000004"
    with pytest.raises(ValueError, match="another `data.max_objects`"):
        train(2, max_objects=2)
