"""A whole run in small: every stage, skipped when done, resumed when killed, reloaded by a stranger."""

import csv
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import fresh
import pytest
import torch
from test_cli import recipe_of

from supersam_hf import ElasticSpace, Subnet, SuperSamModel
from supersam_hf.files import fingerprint
from supersam_hf.pipeline.context import Run
from supersam_hf.pipeline.journal import Journal
from supersam_hf.pipeline.runner import forget
from supersam_hf.pipeline.supersam import STAGES
from supersam_hf.recipe import Recipe
from supersam_hf.training.pretrain import PretrainArguments
from supersam_hf_cli import main


OPTIONS = {
    "data.shapes_image_size": 64,
    "data.shapes_train_images": 16,
    "data.shapes_eval_images": 6,
    "data.max_objects": 2,
    "data.box_padding": 3,
    "data.batch_size": 4,
    "holdout_images": 6,
    "pretrain.enabled": "true",
    "pretrain.image_size": 64,
    "pretrain.hidden_size": 48,
    "pretrain.num_hidden_layers": 4,
    "pretrain.num_attention_heads": 3,
    "pretrain.decoder_size": 32,
    "pretrain.max_steps": 4,
    "pretrain.warmup_steps": 1,
    "rank_layers.num_images": 4,
    "rank_layers.max_removed": 2,
    "rank_layers.max_drop": 1.0,
    "reorder.num_images": 4,
    "train.max_steps": 4,
    "train.save_steps": 2,
    "train.eval_steps": 2,
    "train.learning_rate": "1e-3",
    "search.trials": 5,
    "search.max_params": 0.9,
    "evaluate.num_sampled": 2,
    "measure.repeats": 2,
    "measure.warmup": 1,
}


def argv(folder: Path, verb: str = "run", **changed: object) -> list[str]:
    values = {**OPTIONS, "output_dir": folder, **{k.replace("__", "."): v for k, v in changed.items()}}
    return [verb, *(str(word) for key, value in values.items() for word in (f"--{key}", value))]


@pytest.fixture
def finished(supersam_run: Path) -> Path:
    return supersam_run


def test_a_run_ends_in_a_table_and_a_standalone_subnet(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    rows = {row["name"]: row for row in results["rows"]}
    front = json.loads((finished / "search.json").read_text())["front"]
    named = ["original", "largest", "smallest", "sampled 1", "sampled 2"]
    assert list(rows) == [*named, *(f"pareto-{i}" for i in range(len(front))), "found", "found + recovery"]
    assert [rows[f"pareto-{i}"]["params"] for i in range(len(front))] == [point["params"] for point in front]
    assert rows["found"]["params"] <= 0.9 * rows["largest"]["params"]
    assert rows["original"]["params"] == rows["largest"]["params"]
    assert rows["smallest"]["params"] <= rows["found"]["params"]
    model = SuperSamModel.from_pretrained(finished / "subnet")
    assert sum(p.numel() for p in model.parameters()) == rows["found"]["params"]
    assert rows["found + recovery"]["params"] == rows["found"]["params"]
    assert rows["found + recovery"]["weights"] != rows["found"]["weights"]
    assert [row["name"] for row in results["before"]] == [*named, "found"]
    with (finished / "results.csv").open() as file:
        assert [line["name"] for line in csv.DictReader(file)] == list(rows)
    assert "original (trained here)" in (finished / "results.md").read_text()
    assert all(rows[name]["latency"]["latency"]["median_ms"] > 0 for name in ("original", "largest", "found"))


def test_the_subnet_is_the_supernets_and_reloads_to_the_same_quality(finished: Path) -> None:
    supernet = SuperSamModel.from_pretrained(finished / "supernet").eval()
    subnet = Subnet.from_dict(json.loads((finished / "search.json").read_text())["best"]["subnet"])
    supernet.elastic_space.validate(subnet)
    images, boxes = torch.randn(1, 3, 64, 64), torch.tensor([[[4.0, 4.0, 50.0, 40.0]]])
    with torch.no_grad():
        whole = supernet(pixel_values=images, input_boxes=boxes, subnet=subnet).pred_masks
        alone = SuperSamModel.from_pretrained(finished / "subnet").eval()(pixel_values=images, input_boxes=boxes)
    assert torch.equal(whole, alone.pred_masks)


def test_a_listed_subnet_has_a_row_of_its_own(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its file is called."""
    monkeypatch.chdir(tmp_path)
    space = SuperSamModel.from_pretrained(finished / "supernet").elastic_space
    listed = Path("sampled by me.json")
    listed.write_text(space.subnet(mlp_dim=min(space.mlp_windows)).to_json())
    start = {"pretrain__enabled": "false", "model__name": finished / "supernet"}
    assert main(argv(tmp_path / "run", "evaluate", **start, evaluate__subnets=f'["{listed}"]')) == 0
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    assert [row["kind"] for row in rows] == ["original", "largest", "smallest", "sampled", "sampled", "trial"]
    table = (tmp_path / "run" / "results.md").read_text()
    assert f"| {listed} |" in table
    assert "| 2 sampled (mean" in table


def test_another_removal_probability_than_the_supernets_is_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    start = {"pretrain__enabled": "false", "model__name": finished / "supernet", "space__prune_probability": 0.25}
    assert main(argv(tmp_path, "search", **start)) == 2
    assert "`prune_probability`" in capsys.readouterr().err


def test_ranking_feeds_the_space(finished: Path) -> None:
    ranking = json.loads((finished / "ranking.json").read_text())
    assert len(ranking["single"]) == 4
    space = SuperSamModel.from_pretrained(finished / "supernet").elastic_space
    assert list(space.prunable_layers) == ranking["prunable_layers"]
    assert space == ElasticSpace.from_dict(
        json.loads((finished / "supernet" / "config.json").read_text())["elastic_space"]
    )


def test_a_finished_run_is_not_run_again(finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    copy = shutil.copytree(finished, tmp_path / "copy")

    def times() -> dict[Path, int]:
        """Of all but what tells of this sitting, the last one."""
        files = (path for path in copy.rglob("*") if path.is_file())
        return {path: path.stat().st_mtime_ns for path in files if path.name not in ("run.json", "report.html")}

    before = times()
    with caplog.at_level("INFO"):
        assert main(argv(copy)) == 0
    assert times() == before
    assert caplog.text.count("done already") == 9


def test_other_values_are_refused_until_the_stage_is_redone(
    finished: Path, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    assert main(argv(copy, search__max_params=0.95)) == 2  # training sampled near the budget
    assert "`search.max_params`. Add `--redo train`" in capsys.readouterr().err
    changed = argv(copy, search__trials=4, measure__enabled="false")
    assert main(changed) == 2
    assert "`search.trials`" in capsys.readouterr().err
    trained = fingerprint(SuperSamModel.from_pretrained(copy / "supernet"))
    assert main([*changed, "--redo", "search"]) == 0
    assert fingerprint(SuperSamModel.from_pretrained(copy / "supernet")) == trained
    assert json.loads((copy / "stages" / "search.json").read_text())["values"]["search"]["trials"] == 4


def test_a_run_killed_in_each_stage_ends_as_an_uninterrupted_one(finished: Path, tmp_path: Path) -> None:
    """SIGKILL after the first checkpoint of training, then in the search, then to the end."""
    script = """
import os, sys
from supersam_hf.search.log import SearchLog
from supersam_hf.training.engine import Engine
def dying(cls, name, when):
    method = getattr(cls, name)
    def patched(self, *args):
        result = method(self, *args)
        if when(self):
            os.kill(os.getpid(), 9)
        return result
    setattr(cls, name, patched)
where = sys.argv.pop(1)
if where == "train":
    dying(Engine, "log", lambda engine: engine.global_step == 4 and "train/" in str(engine.output_dir) + "/")
if where == "search":
    asks = []
    dying(SearchLog, "append", lambda log: asks.append(1) or len(asks) == 3)
from supersam_hf_cli import main
sys.exit(main(sys.argv[1:]))
"""
    for where in ("train", "search", "nowhere"):
        words = ("-c", script, where, *argv(tmp_path / "run", measure__enabled="false"))
        done = fresh.run(*words, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == (0 if where == "nowhere" else -9), done.stderr[-2000:]
    for name in ("pretrained", "supernet", "subnet", "recovered"):
        models = [SuperSamModel.from_pretrained(folder / name) for folder in (finished, tmp_path / "run")]
        for (key, a), b in zip(models[0].named_parameters(), models[1].parameters()):
            assert torch.allclose(a, b, atol=1e-6), (name, key)
    trials = [
        (folder / "search" / "trials.jsonl").read_text().splitlines()[1:] for folder in (finished, tmp_path / "run")
    ]
    subnets = [[json.loads(line)["subnet"] for line in lines] for lines in trials]
    assert subnets[0] == subnets[1]


def test_single_verbs_follow_one_another(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    start = {"pretrain__enabled": "false", "model__name": finished / "pretrained"}
    for verb in ("rank-layers", "reorder", "train", "search", "extract", "recover", "finetune", "evaluate"):
        assert main(argv(tmp_path, verb, **start, finetune__max_steps=2)) == 0, capsys.readouterr().err
    assert SuperSamModel.from_pretrained(tmp_path / "finetuned").config.subnet is not None
    assert main(argv(tmp_path, "measure", **start)) == 0
    assert json.loads((tmp_path / "measurement.json").read_text())["parameters"] > 0


def test_the_holdout_is_never_trained_on(tmp_path: Path) -> None:
    recipe = Recipe(output_dir=str(tmp_path), holdout_images=5, pretrain=PretrainArguments(enabled=True))
    recipe.data.shapes_train_images, recipe.data.shapes_image_size = 20, 64
    recipe.pretrain.image_size = 64
    run = Run(recipe)
    ids = lambda loader: set(loader.dataset.dataset["image_id"])  # noqa: E731
    train, holdout = ids(run.train_loader), ids(run.holdout_loader())
    assert len(train) + len(holdout) == 20
    assert not train & holdout


def test_a_journal_goes_on_and_refuses_other_contexts(tmp_path: Path) -> None:
    path, calls = tmp_path / "journal.jsonl", []

    def compute() -> float:
        calls.append(1)
        return 0.5

    Journal(path, {"seed": 1}).get("a", compute)
    with path.open("a") as file:
        file.write('{"key": "b", "val')  # killed while writing
    journal = Journal(path, {"seed": 1})
    assert journal.get("a", compute) == 0.5
    assert len(calls) == 1
    journal.get("b", compute)
    assert len(calls) == 2
    assert Journal(path, {"seed": 1}).results == {"a": 0.5, "b": 0.5}
    with pytest.raises(ValueError, match="`seed`"):
        Journal(path, {"seed": 2})


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As each process of a launch has: the number of threads decides in which order sums are taken."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def found_of(folder: Path) -> dict[str, object]:
    """What ranking, evaluations and search have written down, without times."""
    texts = ("ranking.json", "ranking/evaluations.jsonl", "search/trials.jsonl", "evaluation_before.json")
    found: dict[str, object] = {name: (folder / name).read_text() for name in texts}
    for name in ("before", "report"):
        found[name] = (folder / "evaluation" / f"{name}.jsonl").read_text()
    search = json.loads((folder / "search.json").read_text())
    results = json.loads((folder / "results.json").read_text())
    rows = [{key: row[key] for key in row if "latency" not in key} for row in results["rows"]]
    found["reordered"] = fingerprint(SuperSamModel.from_pretrained(folder / "reordered"))
    return {**found, "search": search, "rows": rows, "before_rows": results["before"]}


# What trains, or makes another subnet.
ALONE = ("pretrain", "train", "extract", "prune", "recover")


def test_two_processes_find_what_one_finds(tmp_path: Path, one_thread: None) -> None:
    """A whole run on two; then all that does not train once more with the same weights, in this process."""
    both, alone = tmp_path / "both", tmp_path / "alone"
    options = {"reorder__num_images": 8, "measure__enabled": "false"}  # two batches
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    fresh.launch(2, "-m", "supersam_hf", *argv(both, **options), env=environment, check=True)
    state = json.loads((both / "train" / "checkpoint-00000004" / "trainer_state.json").read_text())
    assert state["run"]["processes"] == 2
    shutil.copytree(both, alone)
    run = Run(recipe_of("run", *argv(alone, **options)[1:]))
    again = {name: stage for name, stage in STAGES.items() if name not in ALONE}
    forget(run, again)
    for stage in again.values():
        stage.function(run)
    assert found_of(alone) == found_of(both)
