"""One-shot pruning: importances against brute force and closed forms, budgets kept, cuts and refits exact."""

import copy
from typing import Any

import pytest
import torch
from conftest import TINY_VIT, randomised, tiny_config
from test_ofb_swin import ours as tiny_swin
from torch import nn

from supersam_hf import OfbViTForImageClassification, SuperSamModel
from supersam_hf.bimask.families import family_of
from supersam_hf.bimask.submodules import Slice, Submodule
from supersam_hf.elastic.cost import count_macs, count_parameters
from supersam_hf.fields import FieldError
from supersam_hf.models.ofb_vit import OfbViTConfig
from supersam_hf.models.supersam import SuperSamConfig
from supersam_hf.oneshot import PruneArguments, prune_once
from supersam_hf.oneshot.batches import class_loss, prompt_loss
from supersam_hf.oneshot.importance import magnitude, random, taylor, wanda
from supersam_hf.oneshot.pruning import EverySize, most_important, smallest_reachable
from supersam_hf.oneshot.reconstruction import SecondMoments, fit
from supersam_hf.training.sandwich import predict


FAMILIES = ("vit", "swin", "sam")


def tiny_vit(**config: Any) -> OfbViTForImageClassification:
    return randomised(OfbViTForImageClassification(OfbViTConfig(**{**TINY_VIT, **config}))).eval()


def model_of(family: str) -> Any:
    if family == "sam":
        return randomised(SuperSamModel(SuperSamConfig.from_dict(tiny_config().to_dict()))).eval()
    return tiny_vit() if family == "vit" else tiny_swin().eval()


def batches_of(family: str, dtype: torch.dtype = torch.float32, count: int = 2) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    if family == "sam":
        boxes = torch.tensor([[[4.0, 4, 40, 40], [10, 20, 60, 50]]] * 2, dtype=dtype)
        masks = (torch.rand(2, 2, 16, 16, generator=generator) > 0.5).to(dtype)
        pixels = [torch.randn(2, 3, 64, 64, generator=generator, dtype=dtype) for _ in range(count)]
        return [{"pixel_values": one, "input_boxes": boxes, "low_res_masks": masks} for one in pixels]
    return [
        {
            "pixel_values": torch.randn(4, 3, 32, 32, generator=generator, dtype=dtype),
            "labels": torch.randint(5, (4,), generator=generator),
        }
        for _ in range(count)
    ]


def loss_of(family: str) -> Any:
    return prompt_loss if family == "sam" else class_loss


def double_loss(model: Any, batch: Any) -> torch.Tensor:
    """In double throughout, where the losses of trainings are in single."""
    if "labels" in batch:
        return nn.functional.cross_entropy(model(pixel_values=batch["pixel_values"]).logits, batch["labels"])
    return predict(model, dict(batch), None).pred_masks.square().mean()


def scale(pieces: list[Slice], submodule: Submodule, unit: int, factor: float) -> None:
    """Multiplies all that a unit, counted over all groups, has in these parameters."""
    every = submodule.groups * submodule.units
    for piece in pieces:
        entries = getattr(piece.module, piece.name).data.movedim(piece.dim, 0)
        for copy_ in range(piece.copies):
            entries[copy_ * every + unit] *= factor


@pytest.mark.parametrize("family", FAMILIES)
def test_taylor_is_the_slope_of_the_loss_where_a_unit_fades(family: str) -> None:
    model, batches, loss = model_of(family).double(), batches_of(family, torch.float64), double_loss
    submodules = family_of(model).submodules(model, EverySize(embedding=family != "sam"))
    found, step = taylor(model, submodules, batches, loss), 1e-5
    for name in (next(n for n in submodules if n.startswith(kind)) for kind in {n.split(".")[0] for n in submodules}):
        submodule = submodules[name]
        pieces = submodule.folded if submodule.kind == "embedding" else submodule.readers
        for unit in (0, submodule.groups * submodule.units - 1):
            slopes = []
            for batch in batches:
                values = []
                for factor in (1 + step, 1 - step):
                    scale(pieces, submodule, unit, factor)
                    with torch.no_grad():
                        values.append(loss(model, batch).item())
                    scale(pieces, submodule, unit, 1 / factor)
                slopes.append(abs(values[0] - values[1]) / (2 * step))
            assert found[name].flatten()[unit].item() == pytest.approx(sum(slopes) / len(slopes), rel=1e-4, abs=1e-8)


def test_taylor_leaves_the_model_as_it_was() -> None:
    model = tiny_vit().train()
    before = copy.deepcopy(model.state_dict())
    taylor(model, family_of(model).submodules(model, EverySize()), batches_of("vit"), class_loss)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_wanda_is_weights_times_the_norm_of_what_they_read() -> None:
    model, (batch,) = tiny_vit(), batches_of("vit", count=1)
    submodules = family_of(model).submodules(model, EverySize())
    layer = model.vit.layers[1]
    with torch.no_grad():
        states = model(pixel_values=batch["pixel_values"], output_hidden_states=True).hidden_states[1]
        attended = states + layer.attention(layer.layernorm_before(states))[0]
        hidden = nn.functional.gelu(layer.mlp.fc1(layer.layernorm_after(attended)))  # (images, tokens, units)
    wanted = layer.mlp.fc2.weight.abs().sum(0) * hidden.flatten(0, 1).norm(dim=0)
    found = wanda(model, submodules, [batch], class_loss)["mlp.1"]
    assert torch.allclose(found[0].float(), wanted, rtol=1e-4)


def test_magnitude_is_the_norm_of_all_that_leaves_with_a_unit() -> None:
    model = tiny_vit()
    mlp = model.vit.layers[0].mlp
    rows = mlp.fc1.weight.square().sum(1) + mlp.fc1.bias.square()
    wanted = (rows + mlp.fc2.weight.square().sum(0)).sqrt()
    found = magnitude(family_of(model).submodules(model, EverySize()))["mlp.0"]
    assert torch.allclose(found[0].float(), wanted)


@pytest.mark.parametrize("limit", [{"max_macs": 0.6}, {"max_params": 0.7}])
@pytest.mark.parametrize("attention", ["channels", "heads", "none"])
@pytest.mark.parametrize("scope", ["uniform", "isomorphic", "global"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_budget_is_kept_to_a_unit(family: str, scope: str, attention: str, limit: dict[str, float]) -> None:
    model, loss = model_of(family), loss_of(family)
    if attention == "none":
        limit = dict.fromkeys(limit, 0.9)
    if family == "sam":
        limit = {name: 1 - (1 - share) / 3 for name, share in limit.items()}  # the decoder keeps its size
    args: Any = {"scope": scope, "attention": attention, "reconstruct": False, "min_ratio": 0.01, **limit}
    whole = {"macs": count_macs(model.config), "params": count_parameters(model.config)}
    pruned, report = prune_once(model, PruneArguments(**args), batches_of(family), loss)
    kind = report["budget_kind"]
    assert report["macs"] == count_macs(pruned.config)
    assert report["params"] == count_parameters(pruned.config) == sum(p.numel() for p in pruned.parameters())
    unit = 0.15 if attention == "heads" else 0.03  # of the whole: what the largest unit has
    assert report["budget"] - unit * whole[kind] < report[kind] <= report["budget"]
    assert torch.isfinite(loss(pruned, batches_of(family)[0]))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_unit_that_leaves_is_a_unit_that_sends_nothing(family: str) -> None:
    model, (batch,), loss = model_of(family), batches_of(family, count=1), loss_of(family)
    whole = copy.deepcopy(model)
    args = PruneArguments(max_macs=0.9, attention="none", reconstruct=False, method="random")
    pruned, _ = prune_once(model, args, [], loss)
    submodules = family_of(whole).submodules(whole, EverySize(attention="none"))
    importance = random(submodules, 0)
    for name, submodule in submodules.items():
        width = family_of(pruned).sizes(family_of(pruned).physical_shape(pruned))[name][1]
        _, kept = most_important(importance[name], 1, width, False)
        for unit in set(range(submodule.units)) - set(kept[0].tolist()):
            scale(submodule.readers, submodule, unit, 0.0)
    with torch.no_grad():
        assert loss(pruned, batch).item() == pytest.approx(loss(whole, batch).item(), rel=1e-5)


def test_every_layer_alike_keeps_the_same_share() -> None:
    pruned, report = prune_once(tiny_vit(), PruneArguments(max_macs=0.5), batches_of("vit"), class_loss)
    for widths in (report["architecture"]["head_dim"], report["architecture"]["intermediate_size"]):
        assert max(widths) - min(widths) <= 1
    assert report["architecture"]["hidden_size"] == TINY_VIT["hidden_size"]


def test_ranked_together_the_least_important_leave() -> None:
    model = tiny_vit()
    submodules = family_of(model).submodules(model, EverySize(attention="none"))
    importance = taylor(model, submodules, batches_of("vit"), class_loss)
    args = PruneArguments(max_macs=0.8, scope="isomorphic", attention="none", reconstruct=False, min_ratio=0.01)
    _, report = prune_once(model, args, batches_of("vit"), class_loss)
    widths = report["architecture"]["intermediate_size"]
    ranked = sorted((value, i) for i in range(len(widths)) for value in importance[f"mlp.{i}"][0].tolist())
    kept = [i for _, i in ranked[-sum(widths) :]]
    assert [kept.count(i) for i in range(len(widths))] == widths


def test_widths_are_rounded_up() -> None:
    _, report = prune_once(tiny_vit(), PruneArguments(max_macs=0.6, round_to=4), batches_of("vit"), class_loss)
    assert all(w % 4 == 0 for w in report["architecture"]["intermediate_size"] + report["architecture"]["head_dim"])


def test_of_twins_one_takes_over() -> None:
    """Every hidden unit has a twin: with one of each gone and the other refitted, nothing has changed."""
    model = tiny_vit()
    for layer in model.vit.layers:
        half = layer.mlp.fc1.weight.shape[0] // 2
        layer.mlp.fc1.weight.data[half:] = layer.mlp.fc1.weight.data[:half]
        layer.mlp.fc1.bias.data[half:] = layer.mlp.fc1.bias.data[:half]
    batches = batches_of("vit")
    submodule = family_of(model).submodules(model, EverySize(attention="none"))["mlp.0"]
    linear: Any = submodule.readers[0].module
    with SecondMoments([linear]) as moments, torch.no_grad():
        before = [model(pixel_values=batch["pixel_values"]).logits for batch in batches]
    half = linear.in_features // 2
    fit(linear, moments.found[linear], torch.arange(half), ridge=1e-9)
    linear.weight.data[:, half:] = 0
    with torch.no_grad():
        after = [model(pixel_values=batch["pixel_values"]).logits for batch in batches]
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(after, before))


def test_a_refit_is_least_squares() -> None:
    torch.manual_seed(0)
    linear, inputs, kept = nn.Linear(12, 5), torch.randn(200, 12), torch.tensor([0, 3, 4, 7, 9])
    wanted = linear(inputs).detach()
    with SecondMoments([linear]) as moments:
        linear(inputs)
    fit(linear, moments.found[linear], kept, ridge=0.0)
    columns = torch.cat([inputs[:, kept], torch.ones(200, 1)], 1)
    solved = torch.linalg.lstsq(columns, wanted).solution.T
    assert torch.allclose(linear.weight[:, kept], solved[:, :-1], atol=1e-5)
    assert torch.allclose(linear.bias, solved[:, -1], atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_refit_brings_outputs_nearer(family: str) -> None:
    batches, loss = batches_of(family, count=4), loss_of(family)
    model = model_of(family)

    def outputs(of: Any) -> torch.Tensor:
        with torch.no_grad():
            if family == "sam":
                return torch.cat([of.get_image_embeddings(b["pixel_values"]) for b in batches])
            return torch.cat([of(pixel_values=b["pixel_values"]).logits for b in batches])

    wanted, gaps = outputs(model), {}
    for refit in (False, True):
        args = PruneArguments(max_macs=0.85, reconstruct=refit, attention="none")
        gaps[refit] = (outputs(prune_once(copy.deepcopy(model), args, batches, loss)[0]) - wanted).norm().item()
    assert gaps[True] < 0.9 * gaps[False]


@pytest.mark.parametrize("family", ["vit", "sam"])
def test_layers_that_leave_are_skipped(family: str) -> None:
    model, loss = model_of(family), loss_of(family)
    whole, batches = copy.deepcopy(model), batches_of(family)
    args = PruneArguments(max_macs=0.97, drop_layers=1, mlp=False, attention="none", reconstruct=False)
    pruned, report = prune_once(model, args, batches, loss)
    (gone,) = report["dropped_layers"]
    layers = (whole.vision_encoder if family == "sam" else whole.vit).layers
    layers[gone].forward = lambda hidden_states, *args, **kwargs: hidden_states
    with torch.no_grad():
        assert loss(pruned, batches[0]).item() == pytest.approx(loss(whole, batches[0]).item(), rel=1e-5)


@pytest.mark.parametrize(
    ("family", "values", "message"),
    [
        ("vit", {"max_macs": 0.01}, "cannot be met"),
        ("vit", {"max_macs": 0.2, "attention": "none"}, "cannot be met"),
        ("vit", {"max_macs": 0.5, "drop_layers": 99}, "must leave a layer"),
        ("swin", {"max_macs": 0.5, "drop_layers": 1}, "keeps all its layers"),
        ("sam", {"max_macs": 0.5, "embedding": True}, "keeps its width"),
        ("vit", {}, "exactly one"),
    ],
)
def test_what_cannot_be_is_refused_without_a_weight(family: str, values: dict[str, Any], message: str) -> None:
    model = model_of(family).to("meta")
    with pytest.raises(ValueError, match=message):
        smallest_reachable(model, PruneArguments(**values))


def test_images_are_needed() -> None:
    with pytest.raises(ValueError, match="no batch"):
        prune_once(tiny_vit(), PruneArguments(max_macs=0.5), [], class_loss)
    with pytest.raises(FieldError, match="nothing to prune"):
        PruneArguments(mlp=False, attention="none")
