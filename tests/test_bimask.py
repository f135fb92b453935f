"""The bi-mask's tensors against the equations written out with numbers and lists (`bimask_reference.py`)."""

import itertools
import math
from collections.abc import Callable

import bimask_reference as reference
import pytest
import torch
from transformers import DeiTConfig

from supersam_hf.bimask.families.vit import soft_macs
from supersam_hf.bimask.losses import budget_penalty, entropy, l1, variance_penalty
from supersam_hf.bimask.schedules import linear
from supersam_hf.bimask.scores import BiMask
from supersam_hf.elastic.vit_cost import ViTShape


# groups, units, options for the groups, options for the units a group
SPACES = {
    "mlp, 7 cells": (1, 64, [1], list(range(16, 65, 8))),
    "embedding, 17 cells": (1, 96, [1], list(range(48, 97, 3))),
    "42 cells, uneven": (1, 100, [1], sorted({*range(7, 48), 100})),
    "3 x 7 heads and channels": (6, 16, [2, 4, 6], [4, 6, 8, 10, 12, 14, 16]),
    "heads alone": (5, 8, [1, 3, 5], [8]),
}
SPACE = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
SEED = pytest.mark.parametrize("seed", range(3))


def mask_of(space: tuple, seed: int = 0, dead: float = 0.3) -> BiMask:
    """A bi-mask with well separated scores, in float64, some of whose cells are dead."""
    generator = torch.Generator().manual_seed(seed)
    mask = BiMask(*space, generator=generator).double()
    number = mask.score.numel()
    with torch.no_grad():
        spread = torch.linspace(-3, 3, number, dtype=torch.float64)
        mask.score.copy_(spread[torch.randperm(number, generator=generator)].view_as(mask.score))
        mask.alpha.copy_(2 * torch.randn(mask.alpha.shape, generator=generator))
        mask.live.copy_(torch.rand(mask.live.shape, generator=generator) > dead)
        mask.live[-1, -1] = bool(seed)  # the largest size both alive and dead
        mask.live[0, 0] |= not mask.live.any()
    return mask


def written_out(mask: BiMask, lam: float) -> tuple[list, list, list]:
    """S, V and m of the reference."""
    p = reference.probabilities(mask.alpha.tolist(), mask.live.tolist())
    s = reference.importance(mask.score.tolist())
    v = reference.sparsity(mask.score.tolist(), p, mask.group_sizes, mask.unit_sizes)
    return s, v, reference.bimask(s, v, lam)


def double(values: list) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@SPACE
@SEED
def test_scores_are_equations_3_and_4(space: tuple, seed: int) -> None:
    mask = mask_of(space, seed)
    for lam in (1.0, 0.7, 0.0):
        s, v, m = (double(values) for values in written_out(mask, lam))
        assert torch.allclose(mask.importance(), s, atol=1e-12)
        assert torch.allclose(mask.sparsity(), v, atol=1e-12)
        held = v > 0
        assert torch.allclose(mask(lam)[held], m[held], atol=1e-12)


@SPACE
def test_units_that_no_live_cell_holds_are_masked_as_if_cut(space: tuple) -> None:
    mask = mask_of(space)
    with torch.no_grad():
        mask.live.fill_(False)
        mask.live[0, 0] = True
    _, v, _ = written_out(mask, 0.5)
    assert torch.equal(mask(0.5) == 0, double(v) == 0)
    assert int((mask(0.5) > 0).sum()) == mask.group_sizes[0] * mask.unit_sizes[0]


@SPACE
@SEED
def test_probabilities_are_a_softmax_over_live_cells(space: tuple, seed: int) -> None:
    mask = mask_of(space, seed)
    expected = reference.probabilities(mask.alpha.tolist(), mask.live.tolist())
    assert torch.allclose(mask.probabilities(), double(expected), atol=1e-14)
    assert not mask.probabilities()[~mask.live].any()


def test_options_that_begin_at_the_step_are_equation_4_to_the_letter() -> None:
    mask = mask_of((1, 24, [1], [4, 8, 12, 16, 20, 24]), dead=0)
    p = mask.probabilities()[0].tolist()
    in_order = mask.sparsity()[0].sort(descending=True).values
    assert torch.allclose(in_order, double([reference.eq_4(p, place, 4) for place in range(24)]), atol=1e-12)


@SPACE
def test_of_more_important_units_v_is_never_less(space: tuple) -> None:
    mask = mask_of(space)
    for scores, v in zip(mask.score.tolist(), mask.sparsity().tolist()):
        by_score = [value for _, value in sorted(zip(scores, v), reverse=True)]
        assert all(a >= b - 1e-15 for a, b in itertools.pairwise(by_score))


def test_ties_go_to_the_lower_index() -> None:
    mask = mask_of((4, 6, [2, 4], [2, 4, 6]), dead=0)
    with torch.no_grad():
        mask.score.zero_()
    _, v, _ = written_out(mask, 0.0)
    assert torch.allclose(mask.sparsity(), double(v), atol=1e-12)
    assert mask.sparsity()[0, 0] == mask.sparsity().max()
    assert mask.sparsity()[3, 5] == mask.sparsity().min()


def test_heads_are_ranked_by_the_sum_of_s_and_not_of_the_scores_before_the_sigmoid() -> None:
    mask = mask_of((2, 2, [1, 2], [2]), dead=0)
    with torch.no_grad():
        mask.score.copy_(torch.tensor([[9.0, -3.0], [1.0, 1.0]]))  # greater sum, less sum of sigmoids
    _, v, _ = written_out(mask, 0.0)
    assert v[1][0] > v[0][0]
    assert torch.allclose(mask.sparsity(), double(v), atol=1e-12)


@SPACE
@SEED
def test_gradients_of_scores_and_architecture_parameters(space: tuple, seed: int) -> None:
    mask = mask_of(space, seed)

    def bimask(score: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(mask, {"score": score, "alpha": alpha}, (0.3,))

    parameters = [p.detach().clone().requires_grad_() for p in (mask.score, mask.alpha)]
    assert torch.autograd.gradcheck(bimask, parameters)


@SPACE
def test_the_importance_score_gets_no_gradient_through_the_ranking(space: tuple) -> None:
    mask = mask_of(space)
    mask.sparsity().sum().backward()
    assert mask.score.grad is None or not mask.score.grad.any()
    assert not mask.alpha.grad[~mask.live].any()


@pytest.mark.parametrize("eta", [0.2, 0.9, 1.0])
@SPACE
@SEED
def test_cells_leave_by_algorithm_1(space: tuple, seed: int, eta: float) -> None:
    mask = mask_of(space, seed)
    live = mask.live.clone()
    dropped = torch.tensor(reference.dropped(mask.probabilities().tolist(), live.tolist(), eta))
    if int(live.sum()) == 1:
        dropped.fill_(False)  # a decided submodule keeps its cell
    assert mask.drop_cells(eta) == bool(dropped.any())
    assert torch.equal(mask.live, live & ~dropped)


def live_probabilities(n: int, seed: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """p of `n` live cells among twice as many, and which they are."""
    generator = torch.Generator().manual_seed(seed)
    live = torch.zeros(2 * n, dtype=torch.bool)
    live[torch.randperm(2 * n, generator=generator)[:n]] = True
    alpha = 2 * torch.randn(2 * n, generator=generator, dtype=torch.float64)
    return alpha.masked_fill(~live, -math.inf).softmax(0).to(dtype), live


@pytest.mark.parametrize("n", [2, 7, 17, 42])
@SEED
def test_the_one_hot_loss_is_equation_5(n: int, seed: int) -> None:
    p, live = live_probabilities(n, seed)
    assert entropy(p, live).item() == pytest.approx(reference.entropy(p[live].tolist()), rel=1e-12)
    assert variance_penalty(p, live).item() == pytest.approx(reference.psi(p[live].tolist()), rel=1e-9)
    p = p.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: entropy(p, live) + variance_penalty(p, live), (p,))


def between(n: int, share: float) -> torch.Tensor:
    """The mixture of uniform and one-hot p with this share of one-hot, in float64; omega is share²."""
    p = torch.full((n,), (1 - share) / n, dtype=torch.float64)
    p[n // 2] += share
    return p


@pytest.mark.parametrize("n", [2, 7, 17, 42])
def test_omega_goes_from_0_to_1_and_psi_through_0_at_one_half(n: int) -> None:
    assert reference.normalised_variance(between(n, 0.0).tolist()) == pytest.approx(0, abs=1e-14)
    assert reference.normalised_variance(between(n, 1.0).tolist()) == pytest.approx(1)
    live = torch.ones(n, dtype=torch.bool)
    assert variance_penalty(between(n, math.sqrt(0.5)), live).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("n", [7, 17, 42])
@pytest.mark.parametrize("omega", [0.0, 3e-5, 0.9e-4, 1.1e-4, 0.3, 1 - 1.1e-4, 1 - 0.9e-4, 1.0])
def test_psi_continues_in_a_straight_line(n: int, omega: float) -> None:
    p = between(n, math.sqrt(omega))
    live = torch.ones(n, dtype=torch.bool)
    assert variance_penalty(p, live).item() == pytest.approx(reference.psi_of_omega(omega), rel=1e-6)


@pytest.mark.parametrize("end", [1e-4, 1 - 1e-4])
def test_value_and_slope_of_psi_are_continuous(end: float) -> None:
    live = torch.ones(7, dtype=torch.bool)

    def value_and_slope(omega: float) -> tuple[float, float]:
        share = torch.tensor(math.sqrt(omega), dtype=torch.float64, requires_grad=True)
        hot = torch.eye(7, dtype=torch.float64)[3]
        psi = variance_penalty((1 - share) / 7 + share * hot, live)
        psi.backward()
        return psi.item(), share.grad.item()

    below, above = value_and_slope(end * (1 - 1e-9)), value_and_slope(min(1.0, end * (1 + 1e-9)))
    assert below == pytest.approx(above, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [7, 17, 42])
def test_psi_is_finite_and_never_without_gradient(n: int, dtype: torch.dtype) -> None:
    live = torch.ones(n, dtype=torch.bool)
    # from all but uniform to one-hot to the last bit
    for share in (1e-4, 1e-3, 0.01, 0.1, 0.5, 0.9, 0.99, 0.9999, 1.0):
        p = between(n, share).to(dtype).requires_grad_()
        psi = variance_penalty(p, live)
        psi.backward()
        assert torch.isfinite(psi)
        assert torch.isfinite(p.grad).all()
        assert p.grad.abs().max() > 1e-3
        assert p.grad[n // 2] < 0  # descending: more of the most probable cell


@pytest.mark.parametrize("n", [7, 17, 42])
def test_exactly_uniform_cells_have_a_finite_psi(n: int) -> None:
    alpha = torch.zeros(n, requires_grad=True)
    psi = variance_penalty(alpha.softmax(0), torch.ones(n, dtype=torch.bool))
    psi.backward()
    assert psi.item() == pytest.approx(reference.psi_of_omega(0.0), rel=1e-3)
    assert torch.isfinite(alpha.grad).all()


@pytest.mark.parametrize("n", [7, 17, 42])
def test_at_the_start_of_a_search_psi_pulls_towards_the_most_probable_cell(n: int) -> None:
    live = torch.ones(n, dtype=torch.bool)
    for seed in range(20):
        alpha = torch.rand(n, generator=torch.Generator().manual_seed(seed)).requires_grad_()
        variance_penalty(alpha.softmax(0), live).backward()
        assert torch.isfinite(alpha.grad).all()
        assert alpha.grad[alpha.argmax()] < 0


@pytest.mark.parametrize(
    "gap",
    [20.0, 60.0, 200.0],
)
def test_the_one_hot_loss_of_a_live_cell_whose_probability_underflows_has_finite_gradients(gap: float) -> None:
    alpha = torch.tensor([0.0, gap, 0.0], requires_grad=True)
    p = alpha.softmax(0)
    live = torch.ones(3, dtype=torch.bool)
    loss = entropy(p, live) + variance_penalty(p, live)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(alpha.grad).all()


def test_the_one_hot_loss_knows_neither_dead_cells_nor_their_order() -> None:
    p, live = live_probabilities(7, 0)
    for term in (entropy, variance_penalty):
        assert term(p, live).item() == pytest.approx(term(p[live].flip(0), torch.ones(7, dtype=torch.bool)).item())


@pytest.mark.parametrize("term", [entropy, variance_penalty])
def test_the_one_hot_loss_of_several_submodules_is_each_ones_own(term: Callable[..., torch.Tensor]) -> None:
    pairs = [live_probabilities(7, seed) for seed in range(3)]
    decided = torch.zeros(14, dtype=torch.float64).index_fill(0, torch.tensor([3]), 1.0)
    pairs.append((decided, decided > 0))
    p, live = (torch.stack(values) for values in zip(*pairs))
    p.requires_grad_()
    values = term(p, live)
    assert values[:3].tolist() == pytest.approx([term(*pair).item() for pair in pairs[:3]])
    assert values[3] == 0
    values.sum().backward()
    assert torch.isfinite(p.grad).all()
    assert not p.grad[~live].any()


@SPACE
def test_l1_is_the_sum_of_s(space: tuple) -> None:
    mask = mask_of(space)
    expected = reference.l1(reference.importance(mask.score.tolist()))
    assert l1(mask.importance()).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize(("g", "tau"), [(0.9, 0.3), (0.25, 0.3), (0.3, 0.3)])
def test_the_budget_term_is_two_sided(g: float, tau: float, squared: bool) -> None:
    cost = torch.tensor(g, dtype=torch.float64, requires_grad=True)
    loss = budget_penalty(cost, tau, squared=squared)
    loss.backward()
    assert loss.item() == pytest.approx(reference.budget(g, tau, squared), abs=1e-15)
    slope = 2 * (g - tau) if squared else (g > tau) - (g < tau)
    assert cost.grad.item() == pytest.approx(slope)


def deit(hidden_size: int, num_attention_heads: int) -> ViTShape:
    sizes = {"hidden_size": hidden_size, "num_attention_heads": num_attention_heads}
    return ViTShape.from_config(DeiTConfig(**sizes, intermediate_size=4 * hidden_size, num_labels=1000))


@pytest.mark.parametrize(("hidden_size", "heads", "billions"), [(384, 6, 4.60), (768, 12, 17.52), (192, 3, 1.26)])
def test_g_of_the_full_model_is_the_papers(hidden_size: int, heads: int, billions: float) -> None:
    g = float(soft_macs(deit(hidden_size, heads), float(hidden_size), 12.0 * hidden_size, 48.0 * hidden_size))
    assert g / 1e9 == pytest.approx(billions, abs=0.005)
    full = [hidden_size] * 12, [4 * hidden_size] * 12
    assert g == pytest.approx(
        reference.soft_macs(hidden_size, *full, hidden_size=hidden_size, heads=[heads] * 12), rel=1e-12
    )


@SEED
def test_g_of_expected_widths(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    widths = torch.rand(25, generator=generator, dtype=torch.float64)
    embedding, attention, mlp = 384 * widths[0], 384 * widths[1:13], 1536 * widths[13:]
    g = soft_macs(deit(384, 6), embedding, attention.sum(), mlp.sum())
    expected = reference.soft_macs(embedding.item(), attention.tolist(), mlp.tolist(), hidden_size=384, heads=[6] * 12)
    assert g.item() == pytest.approx(expected, rel=1e-12)


def test_gradient_of_g_in_every_width() -> None:
    shape = deit(384, 6)
    widths = torch.rand(25, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()

    def fraction(widths: torch.Tensor) -> torch.Tensor:
        return soft_macs(shape, 384 * widths[0], 384 * widths[1:13].sum(), 1536 * widths[13:].sum()) / 4.6e9

    assert torch.autograd.gradcheck(fraction, (widths,))
    fraction(widths).backward()
    assert (widths.grad > 0).all()


@pytest.mark.parametrize(("start", "end"), [(1.0, 0.0), (0.05, 0.25), (0.99, 0.1)])
def test_schedules_go_straight_from_the_first_to_the_last_step(start: float, end: float) -> None:
    values = [linear(step, 11, start, end) for step in range(15)]
    expected = [start + (end - start) * step / 10 for step in range(11)] + [end] * 4
    assert values == pytest.approx(expected)
    assert linear(0, 1, start, end) == end


@pytest.fixture
def fresh() -> Callable[..., BiMask]:
    def make(seed: int = 0, **kwargs: float) -> BiMask:
        return BiMask(1, 4096, [1], [1024, 4096], generator=torch.Generator().manual_seed(seed), **kwargs)

    return make


def test_a_fresh_mask_is_drawn_by_its_generator(fresh: Callable[..., BiMask]) -> None:
    mask = fresh()
    assert mask.score.mean().item() == pytest.approx(3.0, abs=0.02)
    assert mask.score.std().item() == pytest.approx(0.2, abs=0.01)
    assert fresh(score_mean=0.0).score.mean().item() == pytest.approx(0.0, abs=0.02)
    assert 0 <= mask.alpha.min() <= mask.alpha.max() < 1
    assert torch.equal(mask.score, fresh().score)
    assert not torch.equal(mask.score, fresh(1).score)
    assert mask.live.all()


@pytest.mark.parametrize(
    ("sizes", "name"), [(([1], [4, 8]), "unit_sizes"), (([1], [8, 4, 16]), "unit_sizes"), (([2], [16]), "group_sizes")]
)
def test_options_ascend_to_the_full_size(sizes: tuple, name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must ascend"):
        BiMask(1, 16, *sizes)
