"""A ViT's attention by plain products against stock's and the formula."""

import pytest
import torch
from conftest import randomised
from transformers import ViTConfig, ViTModel

from supersam_hf import OfbViTConfig, OfbViTModel
from supersam_hf.models.ofb_vit import attention_ofb_vit


SHAPE = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96}


def models(image_size: int, **options: float) -> tuple[ViTModel, OfbViTModel]:
    config = ViTConfig(image_size=image_size, patch_size=8, **SHAPE, **options)
    stock = randomised(ViTModel(config, add_pooling_layer=False))
    ours = OfbViTModel(OfbViTConfig(**config.to_dict()), add_pooling_layer=False).eval()
    ours.load_state_dict(stock.state_dict())
    return stock.eval(), ours


def results(model: torch.nn.Module, images: torch.Tensor, autocast: bool) -> list[torch.Tensor]:
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = model(images).last_hidden_state
    output.float().square().mean().backward()
    return [output.detach().float(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("block", [1 << 10, 2 << 20], ids=["a head at a time", "all heads at once"])
def test_products_give_the_formulas_outputs_and_gradients(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_ofb_vit, "BLOCK", block)
    generator = torch.Generator().manual_seed(0)
    shape, double = (5, 17, 8), {"generator": generator, "dtype": torch.float64}
    query, key, value = inputs = [torch.randn(shape, **double).requires_grad_() for _ in range(3)]
    outputs = [
        (0.3 * query @ key.mT).softmax(-1) @ value,
        attention_ofb_vit._ProductAttention.apply(*inputs, 0.3),
    ]
    torch.testing.assert_close(outputs[1], outputs[0])
    upstream = torch.randn(shape, **double)
    for one, other in zip(*(torch.autograd.grad(output, inputs, upstream) for output in outputs)):
        torch.testing.assert_close(one, other)


def test_under_autocast_results_are_as_near_to_those_of_fp32_as_stocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_ofb_vit, "BFLOAT16_PRODUCTS", True)
    stock, ours = models(64)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", None)  # it is not called
        got = results(ours, images, True)
    for one, other, exact in zip(got, results(stock, images, True), results(ours, images, False)):
        assert (one - exact).norm() <= 1.5 * (other - exact).norm() + 2**-5 * exact.norm()


def test_weights_of_a_size_that_no_cache_holds_are_left_to_sdpa(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_ofb_vit, "BFLOAT16_PRODUCTS", True)
    monkeypatch.setattr(attention_ofb_vit, "LARGEST", 4 * 64**2)
    stock, ours = (model.bfloat16() for model in models(64))  # 65 tokens
    images = torch.randn(1, 3, 64, 64, dtype=torch.bfloat16)
    assert torch.equal(ours(images).last_hidden_state, stock(images).last_hidden_state)


def test_dropout_and_eager_are_stocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_ofb_vit, "BFLOAT16_PRODUCTS", True)
    stock, ours = (model.bfloat16().train() for model in models(32, attention_probs_dropout_prob=0.5))
    images = torch.randn(1, 3, 32, 32, dtype=torch.bfloat16)
    outputs = []
    for model in (stock, ours):
        torch.manual_seed(1)
        outputs.append(model(images).last_hidden_state)
    assert torch.equal(*outputs)
    for model in (stock.eval(), ours.eval()):
        model.set_attn_implementation("eager")
    found = [model(images, output_attentions=True) for model in (stock, ours)]
    for one, other in zip(found[0].attentions, found[1].attentions):
        assert torch.equal(one, other)
