"""A budget in milliseconds: how it is read, which network it leads to, and how a search keeps it to its end."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_ofb_pipeline import OPTIONS
from test_oneshot import batches_of, loss_of, model_of, tiny_vit

from supersam_hf import OfbViTForImageClassification
from supersam_hf.bimask.cost import physical_shape
from supersam_hf.bimask.search import BiMaskSearch
from supersam_hf.bimask.space import SearchSpace
from supersam_hf.elastic.cost import count_macs
from supersam_hf.fields import FieldError
from supersam_hf.limits import LatencyLimit, parse_latency
from supersam_hf.oneshot import PruneArguments, prune_once
from supersam_hf.oneshot.latency import Blueprint, check_fast_enough, first_fast_enough
from supersam_hf.oneshot.pace import SearchPace
from supersam_hf.oneshot.pruning import random_ladder
from supersam_hf.training.bimask import BiMaskArguments
from supersam_hf_cli import main


# So wide that nearly all time is in what can be cut: the smallest is far faster on any machine.
WIDE = {**OPTIONS, "pretrain.hidden_size": 384, "pretrain.num_attention_heads": 6, "measure.enabled": "false"}
del WIDE["search.max_macs"]


class ClosedForm:
    """Times networks by a formula: a fixed part, and the rest by multiply-accumulates."""

    whole_ms = 20.0

    def __init__(self, whole: Any, fixed: float = 0.2) -> None:
        self.macs, self.fixed, self.timed = count_macs(whole), fixed, 0

    def share(self, shape: Any) -> float:
        self.timed += 1
        return self.fixed + (1 - self.fixed) * count_macs(shape) / self.macs


@pytest.mark.parametrize(
    ("value", "share"), [(5, 0.25), (5.0, 0.25), ("5", 0.25), ("25%", 0.25), ("0.5%", 0.005), (0.5, 0.025)]
)
def test_a_limit_is_milliseconds_or_a_share(value: Any, share: float) -> None:
    limit = parse_latency("max_latency_ms", value)
    assert limit is not None
    assert limit.share_of(20.0) == pytest.approx(share)
    again = parse_latency("max_latency_ms", str(limit))
    assert again is not None
    assert again.share_of(20.0) == pytest.approx(share)


@pytest.mark.parametrize("value", [0, -1, "100%", "0%", "150%", "fast", True, float("nan"), float("inf"), [5]])
@pytest.mark.parametrize("arguments", [PruneArguments, BiMaskArguments])
def test_what_is_no_limit_is_refused(arguments: Any, value: Any) -> None:
    with pytest.raises(FieldError, match="max_latency_ms"):
        arguments(max_latency_ms=value)


@pytest.mark.parametrize("arguments", [PruneArguments, BiMaskArguments])
def test_one_budget_only(arguments: Any) -> None:
    with pytest.raises(FieldError, match="give one budget"):
        arguments(max_latency_ms=5, max_macs=0.5)


@pytest.mark.parametrize("family", ["vit", "swin", "sam"])
@pytest.mark.parametrize("asked", ["90%", "70%", 11])
def test_the_network_is_at_most_three_percent_faster_than_asked(family: str, asked: Any) -> None:
    model, args = model_of(family), PruneArguments(max_latency_ms=asked)
    whole, ladder, limit = physical_shape(model), random_ladder(model, args), args.latency
    stopwatch: Any = ClosedForm(whole)
    assert limit is not None
    step = first_fast_enough(ladder, stopwatch, limit)
    share = stopwatch.share(ladder.resized(step))
    one_more = stopwatch.share(ladder.resized(max(0, step - 1)))  # these networks are tiny: a unit is a large step
    assert share <= limit.share_of(20.0)
    assert share >= 0.97 * limit.share_of(20.0) or one_more > limit.share_of(20.0)
    assert stopwatch.timed <= 13


def test_what_cannot_be_met_says_how_fast_the_smallest_is() -> None:
    whole = physical_shape(model_of("vit"))
    stopwatch: Any = ClosedForm(whole, fixed=0.5)
    smallest = random_ladder(model_of("vit"), PruneArguments(max_latency_ms=1)).resized(10**6)
    with pytest.raises(ValueError, match=r"cannot be met: the smallest network takes 1[0-9.]+ ms an image here"):
        check_fast_enough(stopwatch, smallest, LatencyLimit(5.0, False))
    for value, is_share in ((20.0, False), (25.0, False)):
        with pytest.raises(ValueError, match="is no limit: the original takes 20 ms"):
            check_fast_enough(stopwatch, smallest, LatencyLimit(value, is_share))


@pytest.mark.parametrize("family", ["vit", "swin", "sam"])
def test_a_blueprint_builds_networks_of_the_sizes_asked_for(family: str) -> None:
    model = model_of(family)
    ladder = random_ladder(model, PruneArguments(max_latency_ms=1))
    for step in (0, len(ladder.removals) // 2, len(ladder.removals)):
        assert physical_shape(Blueprint.of(model).build(ladder.resized(step))) == ladder.resized(step)
    assert physical_shape(Blueprint.of(model).build()) == physical_shape(model)


@pytest.mark.parametrize("drop_layers", [0, 1])
def test_a_pruned_network_tells_its_time(drop_layers: int) -> None:
    """The time itself is the machine's; that it was asked for and measured is not."""
    model = tiny_vit(hidden_size=384, intermediate_size=1536, num_attention_heads=6, num_hidden_layers=4)
    args = PruneArguments(max_latency_ms="60%", drop_layers=drop_layers)
    pruned, report = prune_once(model, args, batches_of("vit"), loss_of("vit"))
    assert report["budget_kind"] == "macs"
    assert count_macs(pruned.config) == report["macs"] <= report["budget"] < report["original"]["macs"]
    assert report["latency"]["asked"] == pytest.approx(0.6)
    assert report["latency"]["share"] > 0


def test_a_search_lowers_its_budget_until_it_is_fast_enough(tmp_path: Path) -> None:
    """Its networks take half as long again as the budget in multiply-accumulates stands for."""
    model = model_of("vit")
    whole = count_macs(physical_shape(model))

    def pace(shape: Any) -> float:
        return 1.5 * count_macs(shape) / (0.7 * whole)

    space = SearchSpace(embedding_ratio=None)
    search = BiMaskSearch(model, space, tmp_path, max_macs=0.7, pace=pace, pmim=None)
    optimizer = torch.optim.SGD(search.masked.parameters(), 0.1)
    search.prune(0.2, optimizer, last=True)
    assert search.over
    assert pace(physical_shape(search.masked.model)) <= 1
    assert not search.decided_by_search
    assert search.report()["budget"] < 0.7 * whole / 1.5 + 1
    other = BiMaskSearch(model_of("vit"), space, tmp_path, max_macs=0.7, pace=pace, pmim=None)
    other.restore(search.describe(), torch.optim.SGD(other.masked.parameters(), 0.1))
    assert other.budget == search.budget


def test_an_interrupted_search_goes_on_with_the_budget_it_began_with(tmp_path: Path) -> None:
    (tmp_path / "latency.json").write_text(json.dumps({"max_latency_ms": "60%", "max_macs": 123456, "whole_ms": 1.0}))
    limit = LatencyLimit(0.6, True)
    assert SearchPace(model_of("vit"), limit, tmp_path).max_macs == 123456


@pytest.mark.parametrize("method", ["one-shot", "bimask"])
def test_a_run_with_a_budget_in_time(method: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = {**WIDE, "method": method, "output_dir": tmp_path, "search.max_latency_ms": "70%"}
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    assert main(["ofb", "run", *words]) == 0
    told = capsys.readouterr().out
    search = json.loads((tmp_path / "search.json").read_text())
    assert search["latency"]["asked"] == pytest.approx(0.7)
    assert search["macs"] < search["original"]["macs"]
    assert "70.0% of the original's" in told
    assert "In time: " in (tmp_path / "results.md").read_text()
    OfbViTForImageClassification.from_pretrained(tmp_path / "finetuned")


@pytest.mark.parametrize("verb", ["run", "search", "prune"])
def test_a_time_that_no_network_keeps_is_refused_before_any_work(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    method = "one-shot" if verb == "prune" else "bimask"
    section = "prune" if verb == "prune" else "search"
    options = {**WIDE, "method": method, "output_dir": tmp_path / "run", f"{section}.max_latency_ms": "0.01%"}
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    assert main(["ofb", verb, *words, "--dry_run"]) == 2
    assert "cannot be met: the smallest network takes" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_dry_run_tells_the_time_that_a_budget_is_expected_to_come_to(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = [str(word) for name, value in (WIDE | {"search.max_macs": 0.5}).items() for word in (f"--{name}", value)]
    assert main(["ofb", "run", *words, "--output_dir", str(tmp_path / "run"), "--dry_run"]) == 0
    told = capsys.readouterr().out
    assert "of the original's time) with" in told
    assert not (tmp_path / "run").exists()
