"""Closed-form costs of ViTs against built models: counted tensors and counted matrix products."""

import random
import time
from dataclasses import replace

import pytest
import torch
from conftest import TINY_VIT, tiny_classifier
from torch.utils.flop_counter import FlopCounterMode
from transformers import DeiTConfig, PreTrainedModel, SwinConfig, ViTConfig

from supersam_hf import OfbViTConfig, OfbViTForImageClassification, OfbViTModel
from supersam_hf.elastic import cost, vit_cost
from supersam_hf.elastic.vit_cost import ViTShape
from supersam_hf.models.supersam import Subnet


def counted_macs(model: PreTrainedModel) -> int:
    """By torch's own counter, on eager attention: that of sdpa is not counted on a CPU."""
    model.set_attn_implementation("eager")
    config = model.config
    pixel_values = torch.zeros(1, config.num_channels, config.image_size, config.image_size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(pixel_values)
    return counter.get_total_flops() // 2


def counted_parameters(model: PreTrainedModel, weights_only: bool = False) -> int:
    return sum(p.numel() for name, p in model.named_parameters() if name.endswith(".weight") or not weights_only)


def random_config(rng: random.Random) -> OfbViTConfig:
    """Any architecture a search could leave, with and without distillation token and head."""
    depth, token = rng.randint(1, 3), rng.random() < 0.5
    widths = {
        layer: {
            "num_attention_heads": rng.randint(1, 5),
            "head_dim": rng.randint(1, 12),
            "intermediate_size": rng.randint(1, 70),
        }
        for layer in range(depth)
        if rng.random() < 0.8
    }
    return OfbViTConfig(
        hidden_size=rng.randint(5, 40),
        num_hidden_layers=depth,
        num_attention_heads=4,
        head_dim=8,
        intermediate_size=64,
        image_size=rng.choice([16, 24, 30]),
        patch_size=8,
        num_channels=rng.choice([1, 3]),
        num_labels=rng.randint(1, 7),
        qkv_bias=rng.random() < 0.7,
        distillation_token=token,
        distillation_head=token and rng.random() < 0.5,
        per_layer_config=widths,
    )


def test_any_architecture_costs_what_the_built_model_does() -> None:
    rng = random.Random(0)
    for _ in range(100):
        config = random_config(rng)
        model = OfbViTForImageClassification(config)
        shape = ViTShape.from_config(config)
        assert vit_cost.count_parameters(shape) == counted_parameters(model)
        assert vit_cost.count_parameters(shape, weights_only=True) == counted_parameters(model, weights_only=True)
        assert vit_cost.count_macs(shape) == counted_macs(model)


@pytest.mark.parametrize(("hidden_size", "heads", "gmacs"), [(192, 3, 1.254), (384, 6, 4.599), (768, 12, 17.564)])
def test_the_published_deits_cost_what_is_known(hidden_size: int, heads: int, gmacs: float) -> None:
    config = ViTConfig(
        hidden_size=hidden_size, num_attention_heads=heads, intermediate_size=4 * hidden_size, num_labels=1000
    )
    assert cost.count_macs(config) == pytest.approx(gmacs * 1e9, abs=0.5e6)
    millions = {192: 5.717, 384: 22.051, 768: 86.568}[hidden_size]  # as DeiT's model zoo counts them
    assert cost.count_parameters(config) == pytest.approx(millions * 1e6, abs=0.5e3)


@pytest.mark.parametrize("kind", ["vit", "deit", "deit_two_heads"])
def test_stock_configs_are_read_as_they_are(kind: str) -> None:
    model = tiny_classifier(kind)
    model.config.architectures = [type(model).__name__]
    assert cost.count_parameters(model.config) == counted_parameters(model)
    assert cost.count_macs(model.config) == counted_macs(model)


@pytest.mark.parametrize("pooler", [True, False])
def test_a_backbone_is_a_shape_without_classifiers(pooler: bool) -> None:
    config = OfbViTConfig(**TINY_VIT)
    model = OfbViTModel(config, add_pooling_layer=pooler)
    shape = replace(ViTShape.from_config(config), num_heads_out=0, pooler=pooler)
    assert vit_cost.count_parameters(shape) == counted_parameters(model)
    assert vit_cost.count_macs(shape) == counted_macs(model)


def test_images_that_leave_part_of_a_patch_over_are_counted_as_they_run() -> None:
    shape = ViTShape.from_config(OfbViTConfig(**TINY_VIT))
    assert vit_cost.count_macs(replace(shape, image_size=39)) == vit_cost.count_macs(shape)


def test_counting_is_quick() -> None:
    shape = ViTShape.from_config(ViTConfig())
    start = time.process_time()
    for heads in range(1, 201):
        vit_cost.count_macs(replace(shape, num_heads=(heads,) * 12))
    assert (time.process_time() - start) / 200 < 1e-3


def test_what_is_not_a_vit_is_refused() -> None:
    config = OfbViTConfig(**TINY_VIT)
    with pytest.raises(ValueError, match="got SwinConfig"):
        ViTShape.from_config(SwinConfig())
    with pytest.raises(ValueError, match="`image_size` must be square"):
        ViTShape.from_config(DeiTConfig(image_size=[32, 64]))
    with pytest.raises(ValueError, match="`num_prompts` must be 0"):
        cost.count_macs(config, num_prompts=1)
    with pytest.raises(ValueError, match="give `subnet=None`"):
        cost.count_parameters(config, Subnet((0,), (12,), (4,)))


def test_the_same_numbers_by_hand() -> None:
    shape = ViTShape(
        image_size=4,
        patch_size=2,
        num_channels=1,
        hidden_size=3,
        num_heads=(2,),
        head_dims=(5,),
        mlp_dims=(7,),
        num_labels=2,
    )
    patches, tokens, width = 4, 5, 10
    attention = tokens * 3 * 3 * width + 2 * tokens * tokens * width + tokens * width * 3
    assert vit_cost.count_macs(shape) == patches * 4 * 3 + attention + 2 * tokens * 3 * 7 + 3 * 2
    per_layer = 4 * 3 + 3 * (3 * width + width) + (width * 3 + 3) + (3 * 7 + 7) + (7 * 3 + 3)
    assert vit_cost.count_parameters(shape) == (4 * 3 + 3) + 3 + 5 * 3 + per_layer + 2 * 3 + (3 * 2 + 2)
