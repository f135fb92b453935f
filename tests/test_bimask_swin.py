"""Bi-masks on a Swin: masked, cut, extracted and reloaded are the same function; cost; search; masked patches."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import randomised
from transformers import SwinConfig, SwinForMaskedImageModeling

from supersam_hf import count_macs, count_parameters
from supersam_hf.bimask.budget import enforce, make_budget
from supersam_hf.bimask.cost import full_cost, number_of_networks, physical_shape, smallest_shape, soft_cost
from supersam_hf.bimask.extract import architecture, deploy
from supersam_hf.bimask.families import family_of
from supersam_hf.bimask.masking import MaskedModel
from supersam_hf.bimask.pmim import PatchMasking, PmimDecoder, sample_mask
from supersam_hf.bimask.prune import cut_to_live
from supersam_hf.bimask.space import SearchSpace
from supersam_hf.models.ofb_swin import OfbSwinConfig, OfbSwinForImageClassification


# Grids of 16, 8 and 4 patches with windows of 4: shifted ones, padded ones none.
TINY: dict[str, Any] = {
    **{"image_size": 32, "patch_size": 2, "embed_dim": 24, "depths": [2, 2, 1], "num_heads": [2, 4, 6]},
    **{"window_size": 4, "num_labels": 5, "drop_path_rate": 0.0},
}
# Grids of 15, 8 and 4: windows are padded, merging too.
PADDED = {**TINY, "image_size": 30, "num_heads": [1, 2, 4]}
KINDS = [("mlp",), ("attention",), ("embedding",), ("mlp", "attention", "embedding")]


def tiny_swin(**values: Any) -> OfbSwinForImageClassification:
    return randomised(OfbSwinForImageClassification(OfbSwinConfig(**{**TINY, **values}))).eval()


def masked_swin(lam: float = 0.4, pmim: Any = None, **values: Any) -> MaskedModel:
    generator = torch.Generator().manual_seed(1)
    masked = MaskedModel(tiny_swin(**values), SearchSpace(), generator=generator, pmim=pmim).eval()
    masked.lam = lam
    torch.manual_seed(3)
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


def images(side: int = 32, seed: int = 2) -> torch.Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(50))
def test_masked_equals_cut_equals_reloaded(seed: int, tmp_path: Path) -> None:
    values = [{}, PADDED, {"use_absolute_embeddings": True}, {"qkv_bias": False}][seed % 4]
    masked = masked_swin(**values)
    decide(masked, KINDS[seed % len(KINDS)] if seed < 20 else KINDS[-1], torch.Generator().manual_seed(seed))
    pixels = images(masked.config.image_size)
    with torch.no_grad():
        by_mask = masked(pixels).logits
        cut_to_live(masked)
        by_cut = masked(pixels).logits
        sizes = architecture(masked.model)
        deployed = deploy(masked)
        extracted = deployed(pixels).logits
        deployed.save_pretrained(tmp_path)
        reloaded = OfbSwinForImageClassification.from_pretrained(tmp_path).eval()
        again = reloaded(pixels).logits
    tolerance = 1e-5 * by_mask.abs().max()
    assert (by_cut - by_mask).abs().max() <= tolerance
    assert (extracted - by_mask).abs().max() <= tolerance
    torch.testing.assert_close(again, extracted, rtol=0, atol=0)
    assert architecture(reloaded) == sizes
    assert reloaded.config.hidden_sizes == sizes["hidden_sizes"]
    assert reloaded.config.query_pre_attn_scalars == [
        width // heads for width, heads in zip([24, 48, 96], masked.config.num_heads)
    ]
    assert sum(p.numel() for p in reloaded.parameters()) == count_parameters(reloaded.config)


def test_norms_count_live_channels_only() -> None:
    """Without it masked and cut differ: by the norm of patches, those of blocks, and that of merging."""
    masked = masked_swin()
    decide(masked, ("embedding",), torch.Generator().manual_seed(5))
    with torch.no_grad():
        by_mask = masked(images()).logits
        masked._partly_dead = set()
        assert (masked(images()).logits - by_mask).abs().max() > 1e-2 * by_mask.abs().max()


def test_a_stage_ties_its_blocks_merging_and_the_next_stage() -> None:
    """A channel that leaves stage 1 leaves all that reads and writes it, four times in merging, and nothing else."""
    model = tiny_swin()
    before = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    masked = MaskedModel(model, SearchSpace(), pmim=None)
    for name, mask in masked.masks.items():
        mask.live.zero_()
        mask.live[-1, 0 if name == "embedding.1" else -1] = True
    cut_to_live(masked)
    after = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    changed = {name for name in before if before[name] != after[name]}
    layers = "swin.encoder.layers"
    assert after[f"{layers}.0.downsample.reduction.weight"] == (24, 4 * 24)
    assert after[f"{layers}.1.downsample.reduction.weight"] == (96, 4 * 24)
    assert after[f"{layers}.1.downsample.norm.weight"] == (4 * 24,)
    merging = {f"{layers}.0.downsample.reduction.weight", f"{layers}.1.downsample.reduction.weight"}
    assert {
        name for name in changed if not name.startswith((f"{layers}.1.blocks", f"{layers}.1.downsample.norm"))
    } == merging


def test_the_tables_of_relative_positions_follow_their_heads() -> None:
    masked = masked_swin(lam=1.0)
    mask = masked.masks["attention.2"]
    torch.nn.init.normal_(mask.score, std=3.0)
    kept = mask.importance().sum(1).argsort(descending=True)[:3].sort().values
    for name, other in masked.masks.items():
        other.live.zero_()
        other.live[(other.group_sizes.index(3), -1) if name == "attention.2" else (-1, -1)] = True
    table = masked.model.swin.encoder.layers[1].blocks[0].attention.relative_position_bias
    whole = table.relative_position_bias_table.detach().clone()
    cut_to_live(masked)
    assert torch.equal(table.relative_position_bias_table, whole[:, kept])


@pytest.mark.parametrize("values", [{}, PADDED, {"use_absolute_embeddings": True}, {"qkv_bias": False}])
def test_the_soft_cost_is_the_closed_form_where_nothing_is_masked(values: dict[str, Any]) -> None:
    model = tiny_swin(**values)
    shape = physical_shape(model)
    assert full_cost(shape, "macs") == count_macs(model.config)
    assert full_cost(shape, "params") == count_parameters(model.config) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("kind", ["macs", "params"])
def test_the_soft_cost_of_decided_masks_is_that_of_the_cut(kind: str) -> None:
    """V is 0 or 1 then: g(V) of the masked weights is what is counted of the cut ones, but for constants of heads."""
    masked = masked_swin()
    decide(masked, ("mlp", "embedding"), torch.Generator().manual_seed(4))
    soft = float(soft_cost(masked, kind))
    cut_to_live(masked)
    shape = physical_shape(masked.model)
    assert soft == pytest.approx(count_macs(shape) if kind == "macs" else count_parameters(shape), rel=1e-6)


def test_every_score_gets_a_gradient_from_the_soft_cost() -> None:
    masked = masked_swin()
    soft_cost(masked, "macs").backward()
    for name, mask in masked.masks.items():
        assert mask.alpha.grad.abs().max() > 0, name


def test_only_part_of_the_space_is_searched() -> None:
    """Blocks with one head only have no options there; g(V) counts them whole."""
    space = SearchSpace(qkv_ratio=None, heads=[1, None, 2], embedding_ratio=None)
    masked = MaskedModel(tiny_swin(num_heads=[1, 4, 6]), space, pmim=None)
    assert [name for name in masked.submodules if name.startswith("attention")] == [
        "attention.2",
        "attention.3",
        "attention.4",
    ]
    assert "embedding.0" not in masked.submodules
    for mask in masked.masks.values():
        torch.nn.init.constant_(mask.alpha, -1e4)
        with torch.no_grad():
            mask.alpha[-1, -1] = 0
    assert float(soft_cost(masked, "macs")) == pytest.approx(count_macs(masked.config), rel=1e-6)


@pytest.mark.parametrize("max_macs", [0.3, 0.5, 0.8])
def test_the_budget_is_kept(max_macs: float) -> None:
    masked = masked_swin()
    original, space = physical_shape(masked.model), SearchSpace()
    budget = make_budget(original, space, max_macs, None)
    options = {name: (list(mask.group_sizes), list(mask.unit_sizes)) for name, mask in masked.masks.items()}
    done = enforce(masked, options, budget)
    found = count_macs(physical_shape(masked.model))
    assert found <= budget.limit < count_macs(original)
    assert found + sum(step["saved"] for step in done) == count_macs(original)


def test_the_smallest_network() -> None:
    shape = physical_shape(tiny_swin())
    smallest = smallest_shape(shape, SearchSpace())
    assert smallest.hidden_sizes == (12, 24, 48)
    assert (smallest.num_heads, smallest.head_dims, smallest.mlp_dims) == (
        (1,) * 5,
        (3, 3, 3, 3, 4),
        (24, 24, 48, 48, 96),
    )
    with pytest.raises(ValueError, match="cannot be met: the smallest network"):
        make_budget(shape, SearchSpace(), count_macs(smallest) - 1, None)
    heads = [len({*range(1, n + 1, 2), n}) for n in (2, 2, 4, 4, 6)]
    channels, mlps, widths = [7, 7, 7, 7, 7], [7] * 5, [13, 17, 17]
    expected = 1
    for count in (*heads, *channels, *mlps, *widths):
        expected *= count
    assert number_of_networks(shape, SearchSpace()) == expected


def test_masked_patches_are_those_of_stock_simmim() -> None:
    """Whole squares of 8 px, one token of the last stage each, before positions are added."""
    torch.manual_seed(0)
    values = {**TINY, "encoder_stride": 8}
    stock = randomised(SwinForMaskedImageModeling(SwinConfig(**values))).eval()
    model = tiny_swin()
    masking, decoder = PatchMasking(model), PmimDecoder(96, 8)
    with torch.no_grad():
        masking.token.copy_(stock.swin.embeddings.mask_token)
        decoder.projection.weight.copy_(stock.decoder[0].weight[:, :, 0, 0])
        decoder.projection.bias.copy_(stock.decoder[0].bias)
        missing = model.swin.load_state_dict(stock.swin.state_dict(), strict=False)
        assert missing == ([], ["embeddings.mask_token"])
        assert (masking.squares, masking.across) == (16, 4)
        mask, pixels = sample_mask(2, 16, 0.25, torch.Generator().manual_seed(1)), images()
        # stock's mask is by patch: 4 x 4 of them a square
        squares = mask.view(2, 4, 4).repeat_interleave(4, 1).repeat_interleave(4, 2)
        expected = stock(pixels, bool_masked_pos=squares.flatten(1)).reconstruction
        masking.mask = mask
        found = decoder(model.swin(pixels).last_hidden_state[mask])
    wanted = torch.stack([expected[i, :, n // 4 * 8 :, n % 4 * 8 :][:, :8, :8] for i, n in mask.nonzero().tolist()])
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("position", ["before", "after"])
def test_the_token_is_masked_and_cut_with_the_first_stage(position: str) -> None:
    masked = masked_swin(pmim=position)
    decide(masked, ("embedding",), torch.Generator().manual_seed(6))
    mask = sample_mask(2, 16, 0.5, torch.Generator().manual_seed(1))
    with torch.no_grad():
        by_mask = masked(images(), mask)
        cut_to_live(masked)
        by_cut = masked(images(), mask)
    torch.testing.assert_close(by_cut.logits, by_mask.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(by_cut.reconstruction, by_mask.reconstruction, rtol=1e-4, atol=1e-5)
    assert masked.patch_masking.token.shape[-1] == physical_shape(masked.model).hidden_sizes[0]


def test_a_grid_of_no_whole_squares_is_refused() -> None:
    with pytest.raises(ValueError, match="a grid of 15 is no multiple.*`search.pmim false`"):
        PatchMasking(tiny_swin(**PADDED))


def test_other_models_are_named() -> None:
    with pytest.raises(ValueError, match="takes one of .*OfbSwinForImageClassification.*, got Linear"):
        family_of(torch.nn.Linear(1, 1))
