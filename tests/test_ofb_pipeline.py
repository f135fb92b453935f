"""A whole OFB run in small: every stage, skipped when done, reloaded by a stranger; labels; transfer."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from test_cli import ofb_recipe_of
from torch.utils.data import DataLoader
from transformers import AutoImageProcessor

from supersam_hf import OfbViTForImageClassification
from supersam_hf.data.classification import load_classification
from supersam_hf.elastic.cost import count_macs, count_parameters
from supersam_hf.files import fingerprint
from supersam_hf.pipeline.ofb_context import OfbRun
from supersam_hf.pipeline.ofb_report import budget_line, results_table, speed_line
from supersam_hf_cli import main


OPTIONS = {
    "data.shapes_train_images": 24,
    "data.shapes_eval_images": 12,
    "data.batch_size": 8,
    "pretrain.enabled": "true",
    "pretrain.patch_size": 8,
    "pretrain.hidden_size": 32,
    "pretrain.num_hidden_layers": 2,
    "pretrain.num_attention_heads": 2,
    "pretrain.max_steps": 2,
    "pretrain.warmup_steps": 1,
    "search.max_macs": 0.6,
    "search.max_steps": 6,
    "search.search_steps": 4,
    "search.prune_steps": 2,
    "search.alpha_learning_rate": 0.1,
    "search.logging_steps": 1,
    "finetune.max_steps": 2,
    "finetune.warmup_steps": 1,
    "finetune.eval_steps": 2,
    "measure.repeats": 2,
    "measure.warmup": 1,
    "measure.batch_size": 2,
}


def argv(folder: Path, verb: str = "run", **changed: object) -> list[str]:
    values = {**OPTIONS, "output_dir": folder, **{k.replace("__", "."): v for k, v in changed.items()}}
    return ["ofb", verb, *(str(word) for key, value in values.items() for word in (f"--{key}", value))]


@pytest.fixture
def finished(ofb_run: Path) -> Path:
    return ofb_run


def test_a_run_ends_in_a_table_within_the_budget(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    original, searched, finetuned = results["rows"]
    assert [row["name"] for row in results["rows"]] == ["original", "searched", "finetuned"]
    assert searched["macs"] == finetuned["macs"] <= 0.6 * original["macs"]
    for row, name in zip(results["rows"], ("pretrained", "subnet", "finetuned")):
        model = OfbViTForImageClassification.from_pretrained(finished / name)
        assert row["params"] == sum(p.numel() for p in model.parameters())
    assert "latency" in original
    assert "latency" not in searched
    assert finetuned["throughput"]["batch_size"] == 2
    table = (finished / "results.md").read_text()
    assert "original (trained here)" in table
    assert "of the MACs" in table
    assert f"Budget: {results['search']['budget']:,} MACs" in table


def test_every_stage_leaves_its_figures(finished: Path) -> None:
    for name in ("bimask", "losses", "macs", "architecture"):
        assert (finished / f"{name}.png").stat().st_size > 1000


def test_the_subnet_is_what_the_search_left(finished: Path) -> None:
    searched, subnet = (OfbViTForImageClassification.from_pretrained(finished / n) for n in ("searched", "subnet"))
    assert fingerprint(searched) == fingerprint(subnet)
    report = json.loads((finished / "search.json").read_text())
    assert (count_macs(subnet.config), count_parameters(subnet.config)) == (report["macs"], report["params"])
    assert subnet.config.layer_widths[2] == report["architecture"]["intermediate_size"]
    assert AutoImageProcessor.from_pretrained(finished / "subnet").size["height"] == 32


def test_a_finished_run_is_not_run_again(finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    copy = shutil.copytree(finished, tmp_path / "copy")

    def written() -> dict[Path, int]:
        """But for what tells of each sitting."""
        sittings = {copy / "run.json", copy / "report.html"}
        return {p: p.stat().st_mtime_ns for p in copy.rglob("*") if p.is_file() and p not in sittings}

    before = written()
    with caplog.at_level("INFO"):
        assert main(argv(copy)) == 0
        assert main(["ofb", "run", "--config", str(copy / "recipe.yaml"), "--output_dir", str(copy)]) == 0
    assert written() == before
    assert caplog.text.count("done already") == 2 * 5


def test_other_values_are_refused_until_the_stage_is_redone(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    assert main(argv(copy, finetune__max_steps=3)) == 2
    assert "`finetune.max_steps`" in capsys.readouterr().err
    assert main([*argv(copy, finetune__max_steps=3), "--redo", "finetune"]) == 0
    models = [OfbViTForImageClassification.from_pretrained(folder / "subnet") for folder in (finished, copy)]
    assert fingerprint(models[0]) == fingerprint(models[1])


def test_a_folder_begun_from_another_model_is_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    start = {"pretrain__enabled": "false", "model__name": finished / "pretrained"}
    assert main(argv(shutil.copytree(finished, tmp_path / "copy"), "search", **start)) == 2
    assert "was begun from another model" in capsys.readouterr().err


def test_a_folder_of_a_supersam_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Both may have trained their model themselves; `--redo` would make that one anew."""
    (tmp_path / "start.json").write_text('{"pretrain": true}')
    (tmp_path / "pretrained").mkdir()  # it has made something
    assert main(argv(tmp_path)) == 2
    told = capsys.readouterr().err
    assert "was begun from another model" in told
    assert "method" in told


def test_a_subnet_that_is_not_the_reports_is_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    shutil.rmtree(copy / "searched")
    shutil.copytree(finished / "pretrained", copy / "searched")
    assert main(argv(copy, "extract")) == 2
    assert "search anew" in capsys.readouterr().err


def test_single_verbs_transfer_and_measure(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A found model, on other classes: a new head, no row for the untrained original."""
    start = {"pretrain__enabled": "false", "model__name": finished / "subnet", "model__new_labels": "true"}
    assert main(argv(tmp_path, "evaluate", **start)) == 2
    assert "nothing to evaluate" in capsys.readouterr().err
    for verb in ("finetune", "evaluate", "measure"):
        assert main(argv(tmp_path, verb, **start)) == 0, capsys.readouterr().err
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["finetuned"]
    measured = json.loads((tmp_path / "measurement.json").read_text())
    assert (measured["parameters"], measured["batch_size"]) == (rows[0]["params"], 2)


def run_of(folder: Path, *words: str) -> OfbRun:
    options = ("--data.shapes_train_images", "24", "--data.shapes_eval_images", "12")
    return OfbRun(ofb_recipe_of("finetune", "--output_dir", str(folder), *options, *words))


def test_the_heads_rows_are_the_datasets_classes(finished: Path, tmp_path: Path) -> None:
    """A checkpoint that knows more, in another order: the same logits for the classes that are left."""
    model = OfbViTForImageClassification.from_pretrained(finished / "pretrained")
    names = [model.config.id2label[i] for i in range(model.config.num_labels)]
    pixels = torch.randn(2, 3, 32, 32)
    logits = model.eval()(pixels).logits
    larger = [f"other {i}" for i in range(3)] + names[::-1]
    rows = torch.cat([torch.zeros(3, 32), model.classifier.weight.detach().flip(0)])
    bias = torch.cat([torch.zeros(3), model.classifier.bias.detach().flip(0)])
    model.reset_classifier(larger)
    model.classifier.load_state_dict({"weight": rows, "bias": bias})
    model.save_pretrained(tmp_path / "larger")
    AutoImageProcessor.from_pretrained(finished / "pretrained").save_pretrained(tmp_path / "larger")
    original = run_of(tmp_path / "run", "--model.name", str(tmp_path / "larger")).original()
    assert torch.allclose(original(pixels).logits, logits, atol=1e-6)


def test_unknown_classes_are_refused_before_any_work(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    model = OfbViTForImageClassification.from_pretrained(finished / "pretrained").reset_classifier(["cat", "dog"])
    model.save_pretrained(tmp_path / "pets")
    AutoImageProcessor.from_pretrained(finished / "pretrained").save_pretrained(tmp_path / "pets")
    start = {"pretrain__enabled": "false", "model__name": tmp_path / "pets"}
    assert main(argv(tmp_path / "run", "search", **start)) == 2
    assert "10 classes of the data 10 cannot be matched" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_another_image_size_resizes_model_and_processor(finished: Path, tmp_path: Path) -> None:
    run = run_of(tmp_path, "--model.name", str(finished / "pretrained"), "--model.image_size", "48")
    assert run.original().config.image_size == 48
    assert run.train_loader.dataset[0]["pixel_values"].shape == (3, 48, 48)
    run = run_of(tmp_path / "odd", "--model.name", str(finished / "pretrained"), "--model.image_size", "50")
    with pytest.raises(ValueError, match="multiple of the patch size"):
        run.original()


def test_the_holdout_is_a_draw_that_is_never_trained_on(finished: Path, tmp_path: Path) -> None:
    run = run_of(tmp_path, "--model.name", str(finished / "pretrained"), "--holdout_images", "10")
    everything = [image.tobytes() for image in load_classification(run.recipe.data, "train")["image"]]

    def rows(loader: DataLoader) -> list[int]:
        return [everything.index(image.tobytes()) for image in loader.dataset.dataset["image"]]

    trained, held = rows(run.train_loader), rows(run.watch_loader)
    assert len(set(everything)) == 24
    assert sorted(trained + held) == list(range(24))
    assert held != list(range(14, 24))
    assert len(held) == 10
    run = run_of(tmp_path, "--model.name", str(finished / "pretrained"))
    assert run.watch_loader is run.eval_loader


def test_the_table_says_what_was_saved_and_by_what() -> None:
    timing = {"median_ms": 8.0, "p10_ms": 7.0, "p90_ms": 9.0}
    speed = {"ratio": 0.5, "latency": timing, "batch_size": 64, "images_per_second": 8000.0}
    first = {"name": "original", "params": 1000, "macs": 4 * 10**9, "top1": 0.8, "top5": None}
    last = {"name": "searched", "params": 250, "macs": 10**9, "top1": 0.75, "top5": 0.9}
    rows = [first | {"latency": speed, "throughput": speed}, last | {"latency": speed, "throughput": speed}]
    table = results_table(rows, "trained here").splitlines()
    assert table[2] == (
        "| original (trained here) | 1,000 (100%) | 4 (100%) | 80.00% |  | 8.0 ms (7.0 to 9.0) | 8000 images/s |"
    )
    assert table[3].startswith("| searched | 250 (25%) | 1 (25%) | 75.00% | 90.00% |")
    told = "searched against original: 25% of the MACs; 2.00× as fast on one image, 2.00× as fast in batches of 64."
    assert told in speed_line(rows)
    assert speed_line(rows[:1]) == ""
    search = {"budget_kind": "macs", "budget": 10, "macs": 9, "decided_by_search": False, "enforced": [1, 2]}
    assert "2 cuts at its end" in budget_line(search)
    assert "decided every submodule" in budget_line({**search, "decided_by_search": True})
    assert budget_line(None) == ""


def test_a_checkpoint_may_call_the_classes_by_other_names(finished: Path, tmp_path: Path) -> None:
    """Its own names, upper case and with synonyms, stay those of what was found; the report knows them."""
    start = shutil.copytree(finished / "pretrained", tmp_path / "start")
    config = json.loads((start / "config.json").read_text())
    names = {key: f"{name.upper().replace(' ', '_')}, number {key}" for key, name in config["id2label"].items()}
    config |= {"id2label": names, "label2id": {name: int(key) for key, name in names.items()}}
    (start / "config.json").write_text(json.dumps(config))
    given = {"pretrain__enabled": "false", "model__name": start, "retrain": "false"}
    assert main(argv(tmp_path / "run", **given)) == 0
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["original", "searched"]
    found = OfbViTForImageClassification.from_pretrained(tmp_path / "run" / "subnet")
    assert {str(key): name for key, name in found.config.id2label.items()} == names
