"""The latency limit of a search: each subnet extracted and timed on the supernet's device by the one timing function.

Time itself is replaced here: a clock that only encoder layers advance, by their MLP width in seconds.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch.nn.modules.module import register_module_forward_hook

from supersam_hf import Subnet, SuperSamModel
from supersam_hf.measure import latency_of
from supersam_hf.models.supersam.layers_supersam import SuperSamVisionLayer
from supersam_hf_cli import main


@pytest.fixture
def layers_run(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The MLP widths of the layers that have run, each of which took as many seconds."""
    widths: list[int] = []

    def count(module: Any, _: Any, __: Any) -> None:
        if isinstance(module, SuperSamVisionLayer):
            widths.append(module.mlp.mlp_dim)

    hook = register_module_forward_hook(count)
    monkeypatch.setattr(time, "perf_counter", lambda: float(sum(widths)))
    yield widths
    hook.remove()


def test_a_subnet_is_timed_extracted_and_repeatedly(supernet: SuperSamModel, layers_run: list[int]) -> None:
    subnet = supernet.elastic_space.smallest()
    assert latency_of(supernet, warmup=2, repeats=3)(subnet) == 1e3 * sum(subnet.mlp_dim)
    # A layer that only ran narrow would still call itself as wide as the supernet's.
    assert layers_run == list(subnet.mlp_dim) * 5


def test_the_search_keeps_the_limit_that_it_measured(
    stock_folder: Path, tmp_path: Path, layers_run: list[int], supernet: SuperSamModel
) -> None:
    space = supernet.elastic_space
    limit = 1e3 * (sum(space.smallest().mlp_dim) + sum(space.largest().mlp_dim)) / 2
    argv = ["search", "--model.name", str(stock_folder), "--output_dir", str(tmp_path), "--holdout_images", "1"]
    argv += ["--data.shapes_image_size", "64", "--data.shapes_train_images", "2", "--search.engine", "random"]
    argv += ["--search.trials", "3", "--search.max_latency_ms", str(limit), "--measure.repeats", "1"]
    assert main([*argv, "--measure.warmup", "0"]) == 0
    asked = [json.loads(line) for line in (tmp_path / "search" / "trials.jsonl").read_text().splitlines()[1:]]
    found = [ask.get("evaluation", ask) for ask in asked]
    assert len(found) >= 3
    for evaluation in found:
        taken = 1e3 * sum(Subnet.from_dict(evaluation["subnet"]).mlp_dim)
        assert evaluation["latency_ms"] == taken
        assert (evaluation["exceeded"] == "max_latency_ms") == (taken > limit)


def test_a_limit_that_nothing_keeps_is_refused(
    stock_folder: Path, tmp_path: Path, layers_run: list[int], capsys: pytest.CaptureFixture
) -> None:
    argv = ["search", "--model.name", str(stock_folder), "--output_dir", str(tmp_path), "--holdout_images", "1"]
    argv += ["--data.shapes_image_size", "64", "--data.shapes_train_images", "2", "--search.max_latency_ms", "1"]
    assert main([*argv, "--measure.repeats", "1", "--measure.warmup", "0"]) == 2
    assert "`max_latency_ms` = 1: the smallest took" in capsys.readouterr().err
