"""One-shot pruning from the command line: stages, what they leave, what is refused before any work."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from test_ofb_pipeline import OPTIONS
from test_pipeline import OPTIONS as TINY_SAM

from supersam_hf import ImageClassificationArguments, OfbViTForImageClassification, SuperSamModel, prune
from supersam_hf.data import ImageDataset, load_classification
from supersam_hf.elastic.cost import count_macs, count_parameters
from supersam_hf.pipeline.publish import publication
from supersam_hf_cli import main


ONCE = {**OPTIONS, "method": "one-shot", "prune.num_images": 16, "whole.max_steps": 2}
SAM = {
    **{"data.source": "shapes", "data.shapes_image_size": 64, "data.shapes_train_images": 8},
    **{"data.shapes_eval_images": 2, "data.max_objects": 2, "data.batch_size": 2, "holdout_images": 2},
    **{"search.max_params": 0.8, "prune.num_images": 4},
}


SWIN = {"pretrain.depths": "[1, 1]", "pretrain.window_size": 2}


def words(values: dict[str, Any]) -> list[str]:
    return [str(word) for key, value in values.items() for word in (f"--{key}", value)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("once") / "run"
    options = {**ONCE, "finetune.loss.distillation": "soft", "finetune.loss.temperature": 3}
    assert main(["ofb", "run", *words({**options, "output_dir": folder})]) == 0
    return folder


def test_a_run_trains_the_whole_prunes_and_trains_what_is_left(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    rows = {row["name"]: row for row in results["rows"]}
    assert list(rows) == ["original", "whole", "pruned", "finetuned"]
    assert rows["whole"]["macs"] == rows["original"]["macs"]
    budget = json.loads((finished / "search.json").read_text())["budget"]
    assert budget == int(0.6 * rows["original"]["macs"])  # that of the search: the recipe states it once
    assert 0.9 * budget < rows["pruned"]["macs"] == rows["finetuned"]["macs"] <= budget
    model = OfbViTForImageClassification.from_pretrained(finished / "subnet")
    assert count_macs(model.config) == rows["pruned"]["macs"]
    text = (finished / "results.md").read_text()
    assert "every layer alike" in text
    told = {(one["model"], one["other"]): one["value"] for one in results["differences"]}
    assert told["finetuned", "original"] == pytest.approx(rows["finetuned"]["top1"] - rows["original"]["top1"])
    assert text.count("- top-1, ") == len(told) == 4
    assert "right" not in rows["original"]
    assert (finished / "architecture.png").stat().st_size > 1000


def test_what_is_left_learns_from_the_whole(finished: Path, tmp_path: Path) -> None:
    """Another whole network, another result: it is what distillation asks."""
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "whole")
    for gone in ("finetuned", "finetune"):
        shutil.rmtree(tmp_path / "run" / gone)
    (tmp_path / "run" / "stages" / "finetune.json").unlink()
    options = {**ONCE, "finetune.loss.distillation": "soft", "finetune.loss.temperature": 3}
    assert main(["ofb", "finetune", *words({**options, "output_dir": tmp_path / "run"})]) == 0
    weights = [
        OfbViTForImageClassification.from_pretrained(folder / "finetuned").classifier.weight
        for folder in (finished, tmp_path / "run")
    ]
    assert not torch.equal(*weights)


def test_a_second_run_does_nothing_again(finished: Path, capsys: pytest.CaptureFixture) -> None:
    before = (finished / "pruned" / "model.safetensors").stat().st_mtime_ns
    options = {**ONCE, "finetune.loss.distillation": "soft", "finetune.loss.temperature": 3}
    assert main(["ofb", "run", *words({**options, "output_dir": finished})]) == 0
    assert (finished / "pruned" / "model.safetensors").stat().st_mtime_ns == before


def test_the_card_says_that_it_was_pruned_at_once(finished: Path) -> None:
    card = publication(finished, "finetuned").card
    assert "made smaller by one-shot pruning" in card
    assert "taylor importance, every layer alike" in card
    assert "bi-mask" not in card.lower()


@pytest.mark.parametrize("options", [{}, {"prune.drop_layers": 1, "prune.scope": "global"}])
def test_a_sam_is_pruned_to_the_budget_of_its_search(
    options: dict[str, Any], supersam_run: Path, tmp_path: Path
) -> None:
    sam = supersam_run / "pretrained"
    assert main(["prune", *words({**SAM, **options, "model.name": sam, "output_dir": tmp_path / "run"})]) == 0
    original = SuperSamModel.from_pretrained(sam)
    pruned = SuperSamModel.from_pretrained(tmp_path / "run" / "subnet")
    limit = int(0.8 * count_parameters(original.config))
    assert 0.97 * limit < count_parameters(pruned.config) <= limit
    assert "one-shot pruning of its image encoder" in publication(tmp_path / "run", "subnet").card


@pytest.mark.parametrize(
    ("verb", "options", "message"),
    [
        (["ofb", "run"], {**ONCE, "search.max_macs": 0.01}, "`prune`: A budget of"),
        (["ofb", "prune"], {**ONCE, "prune.drop_layers": 2}, "must leave a layer of 2"),
        (
            ["ofb", "run"],
            {**ONCE, **SWIN, "prune.drop_layers": 1},
            "keeps all its layers",
        ),
        (["prune"], {**SAM, "pretrain.enabled": "true", "prune.embedding": "true"}, "keeps its width"),
    ],
)
def test_what_cannot_work_is_told_by_a_dry_run(
    verb: list[str], options: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main([*verb, *words({**options, "output_dir": tmp_path / "run"}), "--dry_run"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_dry_run_shows_the_budget(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["ofb", "run", *words({**ONCE, "output_dir": tmp_path / "run"}), "--dry_run"]) == 0
    told = capsys.readouterr().out
    assert "(60.0%)" in told
    assert "train-whole     2 steps" in told


def test_from_python_a_model_stays_as_it_is(finished: Path) -> None:
    from transformers import AutoImageProcessor

    args = ImageClassificationArguments(source="shapes", shapes_train_images=16, shapes_image_size=32)
    data = load_classification(args, "train")
    model = OfbViTForImageClassification.from_pretrained(finished / "whole")
    processor = AutoImageProcessor.from_pretrained(finished / "whole")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = ImageDataset(data, processor, args, training=True)
    smaller = prune(model, images, max_params=0.7, scope="global", num_images=16)
    assert count_parameters(smaller.config) <= 0.7 * count_parameters(model.config)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    smaller.save_pretrained(finished.parent / "smaller")
    again = OfbViTForImageClassification.from_pretrained(finished.parent / "smaller")
    pixels = images[0]["pixel_values"][None]
    assert torch.equal(again(pixels).logits, smaller.eval()(pixels).logits)


def test_a_sam_pruned_at_once_is_recovered_and_reported(tmp_path: Path) -> None:
    """`--method one-shot`: from a model to a table and a card without a supernet."""
    folder = tmp_path / "run"
    options = {
        **TINY_SAM,
        "search.max_params": 0.8,
        "method": "one-shot",
        "train.max_steps": 3,
        "recover.max_steps": 2,
    }
    assert main(["run", *words({**options, "output_dir": folder})]) == 0
    rows = {row["name"]: row for row in json.loads((folder / "results.json").read_text())["rows"]}
    assert list(rows) == ["original", "found", "found + recovery"]
    assert rows["found + recovery"]["params"] == rows["found"]["params"] <= 0.8 * rows["original"]["params"]
    assert not (folder / "supernet").exists()
    assert (folder / "report.html").exists()
    found = publication(folder, "recovered")
    assert "trained further alone" in found.card
    assert "the same before recovery" in found.card
    assert "Recovery of the found network alone: 2 steps" in found.card
