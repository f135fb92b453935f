"""Recovery of the found subnet, sampling near a budget, and what the report calls more than chance."""

import json
import math
import statistics
from pathlib import Path

import pytest
import torch

from supersam_hf.fields import FieldError
from supersam_hf.models.supersam import ElasticSpace, SuperSamModel
from supersam_hf.pipeline.comparisons import SAMPLES, classifier_differences, difference, differences
from supersam_hf.pipeline.publish import publication
from supersam_hf.recipe import Recipe
from supersam_hf.search.near_budget import Limits
from supersam_hf.training.finetune import FinetuneArguments
from supersam_hf.training.losses import LossArguments
from supersam_hf.training.recover import RecoverArguments, SamFinetuneArguments
from supersam_hf.training.sandwich import SandwichArguments, subnets_of_step


SPACE = ElasticSpace(
    num_hidden_layers=6,
    num_attention_heads=2,
    mlp_dim=64,
    head_dim=8,
    protected_layers=(0,),
    prunable_layers=(2, 4),
    prune_probability=(0.5, 0.5),
    mlp_windows=(16, 32, 48),
    attention_windows=(8,),
)


def size(subnet: object) -> int:
    """A cost that grows with every width."""
    return sum(subnet.mlp_dim) + 4 * sum(subnet.head_dim)  # type: ignore[attr-defined]


def recipe(**sections: object) -> Recipe:
    return Recipe(**{"model": {"name": "some/sam"}, **sections})  # type: ignore[arg-type]


def test_what_recover_and_finetune_leave_open_is_taken_from_train() -> None:
    train = SandwichArguments(
        max_steps=200, learning_rate=2e-4, lr_schedule="cosine", warmup_steps=20, loss=LossArguments(bce_weight=1.0)
    )
    for section in (RecoverArguments(), SamFinetuneArguments()):
        section.fill(train)
        assert (section.max_steps, section.learning_rate, section.lr_schedule) == (200, 2e-4, "cosine")
        assert (section.warmup_steps, section.loss.bce_weight) == (20, 1.0)
    given = RecoverArguments(max_steps=50, learning_rate=1e-3)
    given.fill(train)
    assert (given.max_steps, given.learning_rate, given.warmup_steps) == (50, 1e-3, 5)


def test_distillation_without_a_larger_subnet_is_refused() -> None:
    with pytest.raises(FieldError, match="`loss.distillation_weight` needs a larger subnet"):
        FinetuneArguments(loss=LossArguments(distillation_weight=0.5))
    section = RecoverArguments()
    section.fill(SandwichArguments(loss=LossArguments(distillation_weight=0.5)))
    assert section.loss.distillation_weight == 0


def test_a_share_of_the_sampled_subnets_keeps_the_budget() -> None:
    limits = Limits(SPACE, 1.2 * size(SPACE.smallest()), None, size, size)
    args = SandwichArguments(num_sampled=2, near_budget=0.5)
    plain = SandwichArguments(num_sampled=2, near_budget=0)
    steps = [subnets_of_step(SPACE, args, step, limits.narrowed) for step in range(40)]
    assert steps[7] == subnets_of_step(SPACE, args, 7, limits.narrowed)
    kept = [limits.keeps(subnet) for step in steps for name, subnet in step.items() if "sampled" in name]
    assert kept[1::2] == [True] * 40
    assert sum(kept[::2]) < 20
    for step in range(5):
        assert subnets_of_step(SPACE, plain, step, limits.narrowed) == subnets_of_step(SPACE, plain, step)
    for step in steps:
        for subnet in step.values():
            SPACE.validate(subnet)


def test_full_widths_close_the_gap_below_the_largest_subnet() -> None:
    full = SPACE.with_full_width()
    assert (full.mlp_windows, full.attention_windows) == ((16, 32, 48, 64), (8, 16))
    assert full.with_full_width() == full
    widest = SPACE.subnet(mlp_dim=48, head_dim=4)
    generator = torch.Generator().manual_seed(0)
    drawn = [size(full.sample(generator)) for _ in range(300)]
    assert any(size(widest) < cost < size(full.largest()) for cost in drawn)
    assert full.smallest() == SPACE.smallest()


def test_the_standard_error_is_that_of_equal_images_and_of_a_bootstrap() -> None:
    generator = torch.Generator().manual_seed(0)
    sums, others = torch.rand(2, 50, generator=generator, dtype=torch.float64)
    found = difference("a", "b", sums, others, torch.ones(50, dtype=torch.float64))
    assert found.value == pytest.approx(float((sums - others).mean()))
    assert found.standard_error == pytest.approx(float((sums - others).std()) / math.sqrt(50))
    counts = torch.randint(1, 9, (50,), generator=generator).double()
    found = difference("a", "b", sums * counts, others * counts, counts)
    drawn = torch.randint(0, 50, (4000, 50), generator=generator)
    means = ((sums - others) * counts)[drawn].sum(1) / counts[drawn].sum(1)
    assert found.standard_error == pytest.approx(float(means.std()), rel=0.1)


def test_found_is_compared_with_the_mean_of_the_sampled() -> None:
    images = {"original": 0.9, "sampled 1": 0.4, "sampled 2": 0.6, "found": 0.55, "found + recovery": 0.8}
    rows = [
        {"name": name, "kind": name.partition(" 1")[0].partition(" 2")[0], "images": [(value, 1), (value, 1)]}
        for name, value in images.items()
    ]
    told = {(one.model, one.other): one.value for one in differences(rows)}
    assert told[("found", SAMPLES)] == pytest.approx(0.05)
    assert told[("found + recovery", "found")] == pytest.approx(0.25)
    assert told[("found + recovery", "original")] == pytest.approx(-0.1)
    assert differences([{**row, "images": None} for row in rows]) == []


def test_classifiers_are_compared_image_by_image() -> None:
    """The standard error of a mean of paired differences, as any textbook has it."""
    hits = {"original": "1100110011", "pruned": "0000110011", "finetuned": "1110110111"}
    found = {
        (one.model, one.other): one for one in classifier_differences([{"name": n, "right": hits[n]} for n in hits])
    }
    assert set(found) == {("pruned", "original"), ("finetuned", "pruned"), ("finetuned", "original")}
    for (one, other), told in found.items():
        each = [int(a) - int(b) for a, b in zip(hits[one], hits[other])]
        assert told.value == pytest.approx(statistics.mean(each))
        assert told.standard_error == pytest.approx(statistics.stdev(each) / len(each) ** 0.5)
    assert classifier_differences([{"name": "original"}, {"name": "finetuned"}]) == []  # of an earlier version


def test_a_run_recovers_what_it_found_and_publishes_that(supersam_run: Path) -> None:
    found, recovered = (SuperSamModel.from_pretrained(supersam_run / name) for name in ("subnet", "recovered"))
    assert recovered.config.subnet == found.config.subnet
    assert any(not torch.equal(a, b) for a, b in zip(found.parameters(), recovered.parameters()))
    values = json.loads((supersam_run / "stages" / "recover.json").read_text())["values"]["recover"]
    assert (values["learning_rate"], values["max_steps"]) == (1e-3, 4)
    results = json.loads((supersam_run / "results.json").read_text())
    compared = [(one["model"], one["other"]) for one in results["differences"]]
    assert ("found", SAMPLES) in compared
    assert ("found + recovery", "found") in compared
    assert "two standard errors" in (supersam_run / "results.md").read_text()
    for name, expected in (("subnet", recovered), ("found", found)):
        model = publication(supersam_run, name).model
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters()))
