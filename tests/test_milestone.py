"""Milestones: what it took to first reach a mIoU, once, also where a training was killed and went back."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from supersam_hf import ElasticSpace, SuperSamModel
from supersam_hf.measure.cost import CostMeter
from supersam_hf.training.milestone import Milestone, milestone_line, read_milestone
from supersam_hf.training.sandwich import SandwichArguments, train_sandwich


Loaders = Callable[..., DataLoader]
SCORES = {2: 0.3, 4: 0.6, 6: 0.9, 8: 0.2}


class Killed(BaseException):
    """As if the process ended here."""


def train(
    folder: Path,
    stock_folder: Path,
    loader: DataLoader,
    milestone: Milestone | None,
    *,
    kill_at: int = 0,
    scores: dict[int, float] = SCORES,
) -> list[int]:
    """8 steps of 4 images with 3 prompts, evaluated every 2, saved every 4. Returns the steps that were evaluated."""
    model = SuperSamModel.from_pretrained(stock_folder)
    space = ElasticSpace.for_config(model.config.vision_config, prunable_layers=(2, 3))
    args = SandwichArguments(max_steps=8, eval_steps=2, save_steps=4, logging_steps=1, milestone=milestone)
    evaluated = []

    def evaluate(engine: Any) -> dict[str, float]:
        evaluated.append(engine.global_step)
        if engine.global_step == kill_at:
            raise Killed
        return {"miou_smallest": scores[engine.global_step], "miou_largest": 0.95}

    with CostMeter(folder / "cost.json") as meter:
        train_sandwich(model, space, loader, args, folder, evaluate=evaluate, meter=meter)
    return evaluated


def test_what_it_took_is_what_was_done_until_then(tmp_path: Path, stock_folder: Path, shapes_loader: Loaders) -> None:
    evaluated = train(tmp_path, stock_folder, shapes_loader(), Milestone(miou=0.5))
    assert evaluated == [2, 4, 6, 8], "it does not end the training"
    record = read_milestone(tmp_path / "milestone.json")
    told = {key: record[key] for key in ("subnet", "target", "miou", "step", "iterations", "images", "samples")}
    assert told == {
        **{"subnet": "smallest", "target": 0.5, "miou": 0.6, "step": 4},
        **{"iterations": 4, "images": 16, "samples": 48},
    }
    (sitting,) = json.loads((tmp_path / "cost.json").read_text())["sittings"]
    assert (sitting["iterations"], sitting["images"], sitting["samples"]) == (8, 32, 96)
    assert 0 < record["seconds"] < sitting["seconds"]
    if record["energy_kwh"] is not None:
        assert 0 < record["energy_kwh"] < sitting["energy_kwh"]
    assert "at step 4: after 4 iterations, 16 images, 48 prompted objects" in milestone_line(record)


@pytest.mark.parametrize(("milestone", "expected"), [(Milestone("largest", 0.9), 2), (Milestone(miou=0.95), None)])
def test_it_is_that_of_the_subnet_asked_for(
    tmp_path: Path, stock_folder: Path, shapes_loader: Loaders, milestone: Milestone, expected: int | None
) -> None:
    train(tmp_path, stock_folder, shapes_loader(), milestone)
    record = read_milestone(tmp_path / "milestone.json")
    assert (None if record is None else record["step"]) == expected


def test_it_can_end_the_training_for_good(tmp_path: Path, stock_folder: Path, shapes_loader: Loaders) -> None:
    milestone = Milestone(miou=0.5, stop=True)
    assert train(tmp_path, stock_folder, shapes_loader(), milestone) == [2, 4]
    written = (tmp_path / "milestone.json").read_bytes()
    assert train(tmp_path, stock_folder, shapes_loader(), milestone) == [], "it went on after its end"
    assert (tmp_path / "milestone.json").read_bytes() == written


def test_killed_after_it_and_resumed_it_stays(tmp_path: Path, stock_folder: Path, shapes_loader: Loaders) -> None:
    with pytest.raises(Killed):
        train(tmp_path, stock_folder, shapes_loader(), Milestone(miou=0.5), kill_at=6)
    written = (tmp_path / "milestone.json").read_bytes()
    assert train(tmp_path, stock_folder, shapes_loader(), Milestone(miou=0.5)) == [6, 8], "from the checkpoint at 4"
    assert (tmp_path / "milestone.json").read_bytes() == written


def test_resumed_from_before_it_it_is_found_again_and_cost_more(
    tmp_path: Path, stock_folder: Path, shapes_loader: Loaders
) -> None:
    with pytest.raises(Killed):
        train(tmp_path, stock_folder, shapes_loader(), Milestone(miou=0.7), kill_at=8)
    assert read_milestone(tmp_path / "milestone.json")["iterations"] == 6
    resumed = train(tmp_path, stock_folder, shapes_loader(), Milestone(miou=0.7), scores={**SCORES, 6: 0.1, 8: 0.8})
    assert resumed == [6, 8]
    record = read_milestone(tmp_path / "milestone.json")
    # 8 before the kill; then 5 to 8 again.
    assert (record["step"], record["miou"], record["iterations"], record["images"]) == (8, 0.8, 12, 48)


def test_another_goal_is_looked_for_anew(tmp_path: Path, stock_folder: Path, shapes_loader: Loaders) -> None:
    with pytest.raises(Killed):
        train(tmp_path, stock_folder, shapes_loader(), Milestone(miou=0.2), kill_at=6)
    assert read_milestone(tmp_path / "milestone.json")["step"] == 2
    train(tmp_path, stock_folder, shapes_loader(), Milestone(miou=0.7))
    assert read_milestone(tmp_path / "milestone.json")["step"] == 6


def test_it_changes_nothing_else(tmp_path: Path, stock_folder: Path, shapes_loader: Loaders) -> None:
    weights: list[dict[str, torch.Tensor]] = []
    for name, milestone in (("with", Milestone(miou=0.5)), ("without", None)):
        train(tmp_path / name, stock_folder, shapes_loader(), milestone)
        (file,) = (tmp_path / name / "checkpoint-00000008").glob("model*.safetensors")
        weights.append(load_file(file))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Milestone(miou=1.2), "`miou` must be a number above 0, at most 1, got 1.2"),
        (lambda: Milestone(subnet="sampled"), "`subnet` must be one of smallest, largest, got 'sampled'"),
        (lambda: SandwichArguments(milestone=Milestone()), "`milestone` is looked for at each evaluation"),
    ],
)
def test_bad_values_are_named(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_without_an_evaluation_it_is_refused(tmp_path: Path, stock_folder: Path, shapes_loader: Loaders) -> None:
    model = SuperSamModel.from_pretrained(stock_folder)
    space = ElasticSpace.for_config(model.config.vision_config, prunable_layers=(2, 3))
    args = SandwichArguments(max_steps=2, eval_steps=1, milestone=Milestone())
    with pytest.raises(ValueError, match="needs `evaluate`"):
        train_sandwich(model, space, shapes_loader(), args, tmp_path)
