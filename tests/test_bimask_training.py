"""The bi-mask search as a whole: it keeps its budget, loses no work, and fails with a reason."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import fresh
import pytest
import torch
from bimask_script import gradients, search, search_arguments
from classify_script import LABELS, Stripes, StripesArguments, stripes, tiny_vit

from supersam_hf.bimask.cost import full_cost, physical_shape, soft_cost
from supersam_hf.bimask.space import SearchSpace
from supersam_hf.classification import evaluate_classifier
from supersam_hf.data import build_loader
from supersam_hf.elastic.vit_cost import count_macs, count_parameters
from supersam_hf.models.ofb_swin import OfbSwinConfig, OfbSwinForImageClassification
from supersam_hf.models.ofb_vit import OfbViTForImageClassification
from supersam_hf.training.bimask import new_search, train_bimask
from supersam_hf.training.bimask_arguments import BiMaskArguments
from supersam_hf.training.checkpoints import checkpoints
from supersam_hf.training.classify import ClassificationLossArguments
from supersam_hf.training.engine import Engine
from supersam_hf.training.errors import NonFiniteLossError


SCRIPT = Path(__file__).with_name("bimask_script.py")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_times(path: Path) -> list[dict[str, Any]]:
    timed = ("step_seconds", "images_per_second", "memory_mb")
    # a line without results comes of the evaluation that kills
    kept = [line for line in lines(path) if len(line) > 1]
    return [{key: value for key, value in line.items() if key not in timed} for line in kept]


@pytest.mark.parametrize(
    "values",
    [
        {"max_macs": 0.4},
        {"max_params": 0.6},
        {"max_macs": 0.5, "alpha_learning_rate": 1e-4},  # nothing is decided: the budget's rule does it all
        {"max_macs": 0.5, "preset": "official"},
        {"max_macs": 0.5, "ordinal": True, "pmim": False},
    ],
)
def test_the_budget_holds_in_every_run(values: dict[str, Any], tmp_path: Path) -> None:
    args = search_arguments(**values, save_steps=0)
    found, report = search(tmp_path, args)
    found.save_pretrained(tmp_path / "found")
    assert OfbViTForImageClassification.from_pretrained(tmp_path / "found").config.search == json.loads(
        json.dumps(report)
    )
    count = count_params_or_macs(report["budget_kind"])
    shape = physical_shape(found)
    limit = values.get("max_macs") or values["max_params"]
    assert count(shape) <= limit * count(physical_shape(tiny_vit()))
    assert report["macs"] == count_macs(shape)
    assert report["params"] == count_parameters(shape) == sum(p.numel() for p in found.parameters())
    assert report["decided_by_search"] == (not report["enforced"] and all_decided(tmp_path))
    if args.alpha_learning_rate == 1e-4:
        assert report["enforced"]
    found.save_pretrained(tmp_path / "found")
    again = OfbViTForImageClassification.from_pretrained(tmp_path / "found").eval()
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(again(images).logits, found.eval()(images).logits, rtol=0, atol=0)
    assert list(again.config.id2label.values()) == LABELS


def count_params_or_macs(kind: str) -> Any:
    return count_macs if kind == "macs" else count_parameters


def all_decided(folder: Path) -> bool:
    """Every submodule has one cell with p = 1 where the last pruning left off."""
    last = lines(folder / "history.jsonl")[-1]
    return all(max(map(max, s["probabilities"])) == 1 for s in last["submodules"].values())


def test_the_log_names_every_term_and_they_add_up(tmp_path: Path) -> None:
    search(tmp_path, search_arguments(save_steps=0))
    log, history = lines(tmp_path / "log.jsonl"), lines(tmp_path / "history.jsonl")
    terms = ["loss_class", "loss_reconstruction", "loss_entropy", "loss_variance", "loss_l1", "loss_budget"]
    assert log[0]["loss"] == pytest.approx(sum(log[0][term] for term in terms))
    assert [log[0]["lambda"], log[23]["lambda"]] == [1, 0]
    assert [log[0]["mask_ratio"], log[-1]["mask_ratio"]] == [0.05, 0]
    assert log[0]["macs_live"] == 1
    assert log[-1]["macs_live"] <= 0.5
    live = [line["macs_live"] for line in log]
    assert live == sorted(live, reverse=True)
    assert [line["step"] for line in history] == [0, 3, 6, 9, 12, 15, 18, 21, 24]
    assert history[0]["macs"] > history[-1]["macs"]
    assert sum(bool(line["removed"]) for line in history) >= 3
    for line in history:
        for submodule in line["submodules"].values():
            assert submodule["importance"] == sorted(submodule["importance"], reverse=True)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor], dict[str, Any]]:
    folder = tmp_path_factory.mktemp("whole")
    found, report = search(folder)
    return folder, found.state_dict(), report


def test_resumed_after_its_last_step_a_search_gives_the_same_model(uninterrupted: Any, tmp_path: Path) -> None:
    """Nothing is left to run, but lambda must be that of the last step when the masks are folded in."""
    whole, weights, report = uninterrupted
    shutil.copytree(whole, tmp_path / "again")
    found, resumed = search(tmp_path / "again")
    assert resumed == report
    for name, value in found.state_dict().items():
        torch.testing.assert_close(value, weights[name], rtol=0, atol=0)


def test_all_decided_and_too_large_is_cut_at_once(tmp_path: Path) -> None:
    """The released budget weight lets everything be decided above the budget; waiting could not change that."""
    args = search_arguments(max_macs=0.25, budget_weight=0.0, search_steps=29, prune_steps=1, save_steps=0)
    args.alpha_learning_rate = 1.0
    _, report = search(tmp_path, args)
    live = [line["macs_live"] for line in lines(tmp_path / "log.jsonl")]
    within = next(i for i, share in enumerate(live) if share <= 0.25)
    assert report["enforced"]
    assert within < 25


# Step 18 lies between two checkpoints, after several cuts; step 27 after the search.
@pytest.mark.parametrize("kill_after", [18, 27])
def test_killed_and_resumed_is_the_same_search(kill_after: int, uninterrupted: Any, tmp_path: Path) -> None:
    whole, weights, report = uninterrupted
    killed = fresh.run(SCRIPT, tmp_path, kill_after)
    assert killed.returncode == 9, killed.stderr
    before = [line for line in lines(tmp_path / "history.jsonl") if line["removed"]]
    assert len(before) >= 2
    found, resumed = search(tmp_path)
    assert resumed == report
    for name, value in found.state_dict().items():
        torch.testing.assert_close(value, weights[name], rtol=0, atol=0)
    for file in ("log.jsonl", "history.jsonl"):
        assert without_times(tmp_path / file) == without_times(whole / file)


def test_a_search_is_evaluated_on_its_way(tmp_path: Path) -> None:
    """The masked model stands in for the classifier; being looked at changes nothing."""
    loader = build_loader(Stripes(12, StripesArguments(), training=False), 4)
    results = []

    def evaluate(engine: Engine) -> dict[str, float]:
        results.append(evaluate_classifier(engine.unwrapped, loader, engine.accelerator).top1)
        return {"top1": results[-1]}

    args = search_arguments(max_steps=9, search_steps=9, save_steps=0)
    plain, _ = train_bimask(tiny_vit(), SearchSpace(), stripes(), args, tmp_path / "plain")
    args.eval_steps = 3
    watched, _ = train_bimask(tiny_vit(), SearchSpace(), stripes(), args, tmp_path / "watched", evaluate=evaluate)
    assert len(results) == 3
    assert [line["top1"] for line in lines(tmp_path / "watched" / "log.jsonl") if "top1" in line] == results
    for name, value in watched.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name], rtol=0, atol=0)


def test_a_search_in_bf16_stays_finite(tmp_path: Path) -> None:
    fresh.run(SCRIPT, tmp_path, "bf16", check=True)
    log = lines(tmp_path / "log.jsonl")
    assert len(log) == 30
    assert all(math.isfinite(value) for line in log for value in line.values())
    assert log[-1]["macs_live"] <= 0.5
    weights = torch.load(tmp_path / "found.pt")
    assert all(value.isfinite().all() and value.dtype == torch.float32 for value in weights.values())


def test_two_processes_make_the_same_cuts(tmp_path: Path) -> None:
    """Cuts on all ranks at once: the ranks end equal, with one report and a model that keeps the budget."""
    fresh.launch(2, SCRIPT, tmp_path, check=True)
    history = lines(tmp_path / "history.jsonl")
    assert [line["step"] for line in history] == sorted({line["step"] for line in history})
    assert sum(bool(line["removed"]) for line in history) >= 2
    weights = torch.load(tmp_path / "found.pt")
    assert sum(value.numel() for value in weights.values()) < sum(p.numel() for p in tiny_vit().parameters())


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Relative to each tensor's largest gradient."""
    assert a.keys() == b.keys()
    scales = {name: value.abs().max().item() for name, value in a.items()}
    # below that the gradient is rounding error (biases that softmax cancels)
    return max((a[name] - b[name]).abs().max().item() / scale for name, scale in scales.items() if scale > 1e-7)


@pytest.mark.parametrize(
    ("option", "processes"), [("gradients", 2), pytest.param("gradients", 3, marks=pytest.mark.slow), ("sam", 2)]
)
def test_several_processes_give_the_gradients_and_the_cuts_of_one(option: str, processes: int, tmp_path: Path) -> None:
    gradients(tmp_path, sam=option == "sam")
    fresh.launch(processes, SCRIPT, tmp_path, option, check=True)

    def load(name: str) -> dict[str, Any]:
        return torch.load(tmp_path / f"gradients-{name}.pt", weights_only=True)

    one = load("1-0")
    for rank in range(processes):
        found = load(f"{processes}-{rank}")
        worst = largest_difference(one["gradients"], found["gradients"])
        print(f"largest difference relative to a tensor's largest gradient: {worst:.2e}")
        assert worst <= 1e-5
        assert found["shapes"] == one["shapes"]  # after every step: all are cut at once, and alike
    assert len({json.dumps(shapes) for shapes in one["shapes"]}) > 1
    assert largest_difference(one["gradients"], load(f"{processes}-0-rogue")["gradients"]) > 1e-3


def test_g_of_v_at_the_start_is_that_of_the_probabilities(tmp_path: Path) -> None:
    searching = new_search(tiny_vit(), SearchSpace(), search_arguments(), tmp_path)
    for mask in searching.masked.masks.values():
        mask.alpha.data.fill_(-50)
        mask.alpha.data[-1, -1] = 50
    assert soft_cost(searching.masked, "macs").item() == pytest.approx(searching.full_cost)
    assert full_cost(physical_shape(tiny_vit()), "params") == sum(p.numel() for p in tiny_vit().parameters())


def test_the_pretrained_function_survives_the_first_step(tmp_path: Path) -> None:
    """With scores at "keep" the masked model is close to the model; at the released mean of 0 it is not."""
    images = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = tiny_vit().eval()(images).logits
    distance = {}
    for preset in ("paper", "official"):
        args = search_arguments(preset=preset)
        searching = new_search(tiny_vit(), SearchSpace(), args, tmp_path)
        masked = searching.masked.eval()
        masked.lam = float(args.lambda_start or 0)
        distance[preset] = float((masked(images).logits - expected).detach().norm() / expected.detach().norm())
    assert distance["paper"] < 0.2
    assert distance["paper"] < distance["official"] / 2


def test_distillation_needs_its_teacher_and_learns_from_it(tmp_path: Path) -> None:
    soft = ClassificationLossArguments(distillation="soft")
    with pytest.raises(ValueError, match="goes with a teacher"):
        search(tmp_path, search_arguments(loss=soft))
    args = search_arguments(loss=soft, save_steps=0, max_steps=4, search_steps=4)
    train_bimask(tiny_vit(), SearchSpace(), stripes(), args, tmp_path / "taught", teacher=tiny_vit(1))
    plain = search_arguments(save_steps=0, max_steps=4, search_steps=4)
    train_bimask(tiny_vit(), SearchSpace(), stripes(), plain, tmp_path / "plain")
    first = [lines(tmp_path / name / "log.jsonl")[0]["loss_class"] for name in ("taught", "plain")]
    assert first[0] != first[1]


class Poisoned(Stripes):
    """One image of the third epoch is NaN."""

    def __getitem__(self, item: tuple[int, int]) -> dict[str, torch.Tensor]:
        sample = super().__getitem__(item)
        return {**sample, "pixel_values": sample["pixel_values"] * torch.nan} if item == (2, 3) else sample


def test_a_nan_stops_the_search_and_names_step_and_term(tmp_path: Path) -> None:
    loader = build_loader(Poisoned(20, StripesArguments()), 4)
    with pytest.raises(NonFiniteLossError, match=r"`loss.*` is nan at step 1[1-5]\..*checkpoint-00000010"):
        train_bimask(tiny_vit(), SearchSpace(), loader, search_arguments(), tmp_path)
    assert [folder.name for folder in checkpoints(tmp_path)] == ["checkpoint-00000005", "checkpoint-00000010"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": "mine"}, "`preset` "),
        ({"search_steps": 31}, "`search_steps` "),
        ({"eta": 0.0}, "`eta` "),
        ({"alpha_learning_rate": 0.0}, "`alpha_learning_rate` "),
        ({"mask_ratio_end": 1.5}, "`mask_ratio_end` "),
        ({"teacher": "x"}, "`teacher` "),
    ],
)
def test_bad_values_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        search_arguments(**values)


def test_the_presets_differ_where_paper_and_code_do() -> None:
    paper, official = BiMaskArguments(max_macs=0.5), BiMaskArguments(max_macs=0.5, preset="official")
    assert (paper.lambda_start, paper.lambda_end, paper.ramp) == (1, 0, 1)
    assert (official.lambda_start, official.lambda_end, official.ramp) == (0.99, 0.1, 0.4)
    assert (paper.mask_position, official.mask_position) == ("before", "after")
    assert BiMaskArguments(preset="official", lambda_end=0.5).lambda_end == 0.5


def test_another_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    search(tmp_path, search_arguments(max_steps=10, search_steps=10))
    with pytest.raises(ValueError, match="another `eta`"):
        search(tmp_path, search_arguments(max_steps=10, search_steps=10, eta=0.3))


def test_images_of_another_size_than_the_budget_is_counted_at(tmp_path: Path) -> None:
    """A Swin takes images of any size."""
    config = OfbSwinConfig(image_size=64, patch_size=2, embed_dim=16, depths=[1, 1], num_heads=[1, 2], window_size=4)
    model = OfbSwinForImageClassification(config)
    model.reset_classifier(LABELS)
    with pytest.raises(ValueError, match="images are of 16 x 16 px and the model's config says 64"):
        train_bimask(model, SearchSpace(), stripes(), search_arguments(pmim=False), tmp_path)
