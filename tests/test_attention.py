"""Attention with relative positions against the formula written out."""

import pytest
import torch
from conftest import tiny_config
from transformers import SamModel

from supersam_hf import SuperSamConfig, SuperSamModel
from supersam_hf.models.supersam import attention_supersam
from supersam_hf.models.supersam.attention_supersam import FUSED_BLOCK, relative_attention


def written_out(query, key, value, rel_h, rel_w, scale):  # noqa: ANN001, ANN201
    bias = rel_h.repeat_interleave(rel_w.shape[-1], -1) + rel_w.repeat(1, 1, 1, rel_h.shape[-1])
    return ((scale * query @ key.transpose(-2, -1) + bias).softmax(-1)) @ value


def tensors(heads: int, height: int, width: int, channels: int, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    widths = (channels, channels, channels, height, width)
    shapes = [(1, heads, height * width, w) for w in widths]
    return [torch.randn(s, generator=generator, dtype=dtype).requires_grad_() for s in shapes]


@pytest.mark.parametrize("size", [(50, 42), (30, 31)], ids=["blocks of queries", "blocks of heads"])
def test_blocks_give_the_formulas_outputs_and_gradients(size: tuple[int, int]) -> None:
    inputs = tensors(5, *size, 8, torch.float64)
    tokens = size[0] * size[1]
    assert 8 * 5 * tokens**2 > FUSED_BLOCK * torch.get_num_threads()
    assert len(list(attention_supersam._blocks(5, tokens, FUSED_BLOCK))) > 1
    outputs = [attend(*inputs, 0.3) for attend in (written_out, relative_attention)]
    torch.testing.assert_close(outputs[1], outputs[0])
    upstream = torch.randn(outputs[0].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected, got = (torch.autograd.grad(output, inputs, upstream) for output in outputs)
    for one, other in zip(got, expected):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("size", [(50, 42), (14, 14)], ids=["blocks", "one block"])
@pytest.mark.parametrize("in_hardware", [True, False])
def test_bfloat16_is_as_near_to_the_formula_as_it_can_be(
    size: tuple[int, int], in_hardware: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_supersam, "BFLOAT16_PRODUCTS", in_hardware)
    exact = tensors(5, *size, 8, torch.float64)
    inputs = [values.detach().bfloat16().requires_grad_() for values in exact]
    exact = [values.detach().double().requires_grad_() for values in inputs]
    outputs = [written_out(*exact, 0.3), relative_attention(*inputs, 0.3)]
    assert outputs[1].dtype == torch.bfloat16
    upstream = torch.randn(outputs[0].shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    expected = torch.autograd.grad(outputs[0], exact, upstream.double())
    got = torch.autograd.grad(outputs[1], inputs, upstream)
    for one, other in zip((outputs[1], *got), (outputs[0], *expected)):
        assert (one.double() - other).norm() <= 2**-7 * other.norm()  # bfloat16 has 8 bits


def test_under_autocast_gradients_are_as_near_to_those_of_fp32_as_stocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_supersam, "BFLOAT16_PRODUCTS", True)
    config = tiny_config(image_size=640)
    ours = SuperSamModel(SuperSamConfig(**config.to_dict())).vision_encoder.eval()
    stock = SamModel._from_config(config, attn_implementation="sdpa").vision_encoder.eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    stock.load_state_dict(ours.state_dict())
    images = torch.randn(1, 3, 640, 640, generator=generator)

    def results(encoder: torch.nn.Module, autocast: bool) -> list[torch.Tensor]:
        encoder.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = encoder(images).last_hidden_state
        output.square().mean().backward()
        return [output.detach().float(), *(parameter.grad.clone() for parameter in encoder.parameters())]

    for got, stocks, exact in zip(results(ours, True), results(stock, True), results(ours, False)):
        assert (got - exact).norm() <= 1.5 * (stocks - exact).norm() + 2**-5 * exact.norm()


@pytest.mark.parametrize("channels", [8, 7])
def test_a_bias_that_rides_inside_gives_the_formulas_outputs_and_gradients(channels: int) -> None:
    inputs = tensors(2, 5, 3, channels, torch.float64)
    outputs = [attend(*inputs, 0.3) for attend in (written_out, attention_supersam._extended)]
    torch.testing.assert_close(outputs[1], outputs[0])
    for one, other in zip(*(torch.autograd.grad(output.square().sum(), inputs) for output in outputs)):
        torch.testing.assert_close(one, other)


def test_backward_saves_no_attention_weights() -> None:
    inputs = tensors(4, 32, 33, 16, torch.float32)
    saved: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        relative_attention(*inputs, 0.25)
    assert max(saved) <= max(tensor.numel() for tensor in inputs)


def test_a_model_of_many_tokens_gives_what_eager_attention_gives() -> None:
    torch.manual_seed(0)
    model = SuperSamModel(SuperSamConfig(**tiny_config(image_size=640).to_dict())).vision_encoder.eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    images = torch.randn(1, 3, 640, 640)
    results = []
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        model.zero_grad()
        output = model(images).last_hidden_state
        output.square().mean().backward()
        results.append([output.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    for one, other in zip(*results):
        assert (one - other).abs().max() <= 1e-4 * other.abs().max()
