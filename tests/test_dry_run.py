"""Dry runs: the numbers that they tell, against closed forms and real steps; nothing is written."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import SamConfig

from supersam_hf import SuperSamConfig
from supersam_hf.data.shape_classes import CLASS_NAMES
from supersam_hf.elastic.cost import SamShape, layer_macs
from supersam_hf.experiments.runs import read_recipe
from supersam_hf.files import write_json
from supersam_hf.hub.tables import duration
from supersam_hf.measure.training_memory import training_memory
from supersam_hf.models.supersam import ElasticSpace
from supersam_hf.pipeline.context import Run
from supersam_hf.pipeline.dry_run import make_plan, plan_lines
from supersam_hf.pipeline.estimate import (
    PieceTimes,
    SamTimes,
    _few_layers,
    model_config,
    new_model,
    sandwich_memory,
)
from supersam_hf.pipeline.plan_lines import planned
from supersam_hf.pipeline.preflight import Problems
from supersam_hf.pipeline.preflight_data import prompted_splits
from supersam_hf.pipeline.split_sizes import asked_for
from supersam_hf_cli import main


ROOT = Path(__file__).parents[1]
# What a fresh process that takes real steps adds to what it held before; freed memory goes back to the system at once.
REAL_STEPS = """
import sys
import psutil, torch
from supersam_hf.experiments.runs import read_recipe
from supersam_hf.measure.memory import peak_rss
from supersam_hf.pipeline.estimate import example_batch, loss_of, model_config, new_model

recipe = read_recipe(sys.argv[1], dict(word.split("=") for word in sys.argv[2:]))
config, cpu = model_config(recipe), torch.device("cpu")

def steps(model, loss, count):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    for _ in range(count):
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()

small = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3), torch.nn.Flatten(), torch.nn.Linear(108, 2))
steps(small, lambda: small(torch.zeros(2, 3, 8, 8)).sum(), 1)  # what libraries take at their first use
before = psutil.Process().memory_info().rss
model = new_model(config, recipe).train()
if recipe.train.gradient_checkpointing:
    model.gradient_checkpointing_enable()
batch = example_batch(config, recipe, recipe.data.batch_size, recipe.data.max_objects, cpu)
steps(model, loss_of(model, batch, recipe, cpu), 3)
print(peak_rss() - before)
"""


@pytest.fixture(scope="module")
def vit_b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config and no weights."""
    folder = tmp_path_factory.mktemp("vit_b")
    SamConfig().save_pretrained(folder)
    return folder


def plan_of(recipe: str, **values: object) -> str:
    filled = read_recipe(str(ROOT / recipe), {key.replace("__", "."): value for key, value in values.items()})
    return "\n".join(plan_lines("run", make_plan("run", planned(Run, filled))))


def test_a_dry_run_of_sa1b_has_the_papers_numbers(vit_b: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    text = plan_of("recipes/supersam/sa1b.yaml", model__name=str(vit_b), output_dir=str(folder))
    assert "12,800,000 subnets" in text
    assert "largest         93,735,728 parameters (90,379,108 in weight tensors), 486 GMACs" in text
    assert "smallest        37,006,000 parameters (33,748,324 in weight tensors)" in text
    assert "to train on    9,900 images, and 100 held out" in text
    assert "to evaluate on 100 images" in text
    assert "(not counted, but by what the recipe asks for: `data.train_split`, `data.eval_split`)" in text
    assert "1,250 steps of 16 images: 20,000 images, 2.02 epochs" in text
    # weights, and two moments of what is trained: all but the prompt encoder's 6,220 + 256 numbers
    assert f"{4 * (3 * 93_735_728 - 2 * (6_220 + 256)) / 2**30:.2f} GiB each" in text
    assert re.findall(r"^  ([a-z-]+) +(off|to do)$", text, re.MULTILINE) == [
        ("pretrain", "off"),
        ("rank-layers", "off"),
        *((name, "to do") for name in ("reorder", "evaluate-before", "train", "search", "extract")),
        ("prune", "off"),
        ("recover", "off"),
        ("report", "to do"),
    ]
    assert not folder.exists()


def test_stages_that_are_done_are_told(vit_b: Path, tmp_path: Path) -> None:
    values = {"model__name": str(vit_b), "output_dir": str(tmp_path)}
    recipe = read_recipe(str(ROOT / "recipes/supersam/sa1b.yaml"), {"model.name": str(vit_b)})
    (tmp_path / "stages").mkdir()
    (tmp_path / "reordered").mkdir()
    (tmp_path / "reordered/config.json").write_text("{}")
    write_json(tmp_path / "stages/reorder.json", {"values": recipe.sections("data", "space", "reorder")})
    (tmp_path / "train").mkdir()
    before = sorted(tmp_path.rglob("*"))
    text = plan_of("recipes/supersam/sa1b.yaml", **values)
    assert re.search(r"reorder +done already", text)
    assert re.search(r"train +to do, from where it was interrupted", text)
    text = plan_of("recipes/supersam/sa1b.yaml", **values, reorder__method="magnitude")
    assert re.search(r"reorder +refused: .*reorder.method", text)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_command_line_stops_after_telling(
    stock_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config_only = tmp_path / "config_only"
    config_only.mkdir()
    (config_only / "config.json").write_bytes((stock_folder / "config.json").read_bytes())
    before = sorted(tmp_path.rglob("*"))
    words = ["run", "--config", str(ROOT / "recipes/supersam/nuclei.yaml"), "--model.name", str(config_only)]
    words += ["--data.source", "shapes", "--space.mlp_windows", "[48, 96]", "--space.attention_windows", "[24, 48]"]
    for spelling in ("--dry_run", "--dry-run"):
        assert main([*words, spelling]) == 0
        text = capsys.readouterr().out
        assert "to train on    436 images, and 64 held out" in text
        assert f"{(3 * 2) ** 5:,} subnets" in text  # layer 0 of 6 is protected; the full MLP is sampled too
        for stage in ("rank-layers", "train", "search", "recover", "report", "together"):
            assert re.search(rf"^  {stage} +\d.* (s|min)\b", text, re.MULTILINE)
    unranked = [*words, "--rank_layers.enabled", "false", "--dry_run"]
    assert main([*unranked, "--search.max_params", "0.01"]) == 2
    assert "no subnet of this space keeps `max_params`" in capsys.readouterr().err
    assert main([*unranked, "--search.max_params", "0.9", "--holdout_images", "500"]) == 2
    assert "leaves no training image: `data.train_split` has 500" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def config_of_labels(vit_folder: Path, folder: Path, names: list[str]) -> str:
    """A folder with the config of a ViT for these labels, and no weights."""
    config = json.loads((vit_folder / "config.json").read_text())
    folder.mkdir()
    labels = {"id2label": {str(i): name for i, name in enumerate(names)}, "label2id": {}}
    (folder / "config.json").write_text(json.dumps({**config, **labels}))
    return str(folder)


def test_a_dry_run_of_ofb(vit_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model = config_of_labels(vit_folder, tmp_path / "model", list(CLASS_NAMES))
    words = ["ofb", "run", "--model.name", model, "--data.source", "shapes", "--data.batch_size", "8"]
    words += ["--search.max_macs", "0.5", "--output_dir", str(tmp_path / "run")]
    assert main([*words, "--dry_run"]) == 0
    text = capsys.readouterr().out
    assert "to train on    4,000 images, and 0 held out" in text
    # Q-K-V 4..16 by 2, heads 1, 3, MLP 24..96 by 12; embedding 24..48 by 1.5, rounded down
    assert f"{(7 * 2 * 7) ** 3 * 17:.3g} networks" in text
    assert re.search(r"^  search +\d.* s a step, less as units leave\)$", text, re.MULTILINE)
    assert not (tmp_path / "run").exists()
    assert main([*words, "--search.max_macs", "0.001", "--dry_run"]) == 2
    assert "cannot be met" in capsys.readouterr().err
    assert main([*words, "--holdout_images", "4000", "--dry_run"]) == 2
    assert "leaves no training image: `data.train_split` has 4000" in capsys.readouterr().err


def test_a_dry_run_of_ofb_has_a_head_for_the_classes_of_the_data(
    vit_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint of the same sizes and ten classes, and one of many that are not in the data, count alike."""
    monkeypatch.chdir(tmp_path)
    for name, labels in (("ten", CLASS_NAMES), ("many", [*(f"class {i}" for i in range(311)), *CLASS_NAMES])):
        model = config_of_labels(vit_folder, tmp_path / name, list(labels))
        argv = ["ofb", "run", "--model.name", model, "--data.source", "shapes", "--search.max_macs"]
        assert main([*argv, "0.5", "--dry_run"]) == 0
    told = capsys.readouterr().out.splitlines()
    first, second = (line for line in told if line.startswith("  original") and not line.endswith(" ms"))
    assert first == second


def test_training_memory_of_a_chain_is_its_closed_form() -> None:
    """Linear layers without bias: each saves its input (as many bytes as a tensor of the batch), ReLU its output,
    which is the next layer's input."""
    batch, width, depth = 64, 256, 4

    def build() -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
        layers = [m for _ in range(depth) for m in (torch.nn.Linear(width, width, bias=False), torch.nn.ReLU())]
        model = torch.nn.Sequential(*layers)
        inputs = torch.zeros(batch, width)
        return model, lambda: model(inputs).sum()

    memory = training_memory(build)
    weights, tensor = 4 * depth * width**2, 4 * batch * width
    assert (memory.weights, memory.gradients) == (weights, weights)
    assert memory.optimizer == 2 * weights + 4 * depth  # and a step a tensor
    # saved: the inputs and every ReLU's output; at work beside: a linear's output or, backward, two gradients
    saved = (1 + depth) * tensor
    assert saved <= memory.activations + memory.gradients <= saved + weights + 3 * tensor


def test_gradient_checkpointing_and_bf16_take_less(vit_b: Path) -> None:
    def memory(**values: object) -> int:
        changed = {"model.name": str(vit_b), "data.batch_size": 1, "data.max_objects": 2, **values}
        recipe = read_recipe(str(ROOT / "recipes/supersam/sa1b.yaml"), changed)
        return sandwich_memory(model_config(recipe), recipe, torch.device("cpu")).activations

    whole = memory(**{"train.gradient_checkpointing": False, "train.mixed_precision": "no"})
    checkpointed = memory(**{"train.mixed_precision": "no"})
    assert memory(**{"train.gradient_checkpointing": False}) < 0.95 * whole
    assert checkpointed < 0.6 * whole
    assert 1.7 * checkpointed < memory(**{"train.mixed_precision": "no", "data.batch_size": 2})


@pytest.mark.shared
@pytest.mark.parametrize("checkpointing", ["false", pytest.param("true", marks=pytest.mark.slow)])
def test_estimated_memory_is_that_of_real_steps(shared: Path, checkpointing: str) -> None:
    path = str(ROOT / "recipes/supersam/nuclei.yaml")
    values = {"model.name": str(shared / "weights/sam-tiny-256"), "train.gradient_checkpointing": checkpointing}
    recipe = read_recipe(path, values)
    estimated = sandwich_memory(model_config(recipe), recipe, torch.device("cpu")).total
    command = [sys.executable, "-c", REAL_STEPS, path, *(f"{key}={value}" for key, value in values.items())]
    at_once = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **at_once})
    assert estimated == pytest.approx(int(done.stdout), rel=0.15)


def test_time_goes_with_the_macs_of_the_layers(vit_b: Path) -> None:
    """Pieces whose seconds are their MACs make a model whose seconds are its MACs."""
    recipe = read_recipe(str(ROOT / "recipes/supersam/sa1b.yaml"), {"model.name": str(vit_b), "data.batch_size": 2})
    shape = SamShape.from_config(SuperSamConfig.from_pretrained(vit_b))
    layers = {x.side: PieceTimes(layer_macs(shape, x), 3 * layer_macs(shape, x)) for x in shape.layers}
    times = SamTimes(shape, layers, PieceTimes(7.0, 21.0), optimizer=5.0, recompute=False)
    space = ElasticSpace.for_config(SuperSamConfig.from_pretrained(vit_b))
    for subnet in (None, space.smallest(), space.sample(torch.Generator().manual_seed(1))):
        macs = sum(layer_macs(shape, layer) for layer in shape.kept(subnet))
        assert times.forward(subnet) == pytest.approx(macs + 7)
        assert times.training(subnet) == pytest.approx(3 * macs + 21)
    recipe.train.num_sampled, recipe.train.mode = 0, "sequential"
    images = 2 * (times.training() + times.training(space.smallest()))
    assert times.sandwich_step(recipe, space) == pytest.approx(images + 2 * 5)
    recipe.train.mode = "accumulate"  # layer 0, which all subnets share, runs once
    assert times.sandwich_step(recipe, space) == pytest.approx(images - 2 * 3 * layer_macs(shape, shape.layers[0]) + 5)
    again = SamTimes(shape, layers, PieceTimes(7.0, 21.0), optimizer=5.0, recompute=True)
    assert again.training() == pytest.approx(times.training() + times.forward() - 7)


def test_what_is_timed_has_ordinary_weights(vit_b: Path) -> None:
    """SAM's own initialisation, 1e-10, gives denormal products, which double the time of a layer's backward."""
    recipe = read_recipe(None, {"model.name": str(vit_b)})
    config = model_config(recipe)
    assert config.vision_config.initializer_range == 1e-10
    model = new_model(_few_layers(config, SamShape.from_config(config)), recipe)
    assert model.vision_encoder.layers[0].attn.qkv.weight.std().item() == pytest.approx(0.02, rel=0.01)


@pytest.mark.shared
def test_images_are_counted_without_reading_them(shared: Path) -> None:
    def images(**values: object) -> tuple[int | None, int | None]:
        data = read_recipe(None, {"model.name": "x", **{f"data.{k}": str(v) for k, v in values.items()}}).data
        found = prompted_splits(data, ("train", "eval"), Problems())
        return found["train"].rows, found["eval"].rows

    assert images(source=shared / "data/dsb2018", eval_split="val") == (531, 133)
    assert images(source=shared / "data/dsb2018", train_split="train[:100]", max_eval_images=5) == (100, 5)
    coco = {"source": shared / "data/coco", "format": "coco", "train_split": "train2017", "eval_split": "val2017"}
    assert images(**coco) == (45, 25)
    sa1b = {"source": shared / "data/sa1b_layout", "format": "sa1b"}
    assert images(**sa1b, train_split="train[:40]", eval_split="train[40:50]") == (40, 10)


def test_a_slice_says_how_many_it_asks_for() -> None:
    asked = {"train": None, "train[:90%]": None, "train[100:]": None, "train[:100]": 100, "train[100:250]": 150}
    assert {split: asked_for(split, None) for split in asked} == asked
    assert [asked_for(split, 120) for split in asked] == [120, 120, 120, 100, 120]


def test_durations_read_well() -> None:
    seconds = (0.04, 9.96, 59.6, 200, 7500, 100_000, 1_000_000)
    texts = ["0.0 s", "10.0 s", "1 min 00 s", "3 min 20 s", "2 h 05 min", "27 h 46 min", "11 days 13 h"]
    assert [duration(value) for value in seconds] == texts
