"""A search step is that of the equations written out, in few operations, at any precision, before and after cuts."""

import copy
import math
from pathlib import Path
from typing import Any

import bimask_reference as reference
import pytest
import torch
from bimask_script import search_arguments
from classify_script import stripes, tiny_vit
from test_pmim import in_patches, pooled
from torch.utils._python_dispatch import TorchDispatchMode

from supersam_hf.bimask.cost import physical_shape
from supersam_hf.bimask.masking import MaskedModel
from supersam_hf.bimask.pmim import sample_mask
from supersam_hf.bimask.prune import cut_to_live
from supersam_hf.bimask.scores import BiMask
from supersam_hf.bimask.search import BiMaskSearch
from supersam_hf.bimask.space import SearchSpace
from supersam_hf.bimask.stack import MaskStack
from supersam_hf.training.bimask import BiMaskTrainer, ClassifierTerms, new_search, parameter_groups
from supersam_hf.training.bimask_arguments import BiMaskArguments
from supersam_hf.training.classify import classification_loss, seed_step
from supersam_hf.training.engine import Engine


def random_masks(masks: list[BiMask], seed: int) -> None:
    """Scores and architecture parameters well apart, half of the cells dead."""
    generator = torch.Generator().manual_seed(seed)
    for mask in masks:
        with torch.no_grad():
            mask.score.copy_(torch.randn(mask.score.shape, generator=generator))
            mask.alpha.copy_(2 * torch.randn(mask.alpha.shape, generator=generator))
            mask.live.copy_(torch.rand(mask.live.shape, generator=generator) > 0.5)
            mask.live[0, 0] |= not mask.live.any()


# groups, units, options for the groups, options for the units a group
STACKS = {
    "alike": [(2, 8, [1, 2], [2, 4, 8])] * 3,
    "each of another size": [(1, 5, [1], [5]), (3, 4, [1, 2, 3], [1, 4]), (2, 8, [2], [2, 4, 6, 8])],
    "one": [(1, 64, [1], [16, 32, 64])],
}


@pytest.mark.parametrize("ordinal", [False, True])
@pytest.mark.parametrize("sizes", STACKS.values(), ids=STACKS)
def test_stacked_masks_are_each_ones_own(sizes: list[tuple], ordinal: bool) -> None:
    masks = [BiMask(*size, ordinal=ordinal).double() for size in sizes]
    random_masks(masks, seed=0)
    stack = MaskStack(masks)
    values = stack.evaluate(0.3)
    weights = [torch.randn(mask.score.numel(), dtype=torch.float64) for mask in masks]
    parameters = [p for mask in masks for p in mask.parameters()]
    alone = [mask(0.3).flatten() for mask in masks]
    for i, (mask, one) in enumerate(zip(masks, alone)):
        torch.testing.assert_close(values.masks[i], one, rtol=0, atol=1e-14)
        assert values.importance[i].sum().item() == pytest.approx(mask.importance().sum().item())
        assert values.sparsity[i].sum().item() == pytest.approx(mask.sparsity().sum().item())
        p, live = values.probabilities[i], stack.live[i]
        torch.testing.assert_close(p[live], mask.probabilities()[mask.live], rtol=0, atol=1e-14)
        assert not p[~live].any()
    assert stack.cells.tolist() == [int(mask.live.sum()) for mask in masks]
    together = torch.autograd.grad(sum(w @ m for w, m in zip(weights, values.masks)), parameters)
    expected = torch.autograd.grad(sum(w @ m for w, m in zip(weights, alone)), parameters)
    for found, one in zip(together, expected):
        torch.testing.assert_close(found, one, rtol=0, atol=1e-14)


def test_a_stack_knows_when_a_mask_was_changed() -> None:
    masks = [BiMask(1, 8, [1], [2, 4, 8]) for _ in range(2)]
    stack = MaskStack(masks)
    with torch.no_grad():
        masks[0].score.add_(1)
        masks[0].alpha.add_(1)
    assert stack.is_current()
    masks[1].live[0, 0] = False
    assert not stack.is_current()
    stack = MaskStack(masks)
    masks[0].live = masks[0].live[:, 1:]
    assert not stack.is_current()


class Searching:
    """A search with its trainer and engine, before its first step."""

    def __init__(self, folder: Path, args: BiMaskArguments, *, cut: bool = False, double: bool = False) -> None:
        self.args = args
        self.search = new_search(tiny_vit(), SearchSpace(), args, folder)
        if cut:
            random_masks(list(self.search.masked.masks.values()), seed=1)
            cut_to_live(self.search.masked)
        masked = self.search.masked.double() if double else self.search.masked
        self.untouched = copy.deepcopy(masked)
        self.trainer = BiMaskTrainer(self.search, args, ClassifierTerms(self.search, args, None))
        self.loader, groups = stripes(), parameter_groups(masked, args)
        self.engine = Engine(masked, self.loader, args, folder, {}, parameters=groups, shape=self.trainer)

    def batch(self) -> dict[str, torch.Tensor]:
        return next(iter(self.engine.batches()))[0]

    def gradients(self, batches: int = 1) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
        """What a step logs, and the gradients with which it would go on."""
        self.engine.optimizer_step = lambda: None  # type: ignore[method-assign]
        logs = self.trainer.step(self.engine, [self.batch()] * batches)
        named = self.search.masked.named_parameters()
        return logs, {name: p.grad for name, p in named if p.grad is not None}


def bimask_written_out(mask: BiMask, lam: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """S, p of the live cells, V and m, entry by entry."""
    s = mask.score.sigmoid()
    p = mask.alpha.exp() * mask.live / (mask.alpha.exp() * mask.live).sum()
    group_places = reference.places(s.sum(1).tolist())
    unit_places = [reference.places(row) for row in s.tolist()]
    v = torch.stack(
        [
            sum(
                (
                    p[i, j]
                    for i, groups in enumerate(mask.group_sizes)
                    for j, units in enumerate(mask.unit_sizes)
                    if group_places[g] < groups and unit_places[g][u] < units
                ),
                start=0 * p.sum(),
            )
            for g in range(mask.groups)
            for u in range(mask.units)
        ]
    )
    return s, p[mask.live], v, (lam * s.flatten() + (1 - lam) * v) * (v > 0)


def losses_written_out(found: Searching) -> tuple[dict[str, torch.Tensor], MaskedModel]:
    """Eq. 7 and 8 with masks on the outputs of modules, one submodule after the other; all patches are decoded."""
    masked, args, search = found.untouched, found.args, found.search
    model: Any = masked.remove()
    batch, patch, token = found.batch(), model.config.patch_size, masked.patch_masking.token
    generator = seed_step(args.seed, 0)
    torch.randint(2**63 - 1, (), generator=generator)  # for mixing, which is off
    images = batch["pixel_values"]
    mask = sample_mask(len(images), (images.shape[-1] // patch) ** 2, args.mask_ratio_start, generator)
    scores = {name: bimask_written_out(mask, args.lambda_start) for name, mask in masked.masks.items()}

    embeddings = model.vit.embeddings
    embeddings.patch_embeddings.register_forward_hook(lambda m, a, out: torch.where(mask[..., None], token, out))
    for name, submodule in masked.submodules.items():
        for module in submodule.masked:
            module.register_forward_hook(lambda m, a, out, name=name: out * scores[name][3])
    hidden = model.vit(images).last_hidden_state
    targets = torch.nn.functional.one_hot(batch["labels"], 3).float()
    terms = {"loss_class": classification_loss(model.classifier(hidden[:, 0]), targets, args.loss)}

    pixels = masked.decoder(hidden[:, 1:].flatten(0, 1)).unflatten(0, mask.shape)[mask]
    target = in_patches(pooled(images.double(), 47), mask, patch).float()
    rec = (pixels.float() - target).abs().mean()
    if args.balance_reconstruction:
        rec = rec * (terms["loss_class"] / rec).item()
    terms["loss_reconstruction"] = rec

    terms |= dict.fromkeys(("loss_entropy", "loss_variance", "loss_l1"), 0)
    for name, (s, p, _, _) in scores.items():
        if len(p) > 1:
            omega = (p - 1 / len(p)).square().mean() / ((len(p) - 1) / len(p) ** 2)
            psi = torch.tan(math.pi / 2 - math.pi * omega) / (len(p) if args.variance_per_cell else 1)
            terms["loss_entropy"] = terms["loss_entropy"] - args.entropy_weight * (p * p.log()).sum()
            terms["loss_variance"] = terms["loss_variance"] + args.variance_weight * psi
            mu_3 = args.l1_attention if "attention" in name else args.l1_other
            terms["loss_l1"] = terms["loss_l1"] + mu_3 * s.sum()

    def g(v: dict[str, Any], shape: Any) -> Any:
        attention, mlp = ([v[f"{kind}.{i}"] for i in range(3)] for kind in ("attention", "mlp"))
        sizes = {"num_patches": mask.shape[1], "patch_pixels": 3 * patch**2, "num_labels": 3}
        sizes |= {"hidden_size": shape.hidden_size, "heads": list(shape.num_heads)}
        return reference.soft_macs(v["embedding"], attention, mlp, **sizes)

    original = search.original
    whole = {"embedding": original.hidden_size}
    whole |= {f"attention.{i}": h * d for i, (h, d) in enumerate(zip(original.num_heads, original.head_dims))}
    whole |= {f"mlp.{i}": width for i, width in enumerate(original.mlp_dims)}
    share = g({name: v.sum() for name, (_, _, v, _) in scores.items()}, physical_shape(model)) / g(whole, original)
    distance = abs(share - search.budget.limit / search.budget.original)
    terms["loss_budget"] = args.budget_weight * (distance**2 if args.squared_budget else distance)
    return terms, masked


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("preset", ["paper", "official"])
def test_losses_and_gradients_are_those_of_the_equations_written_out(preset: str, cut: bool, tmp_path: Path) -> None:
    values = {"mask_ratio_start": 0.25, "lambda_start": 0.4, "lambda_end": 0.4, "drop_path_rate": 0.0}
    args = search_arguments(preset=preset, mask_position="before", **values)
    searching = Searching(tmp_path, args, cut=cut, double=True)
    logs, gradients = searching.gradients()
    terms, written_out = losses_written_out(searching)
    for name, term in terms.items():
        # the classifier's loss and the pixels are float32
        assert logs[name] == pytest.approx(term.item(), rel=2e-6), name
    sum(terms.values()).backward()
    expected = {name: p.grad for name, p in written_out.named_parameters() if p.grad is not None}
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        # below that it is rounding error: the biases of keys, which softmax cancels
        tolerance = 1e-12 + 1e-5 * float(expected[name].abs().max())
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=tolerance)


def test_micro_batches_have_the_gradients_of_one_batch(tmp_path: Path) -> None:
    args = search_arguments(pmim=False, drop_path_rate=0.0)
    one, two = (Searching(tmp_path / str(n), args, double=True).gradients(n) for n in (1, 2))
    assert one[0] | {"step_seconds": 0} == pytest.approx(two[0] | {"step_seconds": 0})
    for name, gradient in one[1].items():
        torch.testing.assert_close(gradient, two[1][name], rtol=0, atol=1e-7 * float(gradient.abs().max() + 1))


class Kernels(TorchDispatchMode):
    """Counts operations that are more than a view."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view and func is not torch.ops.aten.detach.default
        return func(*args, **(kwargs or {}))


def test_masks_and_their_losses_are_as_many_operations_for_any_number_of_layers(tmp_path: Path) -> None:
    counts = []
    for layers in (2, 5):
        model = tiny_vit()
        model.vit.layers = torch.nn.ModuleList(copy.deepcopy(model.vit.layers[0]) for _ in range(layers))
        args = search_arguments(pmim=False)
        search = BiMaskSearch(model, SearchSpace(), tmp_path, max_macs=0.5, pmim=None)
        search.masked.stacks  # noqa: B018 (built once, not at every step)
        with Kernels() as kernels:
            search.masked.values = search.masked.evaluate()
            sum(BiMaskTrainer(search, args, ClassifierTerms(search, args, None))._mask_terms().values()).backward()
        counts.append(kernels.count)
    assert counts[0] == counts[1]
    assert counts[0] < 600


def test_after_a_cut_the_optimiser_holds_what_the_model_holds(tmp_path: Path) -> None:
    """At every step of a search: no parameter, gradient or moment of another shape, and none of a former tensor."""
    searching = Searching(tmp_path, search_arguments(save_steps=0))
    engine, masked, cuts = searching.engine, searching.search.masked, 0

    def step(engine: Engine, batches: list[dict[str, torch.Tensor]]) -> dict[str, float]:
        nonlocal cuts
        before = {name: (p.shape, p.detach().clone()) for name, p in masked.named_parameters()}
        logs = searching.trainer.step(engine, batches)
        optimizer = engine.optimizer.optimizer
        parameters = dict(masked.named_parameters())
        assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {
            id(p) for p in parameters.values()
        }
        assert set(optimizer.state) <= set(parameters.values())
        for name, parameter in parameters.items():
            assert parameter.is_contiguous()
            assert parameter.grad is None
            state = optimizer.state[parameter]
            assert all(state[key].shape == parameter.shape for key in ("exp_avg", "exp_avg_sq") if key in state)
            assert all(value.is_contiguous() for value in state.values())
            was_cut = before[name][0] != parameter.shape
            cuts += was_cut
            # and every step moves what was cut before: the rate is never 0
            if name.endswith("fc2.weight") and not was_cut:
                assert not torch.equal(parameter, before[name][1])
        return logs

    engine.fit(step)
    assert cuts > 20


@pytest.mark.parametrize("cut", [False, True])
def test_two_losses_in_bf16_are_near_those_of_float32(cut: bool, tmp_path: Path) -> None:
    """Under autocast, as Accelerate puts it on the forward: what the masks' scores alone decide stays float32."""
    args = search_arguments(drop_path_rate=0.0, mask_ratio_start=0.25)
    full, full_gradients = Searching(tmp_path / "full", args, cut=cut).gradients()
    half_searching = Searching(tmp_path / "half", args, cut=cut)
    forward = half_searching.engine.model.forward

    def autocast(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return forward(*args, **kwargs)

    half_searching.engine.model.forward = autocast
    half, half_gradients = half_searching.gradients()
    for name in ("loss_entropy", "loss_variance", "loss_l1", "loss_budget", "macs"):
        assert half[name] == full[name], name
    for name in ("loss_class", "loss_reconstruction"):
        assert half[name] == pytest.approx(full[name], rel=0.02)
        assert half[name] != full[name]  # it was bf16
    assert half_gradients.keys() == full_gradients.keys()
    for name, gradient in half_gradients.items():
        assert gradient.dtype == torch.float32, name
        error = (gradient - full_gradients[name]).norm()
        assert error <= 0.1 * full_gradients[name].norm() + 1e-5, name
