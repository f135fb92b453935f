"""OfbSwin against stock Swin, networks of uneven widths against themselves elsewhere, and its cost in closed form."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import randomised
from torch.utils.flop_counter import FlopCounterMode
from transformers import SwinConfig, SwinForImageClassification, SwinModel

from supersam_hf import count_macs, count_parameters
from supersam_hf.models.ofb_swin import OfbSwinConfig, OfbSwinForImageClassification, OfbSwinModel


# 32 px, grids of 16 and 8, three blocks of which one is shifted, 5 labels.
TINY: dict[str, Any] = {
    **{"image_size": 32, "patch_size": 2, "embed_dim": 24, "depths": [2, 1], "num_heads": [2, 4]},
    **{"window_size": 4, "num_labels": 5},
}
# 30 px: grids of 15, 8 and 4, so that windows are padded, merging too, and the last window is the whole grid.
PADDED: dict[str, Any] = {**TINY, "image_size": 30, "depths": [2, 2, 2], "num_heads": [1, 2, 4], "window_size": 4}
UNEVEN: dict[str, Any] = {
    **{"hidden_sizes": [20, 36], "block_num_heads": [1, 2, 3], "block_head_dims": [12, 8, 4]},
    **{"block_intermediate_sizes": [10, 96, 7], "query_pre_attn_scalars": [12, 12]},
}


def images(side: int = 32, seed: int = 1) -> torch.Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(seed))


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return (a - b).abs().max().item()


def ours(**config: Any) -> OfbSwinForImageClassification:
    return randomised(OfbSwinForImageClassification(OfbSwinConfig(**{**TINY, **config})))


@pytest.fixture(params=["tiny", "padded", "absolute"])
def stock(request: pytest.FixtureRequest) -> SwinForImageClassification:
    values = {"tiny": TINY, "padded": PADDED, "absolute": {**TINY, "use_absolute_embeddings": True}}[request.param]
    return randomised(SwinForImageClassification(SwinConfig(**values)))


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_gives_the_stock_outputs_exactly(
    stock: SwinForImageClassification, tmp_path: Path, implementation: str
) -> None:
    stock.save_pretrained(tmp_path)
    stock.set_attn_implementation(implementation)
    model = OfbSwinForImageClassification.from_pretrained(tmp_path, attn_implementation=implementation)
    pixel_values = images(stock.config.image_size)
    with torch.no_grad():
        wanted, found = (
            m(pixel_values, labels=torch.tensor([1, 3]), output_hidden_states=True, output_attentions=True)
            for m in (stock, model)
        )
    assert difference(found.logits, wanted.logits) == 0
    assert found.loss == wanted.loss
    for name in ("hidden_states", "reshaped_hidden_states", "attentions"):
        assert len(getattr(found, name)) == len(getattr(wanted, name))
        assert all(difference(*pair) == 0 for pair in zip(getattr(found, name), getattr(wanted, name)))


def test_gives_the_stock_gradients_exactly(stock: SwinForImageClassification, tmp_path: Path) -> None:
    stock.save_pretrained(tmp_path)
    model = OfbSwinForImageClassification.from_pretrained(tmp_path)
    for m in (stock, model):
        m(images(stock.config.image_size)).logits.square().sum().backward()
    wanted = dict(stock.named_parameters())
    for name, parameter in model.named_parameters():
        assert difference(parameter.grad, wanted[name].grad) == 0, name


def test_a_checkpoint_under_its_old_names_loads(stock: SwinForImageClassification, tmp_path: Path) -> None:
    stock.save_pretrained(tmp_path, save_original_format=True)
    assert b"attention.self.query" in (tmp_path / "model.safetensors").read_bytes()
    model = OfbSwinForImageClassification.from_pretrained(tmp_path)
    pixel_values = images(stock.config.image_size)
    with torch.no_grad():
        assert difference(model(pixel_values).logits, stock(pixel_values).logits) == 0


def test_the_backbone_loads_alone(stock: SwinForImageClassification, tmp_path: Path) -> None:
    stock.save_pretrained(tmp_path)
    model, pixel_values = OfbSwinModel.from_pretrained(tmp_path), images(stock.config.image_size)
    with torch.no_grad():
        wanted = SwinModel.from_pretrained(tmp_path)(pixel_values).pooler_output
        assert difference(model(pixel_values).pooler_output, wanted) == 0


def test_uneven_widths_come_back_from_a_folder(tmp_path: Path) -> None:
    model, pixel_values = ours(**UNEVEN), images()
    model.save_pretrained(tmp_path)
    loaded = OfbSwinForImageClassification.from_pretrained(tmp_path)
    with torch.no_grad():
        assert difference(loaded(pixel_values).logits, model(pixel_values).logits) == 0
    assert loaded.config.hidden_size == 36
    assert [layer.attention.q_proj.out_features for layer in loaded.swin.encoder.layers[0].blocks] == [12, 16]


def test_narrower_heads_keep_the_original_scale() -> None:
    model = ours(block_head_dims=[6, 6, 6], query_pre_attn_scalars=[12, 12])
    assert {layer.attention.scaling for stage in model.swin.encoder.layers for layer in stage.blocks} == {12**-0.5}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_sizes": [24]}, "`hidden_sizes` must be 2 numbers"),
        ({"block_num_heads": [2, 2]}, "`block_num_heads` must be 3 numbers"),
        ({"block_head_dims": [12, 0, 12]}, "`block_head_dims` must be 3 numbers of 1 or more"),
        ({"hidden_sizes": [1, 48]}, "`block_head_dims` must be given"),
        ({"image_size": [32, 64]}, "`image_size` must be square"),
    ],
)
def test_widths_that_do_not_fit_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OfbSwinConfig(**{**TINY, **values})


def test_other_checkpoints_are_refused(classifier_folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="type 'vit'; OfbSwin is made from a Swin"):
        OfbSwinForImageClassification.from_pretrained(classifier_folders["vit"])
    SwinModel(SwinConfig(**{**TINY, "depths": [1, 1]})).save_pretrained(tmp_path)
    assert OfbSwinForImageClassification.from_pretrained(tmp_path).classifier.out_features == 5
    config = SwinConfig(**TINY)
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="lacks weights"):
        OfbSwinForImageClassification.from_pretrained(tmp_path)


def random_config(rng: random.Random) -> OfbSwinConfig:
    """Any architecture a search could leave."""
    depths = [rng.randint(1, 3) for _ in range(rng.randint(1, 3))]
    blocks = sum(depths)
    window = rng.choice([2, 3, 4])
    return OfbSwinConfig(
        image_size=rng.choice([30, 32, 36, 40]),
        patch_size=2,
        window_size=window,
        depths=depths,
        num_heads=[1] * len(depths),
        hidden_sizes=[rng.randint(3, 40) for _ in depths],
        block_num_heads=[rng.randint(1, 4) for _ in range(blocks)],
        block_head_dims=[rng.randint(1, 9) for _ in range(blocks)],
        block_intermediate_sizes=[rng.randint(1, 50) for _ in range(blocks)],
        num_labels=rng.randint(2, 7),
        qkv_bias=rng.random() < 0.5,
        use_absolute_embeddings=rng.random() < 0.5,
    )


@pytest.mark.parametrize("seed", range(50))
def test_closed_form_is_what_is_counted(seed: int) -> None:
    config = random_config(random.Random(seed))
    model = OfbSwinForImageClassification(config).eval()
    model.set_attn_implementation("eager")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, config.image_size, config.image_size))
    assert count_macs(config) == counter.get_total_flops() // 2
    named = list(model.named_parameters())
    assert count_parameters(config) == sum(p.numel() for _, p in named)
    assert count_parameters(config, weights_only=True) == sum(p.numel() for n, p in named if n.endswith(".weight"))


def test_swin_tiny_has_the_papers_numbers() -> None:
    """OFB, Table 3: 28.3 M parameters, 4.5 GMACs."""
    config = SwinConfig(num_labels=1000)
    assert count_parameters(config) == 28_288_354
    assert round(count_macs(config) / 1e9, 2) == 4.49
