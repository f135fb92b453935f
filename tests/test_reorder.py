"""Reordering against Wanda written out by hand, and the invariance of the model's function."""

import pytest
import scipy.stats
import torch

from supersam_hf import ElasticSpace, SuperSamModel
from supersam_hf.elastic.reorder import average_ranks, descending, measure_input_norms, permute, reorder


def space_of(model: SuperSamModel, **kwargs: object) -> ElasticSpace:
    return ElasticSpace.for_config(model.config, prunable_layers=(1,), **kwargs)


def images(count: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 3, 64, 64, generator=generator) for _ in range(count)]


def squares(model: SuperSamModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return model(**batch, multimask_output=False).pred_masks.square().mean()


def recorded_inputs(model: SuperSamModel, linear: torch.nn.Module, batches: list[torch.Tensor]) -> torch.Tensor:
    """Every token that enters a linear, as rows."""
    tokens = []
    handle = linear.register_forward_hook(lambda module, args, output: tokens.append(args[0].flatten(0, -2)))
    with torch.no_grad():
        for batch in batches:
            model.get_image_embeddings(batch)
    handle.remove()
    return torch.cat(tokens)


@pytest.mark.parametrize("method", ["wanda", "magnitude", "taylor"])
@pytest.mark.parametrize("combine", ["rank", "score"])
@pytest.mark.parametrize("attention", [(), (24, 48)])
def test_the_function_is_preserved(
    supernet: SuperSamModel, inputs: dict, method: str, combine: str, attention: tuple
) -> None:
    space = space_of(supernet, attention_windows=attention)
    before = {name: p.clone() for name, p in supernet.named_parameters()}
    batches = [inputs] if method == "taylor" else images(2)
    with torch.no_grad():
        expected = supernet(**inputs).pred_masks
        smallest = supernet(**inputs, subnet=space.smallest()).pred_masks
    reorder(supernet, space, method, batches, combine=combine, loss=squares)
    with torch.no_grad():
        assert torch.allclose(supernet(**inputs).pred_masks, expected, atol=1e-5 * expected.abs().max())
        assert not torch.allclose(supernet(**inputs, subnet=space.smallest()).pred_masks, smallest, atol=1e-3)
    changed = {name.split(".")[2] for name, p in supernet.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"1", "2", "3", "4", "5"}
    moved = any("attn" in name for name, p in supernet.named_parameters() if not torch.equal(p, before[name]))
    assert moved == bool(attention)


def test_wanda_is_eq_1_over_all_tokens_with_averaged_ranks(supernet: SuperSamModel) -> None:
    batches = images(3)
    mlp = supernet.vision_encoder.layers[2].mlp
    x1, x2 = recorded_inputs(supernet, mlp.lin1, batches), recorded_inputs(supernet, mlp.lin2, batches)
    w1, w2 = mlp.lin1.weight.detach().clone(), mlp.lin2.weight.detach().clone()
    rows = (w1.abs() * x1.norm(dim=0)).sum(1)
    columns = (w2.abs() * x2.norm(dim=0)).sum(0)
    mean_rank = (scipy.stats.rankdata(rows.numpy()) + scipy.stats.rankdata(columns.numpy())) / 2
    order = sorted(range(192), key=lambda i: (-mean_rank[i], i))
    reorder(supernet, space_of(supernet), "wanda", batches)
    assert torch.equal(mlp.lin1.weight, w1[order])
    assert torch.equal(mlp.lin2.weight, w2[:, order])


def test_taylor_puts_first_what_the_loss_would_miss_most(supernet: SuperSamModel, inputs: dict) -> None:
    """The slope of the loss where the columns of one unit fade, unit by unit."""
    supernet.double()
    inputs = {name: value.double() for name, value in inputs.items()}
    weight = supernet.vision_encoder.layers[2].mlp.lin2.weight.data
    slopes, step = [], 1e-5
    for unit in range(0, 192, 16):
        losses = []
        for factor in (1 + step, 1 - step):
            weight[:, unit] *= factor
            with torch.no_grad():
                losses.append(squares(supernet, inputs).item())
            weight[:, unit] /= factor
        slopes.append((abs(losses[0] - losses[1]), unit))
    columns = {unit: weight[:, unit].clone() for _, unit in slopes}
    reorder(supernet, space_of(supernet), "taylor", [inputs], loss=squares)
    after = supernet.vision_encoder.layers[2].mlp.lin2.weight.data.T
    places = {unit: int((after == columns[unit]).all(1).nonzero()) for unit in columns}
    assert sorted(places, key=places.__getitem__) == [unit for _, unit in sorted(slopes, reverse=True)]


def test_magnitude_takes_absolute_values(supernet: SuperSamModel) -> None:
    mlp = supernet.vision_encoder.layers[3].mlp
    score = mlp.lin1.weight.detach().abs().sum(1) + mlp.lin2.weight.detach().abs().sum(0)
    expected = mlp.lin1.weight.detach()[score.argsort(descending=True)]
    reorder(supernet, space_of(supernet), "magnitude", combine="score")
    assert torch.equal(mlp.lin1.weight, expected)


def test_ties_go_to_the_lower_index() -> None:
    score = torch.tensor([2.0, 1.0, 2.0, 1.0])
    assert descending(average_ranks([score, score])).tolist() == [0, 2, 1, 3]
    assert average_ranks([torch.tensor([1.0, 2.0]), torch.tensor([2.0, 1.0])]).tolist() == [0.5, 0.5]


def test_norms_do_not_depend_on_the_batching_and_sum_over_processes(supernet: SuperSamModel) -> None:
    batch = images(1)[0]
    whole = measure_input_norms(supernet, [batch])
    parts = [measure_input_norms(supernet, [half]) for half in batch.split(1)]
    for layer, norms in enumerate(whole):
        for name, value in norms.items():
            assert torch.allclose(value, parts[0][layer][name] + parts[1][layer][name], rtol=1e-4)
    doubled = measure_input_norms(supernet, [batch], reduce=lambda value: 2 * value)
    assert torch.allclose(doubled[1]["mlp.lin2"], 2 * whole[1]["mlp.lin2"])


def test_moments_move_with_their_parameters(supernet: SuperSamModel, inputs: dict) -> None:
    """Training on after a reorder gives the model that training without it gives."""
    twin = SuperSamModel(supernet.config)
    twin.load_state_dict(supernet.state_dict())
    space = space_of(supernet, attention_windows=(24, 48))
    for model in (supernet, twin):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for step in range(3):
            if step == 2 and model is supernet:
                reorder(model, space, "magnitude", optimizer=optimizer)
            model.train()(**inputs).pred_masks.square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    with torch.no_grad():
        expected = twin.eval()(**inputs).pred_masks
        assert torch.allclose(supernet.eval()(**inputs).pred_masks, expected, atol=1e-4 * expected.abs().max())


def test_permute_leaves_scalars_of_the_state_alone() -> None:
    parameter = torch.nn.Parameter(torch.arange(3.0))
    optimizer = torch.optim.AdamW([parameter])
    parameter.grad = torch.tensor([1.0, 2.0, 3.0])
    optimizer.step()
    moments = optimizer.state[parameter]["exp_avg"].clone()
    with torch.no_grad():
        permute(parameter, torch.tensor([2, 0, 1]), 0, optimizer)
    assert torch.equal(optimizer.state[parameter]["exp_avg"], moments[[2, 0, 1]])
    assert optimizer.state[parameter]["step"] == 1


def test_bad_requests_are_refused(supernet: SuperSamModel) -> None:
    space = space_of(supernet)
    with pytest.raises(ValueError, match="calibration images"):
        reorder(supernet, space, "wanda")
    with pytest.raises(ValueError, match="calibration batches"):
        reorder(supernet, space, "taylor", loss=squares)
    with pytest.raises(ValueError, match="needs `loss`"):
        reorder(supernet, space, "taylor")
    with pytest.raises(ValueError, match="`method`"):
        reorder(supernet, space, "movement")
    with pytest.raises(ValueError, match="`combine`"):
        reorder(supernet, space, "magnitude", combine="mean")


@pytest.mark.parametrize("targets", [["lin1", "lin2"], ["qkv", "proj"]])
def test_stock_lora_works_on_every_subnet(supernet: SuperSamModel, inputs: dict, targets: list[str]) -> None:
    """The adapter changes subnets, and its slice is that of the merged weight."""
    peft = pytest.importorskip("peft")
    space = space_of(supernet, attention_windows=(24, 36, 48))
    subnets = [space.smallest(), space.sample(torch.Generator().manual_seed(0)), space.largest()]
    with torch.no_grad():
        before = [supernet(**inputs, subnet=s).pred_masks for s in subnets]
    config = peft.LoraConfig(target_modules=targets, r=4, init_lora_weights=False)
    adapted = peft.get_peft_model(supernet, config).eval()
    with torch.no_grad():
        after = [adapted(**inputs, subnet=s).pred_masks for s in subnets]
        merged = adapted.merge_and_unload().eval()
        for subnet, old, new in zip(subnets, before, after):
            assert (new - old).abs().max() > 1e-2
            expected = merged(**inputs, subnet=subnet).pred_masks
            assert torch.allclose(new, expected, atol=1e-4 * expected.abs().max())
