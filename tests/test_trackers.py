"""What a training tells its trackers: the same numbers as its own log."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from supersam_hf import ElasticSpace, SuperSamModel
from supersam_hf.training.sandwich import SandwichArguments, train_sandwich


def test_tensorboard_gets_losses_miou_rates_speed_and_memory(
    stock_folder: Path, shapes_loader: Callable, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = SuperSamModel.from_pretrained(stock_folder)
    space = ElasticSpace.for_config(model.config.vision_config, prunable_layers=(2, 3))
    args = SandwichArguments(max_steps=4, logging_steps=1, eval_steps=2, save_steps=0, report_to=["tensorboard"])

    def evaluate(engine: Any) -> dict[str, float]:
        return {"miou_largest": engine.global_step / 10, "miou_smallest": engine.global_step / 20}

    train_sandwich(model, space, shapes_loader(), args, tmp_path, evaluate=evaluate)
    told = EventAccumulator(str(tmp_path / "trackers" / "supersam_hf")).Reload()
    curves = {tag: {e.step: e.value for e in told.Scalars(tag)} for tag in told.Tags()["scalars"]}
    each_step = ("loss_largest", "loss_smallest", "loss_sampled", "learning_rate", "images_per_second", "memory_mb")
    assert {name: set(curves[name]) for name in each_step} == {name: {1, 2, 3, 4} for name in each_step}
    assert curves["miou_smallest"] == {2: pytest.approx(0.1), 4: pytest.approx(0.2)}
    assert curves["miou_largest"] == {2: pytest.approx(0.2), 4: pytest.approx(0.4)}
    assert all(value > 0 for name in ("images_per_second", "memory_mb") for value in curves[name].values())
    for line in map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines()):
        step = line.pop("step")
        assert {name: curves[name][step] for name in line} == pytest.approx(line, rel=1e-6)
