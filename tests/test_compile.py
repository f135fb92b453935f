"""`torch.compile` over elastic widths: few graphs, and the outputs and gradients of the uncompiled model."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from supersam_hf import ElasticSpace, Subnet, SuperSamModel, compile_layers
from supersam_hf.data import DataArguments, PromptDataset, build_loader, shapes
from supersam_hf.models.supersam import SuperSamProcessor
from supersam_hf.training.sandwich import SandwichArguments, train_sandwich


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = limit


@pytest.fixture
def subnets(supernet: SuperSamModel) -> list[Subnet]:
    """Fifty, with layers removed, three MLP widths and two widths of heads."""
    space = ElasticSpace.for_config(
        supernet.config, prunable_layers=(1, 2, 3), mlp_windows=(48, 96, 192), attention_windows=(24, 48)
    )
    generator = torch.Generator().manual_seed(0)
    return [space.sample(generator) for _ in range(50)]


def gradients(model: Any, images: torch.Tensor, subnet: Subnet) -> list[torch.Tensor]:
    model.zero_grad()
    embedding = model.vision_encoder(images, subnet=subnet).last_hidden_state
    embedding.square().mean().backward()
    return [embedding.detach(), *(p.grad for p in model.vision_encoder.parameters() if p.grad is not None)]


def test_ten_graphs_serve_fifty_subnets_in_training_and_ten_in_evaluation(
    supernet: SuperSamModel, subnets: list[Subnet], inputs: dict
) -> None:
    compiled, counter = copy.deepcopy(supernet).train(), CompileCounterWithBackend("eager")
    compile_layers(compiled.vision_encoder, backend=counter)
    images = inputs["pixel_values"]
    for subnet in subnets:
        for actual, expected in zip(gradients(compiled, images, subnet), gradients(supernet.train(), images, subnet)):
            assert torch.allclose(actual, expected, atol=1e-6 * expected.abs().max().item())
    assert 4 <= counter.frame_count <= 10
    in_training = counter.frame_count
    with torch.no_grad():
        for subnet in subnets:
            expected = supernet.eval().get_image_embeddings(images, subnet=subnet)
            assert torch.allclose(compiled.eval().get_image_embeddings(images, subnet=subnet), expected, atol=1e-5)
    assert counter.frame_count - in_training <= 10


def test_the_whole_encoder_turns_eager_in_silence(
    supernet: SuperSamModel, subnets: list[Subnet], inputs: dict
) -> None:
    """Why layers are compiled: PyTorch gives the whole up after as many graphs as it allows (here fewer: quicker)."""
    assert torch._dynamo.config.recompile_limit == 8
    torch._dynamo.config.recompile_limit = 3
    counter = CompileCounterWithBackend("eager")
    encoder = torch.compile(supernet.vision_encoder, backend=counter)
    with torch.no_grad():
        for subnet in subnets[:6]:
            encoder(inputs["pixel_values"], subnet=subnet)
    assert counter.frame_count == 3


@pytest.mark.slow
def test_compiling_each_layer_serves_all_subnets_with_few_graphs(supernet: SuperSamModel, inputs: dict) -> None:
    """With PyTorch's own compiler, which needs a C++ compiler, as the next test."""
    space = ElasticSpace.for_config(supernet.config, prunable_layers=(1, 2, 3))
    generator = torch.Generator().manual_seed(0)
    subnets = [space.sample(generator) for _ in range(30)]
    with torch.no_grad():
        expected = [supernet.get_image_embeddings(inputs["pixel_values"], subnet=s) for s in subnets]
        compile_layers(supernet.vision_encoder)
        before = counters["stats"]["unique_graphs"]
        for subnet, embedding in zip(subnets, expected):
            actual = supernet.get_image_embeddings(inputs["pixel_values"], subnet=subnet)
            assert torch.allclose(actual, embedding, atol=1e-4)
    assert counters["stats"]["unique_graphs"] - before <= 8


@pytest.mark.slow
def test_training_with_compiled_layers_learns_the_same(stock_folder: Path, tmp_path: Path) -> None:
    trained = []
    for torch_compile in (False, True):
        model = SuperSamModel.from_pretrained(stock_folder)
        processor = SuperSamProcessor.for_config(model.config)
        dataset = PromptDataset(shapes(8, image_size=64), processor.image_processor, DataArguments(), training=True)
        args = SandwichArguments(max_steps=3, learning_rate=1e-3, save_steps=0, torch_compile=torch_compile)
        space = ElasticSpace.for_config(model.config, prunable_layers=(1, 2))
        loader = build_loader(dataset, 2, seed=0)
        trained.append(train_sandwich(model, space, loader, args, tmp_path / str(torch_compile)).state_dict())
    plain, compiled = trained
    assert plain.keys() == compiled.keys()
    for name in plain:
        assert torch.allclose(compiled[name], plain[name], atol=2e-4), name
