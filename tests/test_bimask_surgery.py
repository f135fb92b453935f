"""Masked, cut, extracted and reloaded are the same function; what stays of the optimiser stays as it was."""

import copy
from typing import Any

import pytest
import torch

from supersam_hf.bimask.budget import enforce, make_budget
from supersam_hf.bimask.cost import physical_shape, smallest_shape
from supersam_hf.bimask.extract import architecture, deploy
from supersam_hf.bimask.masking import MaskedModel
from supersam_hf.bimask.prune import cut_to_live, resize
from supersam_hf.bimask.space import SearchSpace
from supersam_hf.elastic.vit_cost import count_macs, count_parameters
from supersam_hf.models.ofb_vit import OfbViTConfig, OfbViTForImageClassification


def tiny_vit(**values: Any) -> OfbViTForImageClassification:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96}
    config = OfbViTConfig(**{**sizes, "image_size": 32, "patch_size": 8, "num_labels": 7, **values})
    model = OfbViTForImageClassification(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def masked_vit(space: SearchSpace | None = None, lam: float = 0.4, **values: Any) -> MaskedModel:
    masked = MaskedModel(tiny_vit(**values), space or SearchSpace(), generator=torch.Generator().manual_seed(1)).eval()
    masked.lam = lam
    for mask in masked.masks.values():
        torch.nn.init.normal_(mask.score)
    return masked


def decide(masked: MaskedModel, kinds: tuple[str, ...], generator: torch.Generator) -> None:
    """One random cell of every mask of these kinds, the full size for the others."""
    for name, mask in masked.masks.items():
        row = int(torch.randint(len(mask.group_sizes), (), generator=generator))
        column = int(torch.randint(len(mask.unit_sizes), (), generator=generator))
        mask.live.zero_()
        mask.live[(row, column) if name.startswith(kinds) else (-1, -1)] = True


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("kinds", [("mlp",), ("attention",), ("embedding",), ("mlp", "attention", "embedding")])
@pytest.mark.parametrize("seed", range(5))
def test_masked_equals_cut_equals_reloaded(
    kinds: tuple[str, ...], seed: int, images: torch.Tensor, tmp_path: Any
) -> None:
    masked = masked_vit(distillation_token=bool(seed % 2), distillation_head=bool(seed % 2))
    decide(masked, kinds, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        by_mask = masked(images).logits
        cut_to_live(masked)
        by_cut = masked(images).logits
        sizes = architecture(masked.model)
        deployed = deploy(masked)
        extracted = deployed(images).logits
        deployed.save_pretrained(tmp_path)
        reloaded = OfbViTForImageClassification.from_pretrained(tmp_path).eval()
        again = reloaded(images).logits
    tolerance = 1e-5 * by_mask.abs().max()
    assert (by_cut - by_mask).abs().max() <= tolerance
    assert (extracted - by_mask).abs().max() <= tolerance
    torch.testing.assert_close(again, extracted, rtol=0, atol=0)
    assert architecture(reloaded) == sizes
    heads, head_dims, mlps = reloaded.config.layer_widths
    assert (heads, head_dims, mlps) == (sizes["num_attention_heads"], sizes["head_dim"], sizes["intermediate_size"])
    assert not any("mask" in name or "alpha" in name or "score" in name for name in reloaded.state_dict())


def test_zeroing_the_embedding_alone_is_not_the_cut(images: torch.Tensor) -> None:
    """The trap that layer norm over live channels avoids: without it masked and cut differ widely."""
    masked = masked_vit()
    mask = masked.masks["embedding"]
    mask.live.zero_()
    mask.live[0, 0] = True
    with torch.no_grad():
        right = masked(images).logits
        masked._partly_dead = set()
        wrong = masked(images).logits
    assert (right - wrong).abs().max() > 0.1 * right.abs().max()


def test_moments_of_what_stays_are_unchanged(images: torch.Tensor) -> None:
    masked = masked_vit().train()
    optimizer = torch.optim.AdamW(masked.parameters(), lr=1e-2)
    for _ in range(2):
        masked(images, torch.rand(3, 16) < 0.5).logits.square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    layer: Any = masked.model.vit.layers[1]
    mask = masked.masks["mlp.1"]
    mask.live[:, 3:] = False
    kept_groups, kept_units = mask.kept(*mask.live_sizes())
    kept = kept_units[0]
    before = {
        id_: copy.deepcopy(optimizer.state[p])
        for id_, p in (("fc1", layer.mlp.fc1.weight), ("fc2", layer.mlp.fc2.weight))
    }
    score_moment = optimizer.state[mask.score]["exp_avg"].clone()
    weight, rate = layer.mlp.fc1.weight.detach().clone(), optimizer.param_groups[0]["lr"]
    assert cut_to_live(masked, optimizer) == ["mlp.1"]
    for moment in ("exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(
            optimizer.state[layer.mlp.fc1.weight][moment], before["fc1"][moment][kept], rtol=0, atol=0
        )
        torch.testing.assert_close(
            optimizer.state[layer.mlp.fc2.weight][moment], before["fc2"][moment][:, kept], rtol=0, atol=0
        )
    assert optimizer.state[layer.mlp.fc1.weight]["step"] == before["fc1"]["step"]
    torch.testing.assert_close(optimizer.state[mask.score]["exp_avg"], score_moment[:, kept], rtol=0, atol=0)
    torch.testing.assert_close(layer.mlp.fc1.weight.detach(), weight[kept], rtol=0, atol=0)
    assert mask.alpha.shape == (1, 3)
    assert {id(p) for p in masked.parameters()} == {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert set(optimizer.state) <= set(masked.parameters())
    # and the next step is AdamW's on the smaller tensors
    masked(images).logits.sum().backward()
    grad, state = layer.mlp.fc1.weight.grad.clone(), copy.deepcopy(optimizer.state[layer.mlp.fc1.weight])
    expected = layer.mlp.fc1.weight.detach() * (1 - rate * 0.01)
    first, second = 0.9 * state["exp_avg"] + 0.1 * grad, 0.999 * state["exp_avg_sq"] + 0.001 * grad.square()
    step = float(state["step"]) + 1
    expected -= rate * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
    optimizer.step()
    torch.testing.assert_close(layer.mlp.fc1.weight.detach(), expected, rtol=1e-5, atol=1e-7)


def test_resize_takes_the_sizes_of_a_cut(images: torch.Tensor) -> None:
    cut, fresh = masked_vit(), masked_vit()
    decide(cut, ("mlp", "attention", "embedding"), torch.Generator().manual_seed(3))
    cut_to_live(cut)
    for name, mask in cut.masks.items():
        resize(fresh.submodules[name], fresh.masks[name], mask.group_sizes, mask.unit_sizes)
    fresh.load_state_dict(cut.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(fresh(images).logits, cut(images).logits, rtol=0, atol=0)


@pytest.mark.parametrize("fraction", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["macs", "params"])
@pytest.mark.parametrize("decided", [False, True, "sparse"])
def test_the_budget_rule_holds_and_says_what_it_took(fraction: float, kind: str, decided: bool | str) -> None:
    masked = masked_vit()
    space, original = SearchSpace(), physical_shape(masked.model)
    limits = {"max_macs": None, "max_params": None, f"max_{kind}": fraction}
    budget = make_budget(original, space, **limits)
    options = {name: (list(mask.group_sizes), list(mask.unit_sizes)) for name, mask in masked.masks.items()}
    for mask in masked.masks.values() if decided else ():
        mask.settle()
        mask.live[-1, 0] = decided == "sparse"  # far below the largest, all between is dead
    removed = enforce(masked, options, budget)
    count = count_macs if kind == "macs" else count_parameters
    found = physical_shape(masked.model)
    assert count(found) <= fraction * count(original)
    assert sum(removal["saved"] for removal in removed) == count(original) - count(found)
    assert removed
    # no more than asked for: without the last removal the budget would not hold
    assert count(found) + removed[-1]["saved"] > fraction * count(original)
    for name, mask in masked.masks.items():
        assert mask.groups in options[name][0]
        assert mask.units in options[name][1]
        assert mask.live_sizes() == (mask.groups, mask.units)
        assert mask.group_sizes == sorted(set(mask.group_sizes))
        assert mask.unit_sizes == sorted(set(mask.unit_sizes))
    if decided == "sparse":  # and the steps were those of the options, not from one live cell to the next
        steps = [
            options[r["submodule"]][1].index(r["from"][1]) - options[r["submodule"]][1].index(r["to"][1])
            for r in removed
        ]
        assert max(steps) == 1


def test_a_budget_that_cannot_be_met_says_what_can() -> None:
    shape = physical_shape(tiny_vit())
    smallest = count_macs(smallest_shape(shape, SearchSpace()))
    with pytest.raises(ValueError, match=f"smallest network of this `space` has {smallest:,}"):
        make_budget(shape, SearchSpace(), smallest - 1, None)
    assert make_budget(shape, SearchSpace(), smallest, None).limit == smallest
    with pytest.raises(ValueError, match="exactly one"):
        make_budget(shape, SearchSpace(), 0.5, 0.5)
    for limit in (1.0, 1e12):
        with pytest.raises(ValueError, match="is no limit: the original has"):
            make_budget(shape, SearchSpace(), limit, None)
    with pytest.raises(ValueError, match="must be positive"):
        make_budget(shape, SearchSpace(), -1.0, None)


@pytest.mark.parametrize(
    ("space", "names"),
    [
        (SearchSpace(qkv_ratio=None, heads=None, embedding_ratio=None), {"mlp.0", "mlp.1", "mlp.2"}),
        (SearchSpace(mlp_ratio=None, qkv_ratio=None, heads=None), {"embedding"}),
        (SearchSpace(mlp_ratio=None, qkv_ratio=None, embedding_ratio=None), {f"attention.{i}" for i in range(3)}),
        (SearchSpace(mlp_ratio=None, heads=None, embedding_ratio=None), {f"attention.{i}" for i in range(3)}),
    ],
)
def test_every_submodule_can_be_switched_off(space: SearchSpace, names: set[str], images: torch.Tensor) -> None:
    masked = masked_vit(space)
    assert set(masked.masks) == names
    decide(masked, ("mlp", "attention", "embedding"), torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = masked(images).logits
        cut_to_live(masked)
        torch.testing.assert_close(deploy(masked)(images).logits, expected, rtol=1e-4, atol=1e-4)


def test_search_spaces() -> None:
    space = SearchSpace()
    assert space.channel_sizes(64) == [16, 24, 32, 40, 48, 56, 64]
    assert space.mlp_sizes(768) == [192, 288, 384, 480, 576, 672, 768]
    assert space.head_sizes(6) == [1, 3, 5, 6]
    assert space.head_sizes(3) == [1, 3]
    assert len(space.embedding_sizes(384)) == len(space.embedding_sizes(768)) == 17
    official = SearchSpace.official()
    assert official.head_sizes(6) == [2, 4, 6]
    assert official.head_sizes(3) == [2, 3]
    assert len(official.embedding_sizes(384)) == 17
    assert len(official.embedding_sizes(768)) == 33
    with pytest.raises(ValueError, match="begins at 4, but a layer of this model has 3 heads"):
        SearchSpace(heads=[4, None, 2]).head_sizes(3)
    with pytest.raises(ValueError, match="`heads`"):
        SearchSpace(heads=[1, 2, 2])
    with pytest.raises(ValueError, match="`mlp_ratio`"):
        SearchSpace(mlp_ratio=[0.25, 0.75, 0.125])


def test_taking_the_masks_off_leaves_the_model_as_it_was(images: torch.Tensor) -> None:
    model = tiny_vit()
    with torch.no_grad():
        expected = model(images).logits
        masked = MaskedModel(model, SearchSpace())
        assert (masked(images).logits - expected).abs().max() > 0
        torch.testing.assert_close(masked.remove()(images).logits, expected, rtol=0, atol=0)
    left = [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m)]
    assert not left


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_masks_under_checkpointing_and_autocast(attention: str, images: torch.Tensor) -> None:
    """Gradients of scores and architecture parameters do not depend on recomputation; bf16 gives finite ones."""
    gradients = []
    for checkpointing in (False, True):
        masked = masked_vit().train()
        masked.model.set_attn_implementation(attention)
        if checkpointing:
            masked.gradient_checkpointing_enable()
        masked(images).logits.square().mean().backward()
        gradients.append([p.grad for mask in masked.masks.values() for p in (mask.score, mask.alpha)])
    for plain, recomputed in zip(*gradients):
        torch.testing.assert_close(plain, recomputed, rtol=1e-5, atol=1e-6)
    masked = masked_vit().train()
    with torch.autocast("cpu", torch.bfloat16):
        masked(images, torch.ones(3, 16, dtype=torch.bool)).reconstruction.float().square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in masked.parameters() if p.grad is not None)
