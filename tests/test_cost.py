"""Closed-form costs against built models: counted tensors and counted matrix products."""

import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import SamConfig, SamModel, SamVisionConfig

from supersam_hf.elastic.cost import SamShape, count_macs, count_parameters
from supersam_hf.models.supersam.configuration_supersam import SuperSamConfig
from supersam_hf.models.supersam.elastic_supersam import ElasticSpace, Subnet
from supersam_hf.models.supersam.extraction_supersam import subnet_config
from supersam_hf.models.supersam.modeling_supersam import SuperSamModel


SHARED = Path(os.environ.get("SUPERSAM_HF_SHARED", Path(__file__).parents[1].parent / "shared"))
SMALL = {"hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 4, "global_attn_indexes": [1, 3]}
SMALL |= {"image_size": 64, "patch_size": 8, "window_size": 4, "num_pos_feats": 16, "output_channels": 32}
SMALL_DECODER = {"hidden_size": 32, "mlp_dim": 40, "num_attention_heads": 4, "iou_head_hidden_dim": 20}


def sam_config(vision: dict[str, Any] | None = None, decoder: dict[str, Any] | None = None, prompt: Any = None) -> Any:
    vision = SMALL | (vision or {})
    sizes = {"image_size": vision["image_size"], "patch_size": vision["patch_size"], "hidden_size": 32}
    return SamConfig(
        vision_config=vision,
        prompt_encoder_config=sizes | (prompt or {}),
        mask_decoder_config=SMALL_DECODER | (decoder or {}),
    )


CONFIGS = {
    "windows fit": sam_config(),
    "windows pad": sam_config({"window_size": 3}),
    "window wider than half the grid": sam_config({"window_size": 7}),
    "no windows": sam_config({"window_size": 0}),
    "no global layers": sam_config({"global_attn_indexes": []}),
    "other image size": sam_config({"image_size": 120, "window_size": 4}),
    "no relative positions": sam_config({"use_rel_pos": False}),
    "no absolute positions, no qkv bias": sam_config({"use_abs_pos": False, "qkv_bias": False}),
    "other depth, heads, MLP": sam_config({"num_hidden_layers": 3, "num_attention_heads": 2, "mlp_dim": 50}),
    "other decoder": sam_config(
        decoder={"num_hidden_layers": 3, "attention_downsample_rate": 4, "num_multimask_outputs": 2},
    ),
    "deep IoU head": sam_config(decoder={"iou_head_depth": 5}),
    "shallow IoU head, other prompt encoder": sam_config(
        decoder={"iou_head_depth": 2}, prompt={"mask_input_channels": 24, "num_point_embeddings": 6}
    ),
    "ViT-B at 1024 px": SamConfig(),
}
ALL_CONFIGS = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def build(config: Any) -> SamModel:
    model_class = SuperSamModel if isinstance(config, SuperSamConfig) else SamModel
    with device_of(config):
        model = model_class._from_config(config, attn_implementation="eager")
    return model.requires_grad_(False).eval()


def device_of(config: Any) -> torch.device:
    """Counting needs shapes only; small models run faster for real."""
    return torch.device("meta" if config.vision_config.image_size == 1024 else "cpu")


def counted_parameters(model: nn.Module, weights_only: bool = False) -> int:
    return sum(p.numel() for name, p in model.named_parameters() if name.endswith(".weight") or not weights_only)


def counted_macs(model: nn.Module, num_prompts: int, prompt: str = "box", multimask_output: bool = True) -> list[int]:
    """Of the image encoder alone and of the whole model."""
    size = model.config.vision_config.image_size
    shape = {"box": (1, num_prompts, 4), "point": (1, num_prompts, 1, 2)}[prompt]
    with device_of(model.config), FlopCounterMode(display=False) as counter:
        prompts = {f"input_{'boxes' if prompt == 'box' else 'points'}": torch.zeros(shape)}
        model(pixel_values=torch.zeros(1, 3, size, size), multimask_output=multimask_output, **prompts)
    counts = counter.get_flop_counts()
    return [sum(counts[name].values()) // 2 for name in (f"{type(model).__name__}.vision_encoder", "Global")]


def closed_form_macs(config: Any, subnet: Subnet | None, num_prompts: int) -> list[int]:
    return [count_macs(config, subnet), count_macs(config, subnet, num_prompts)]


def cut_by_hand(model: SamModel, subnet: Subnet) -> SamModel:
    """Stock SAM with its layers deleted and its linear layers swapped for narrower ones: knows nothing of ours."""
    encoder = model.vision_encoder
    hidden, heads = model.config.vision_config.hidden_size, model.config.vision_config.num_attention_heads
    encoder.layers = nn.ModuleList(encoder.layers[i] for i in subnet.layers)
    with device_of(model.config):
        for layer, mlp_dim, head_dim in zip(encoder.layers, subnet.mlp_dim, subnet.head_dim):
            layer.mlp.lin1, layer.mlp.lin2 = nn.Linear(hidden, mlp_dim), nn.Linear(mlp_dim, hidden)
            layer.attn.qkv = nn.Linear(hidden, 3 * heads * head_dim, bias=layer.attn.qkv.bias is not None)
            layer.attn.proj = nn.Linear(heads * head_dim, hidden)
            if layer.attn.use_rel_pos:
                layer.attn.rel_pos_h = nn.Parameter(torch.zeros(layer.attn.rel_pos_h.shape[0], head_dim))
                layer.attn.rel_pos_w = nn.Parameter(torch.zeros(layer.attn.rel_pos_w.shape[0], head_dim))
    return model.requires_grad_(False)


def vit_b_space(**kwargs: Any) -> ElasticSpace:
    return ElasticSpace.for_config(SamConfig(), **kwargs)


@ALL_CONFIGS
@pytest.mark.parametrize("weights_only", [False, True])
def test_parameters_are_those_of_the_built_model(config: SamConfig, weights_only: bool) -> None:
    assert count_parameters(config, weights_only=weights_only) == counted_parameters(build(config), weights_only)


@ALL_CONFIGS
def test_macs_are_those_of_the_run_model(config: SamConfig) -> None:
    assert closed_form_macs(config, None, 5) == counted_macs(build(config), 5)


@pytest.mark.parametrize("name", ["windows pad", "other decoder", "ViT-B at 1024 px"])
def test_macs_of_one_prompt_are_those_of_the_run_model(name: str) -> None:
    assert closed_form_macs(CONFIGS[name], None, 1) == counted_macs(build(CONFIGS[name]), 1)


@pytest.mark.parametrize("multimask_output", [False, True])
def test_macs_of_a_point_are_those_of_a_box(multimask_output: bool) -> None:
    config = CONFIGS["windows pad"]
    assert closed_form_macs(config, None, 2) == counted_macs(build(config), 2, "point", multimask_output)


SUBNETS = {
    "depth": Subnet((0, 2), (96, 96), (8, 8)),
    "MLP windows": Subnet((0, 1, 2, 3), (96, 12, 24, 13), (8, 8, 8, 8)),
    "attention windows": Subnet((0, 1, 2, 3), (96, 96, 96, 96), (8, 5, 2, 3)),
    # no head of one channel: einsum then multiplies without a matrix product, which the counter does not see
    "all three": Subnet((0, 1, 3), (96, 12, 24), (8, 7, 2)),
}
ALL_SUBNETS = pytest.mark.parametrize("subnet", SUBNETS.values(), ids=SUBNETS.keys())


@ALL_SUBNETS
@pytest.mark.parametrize("name", ["windows pad", "no relative positions", "no absolute positions, no qkv bias"])
def test_subnet_has_the_parameters_of_a_model_cut_by_hand(name: str, subnet: Subnet) -> None:
    config = CONFIGS[name]
    cut = cut_by_hand(build(config), subnet)
    assert count_parameters(config, subnet) == counted_parameters(cut)
    assert count_parameters(config, subnet, weights_only=True) == counted_parameters(cut, weights_only=True)


@ALL_SUBNETS
def test_subnet_has_the_macs_of_a_model_cut_by_hand(subnet: Subnet) -> None:
    config = CONFIGS["windows pad"]
    assert closed_form_macs(config, subnet, 1) == counted_macs(cut_by_hand(build(config), subnet), 1)


@ALL_SUBNETS
def test_subnet_of_a_supernet_costs_what_the_extracted_model_costs(subnet: Subnet) -> None:
    supernet = SuperSamConfig.from_dict(sam_config().to_dict() | {"model_type": "supersam"})
    extracted = SuperSamModel(supernet).extract(subnet)
    assert count_parameters(supernet, subnet) == count_parameters(extracted.config) == counted_parameters(extracted)
    assert closed_form_macs(supernet, subnet, 1) == closed_form_macs(extracted.config, None, 1)


def test_macs_of_an_extracted_model_are_those_it_runs() -> None:
    supernet = SuperSamConfig.from_dict(sam_config().to_dict() | {"model_type": "supersam"})
    extracted = SuperSamModel(supernet).extract(SUBNETS["all three"])
    extracted.set_attn_implementation("eager")
    assert closed_form_macs(extracted.config, None, 1) == counted_macs(extracted.requires_grad_(False).eval(), 1)


def test_subnet_of_a_subnet_is_counted_in_its_own_layers() -> None:
    supernet = SuperSamConfig.from_dict(sam_config().to_dict() | {"model_type": "supersam"})
    extracted = SuperSamModel(supernet).extract(SUBNETS["all three"]).config
    subnet = Subnet((0, 2), (50, 24), (8, 1))
    assert count_macs(extracted, subnet) == count_macs(supernet, Subnet((0, 3), (50, 24), (8, 1)))
    with pytest.raises(ValueError, match="`mlp_dim` of layer 2 is 25; the model has 1 to 24 there"):
        count_macs(extracted, Subnet((0, 2), (50, 25), (8, 1)))


def test_vit_b_numbers_of_the_paper_come_out() -> None:
    config, space = SamConfig(), vit_b_space()
    one_dimensional = vit_b_space(prunable_layers=())
    assert count_parameters(config, weights_only=True) == 90_379_108
    assert count_parameters(config, space.smallest(), weights_only=True) == 33_748_324
    assert count_parameters(config, one_dimensional.smallest(), weights_only=True) == 51_450_724
    assert count_parameters(config) == count_parameters(config, space.largest()) == 93_735_728
    assert round(count_parameters(config, space.smallest()), -3) == 37_006_000


def test_vit_b_depth_only_and_attention_windows_as_in_the_paper() -> None:
    config = SamConfig()
    depth_only = vit_b_space().subnet(removed=(1, 2, 5, 6, 9))
    assert round(count_parameters(config, depth_only) / 1e6, 2) == 58.25
    assert round(count_parameters(config, depth_only) / count_parameters(config), 2) == 0.62
    narrow = vit_b_space(prunable_layers=(), mlp_windows=(256,), attention_windows=(512,)).smallest()
    assert set(narrow.head_dim[1:]) == {42}
    assert round(count_parameters(config, narrow, weights_only=True) / 1e6, 2) == 33.88


@pytest.mark.shared
def test_parameters_are_those_in_the_file_of_a_real_checkpoint() -> None:
    folder = SHARED / "weights" / "sam-tiny-256"
    if not folder.exists():
        pytest.skip(f"needs the checkpoint {folder}; set SUPERSAM_HF_SHARED")
    with safe_open(folder / "model.safetensors", "pt") as file:
        # the shared positional embedding is stored under one of its two names
        stored = sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())
    assert count_parameters(SuperSamConfig.from_pretrained(folder)) == stored


@pytest.mark.parametrize("count", [count_parameters, count_macs])
def test_a_subnet_that_does_not_fit_is_refused(count: Any) -> None:
    with pytest.raises(ValueError, match="the model has layers 0 to 3"):
        count(sam_config(), Subnet((0, 4), (96, 96), (8, 8)))
    with pytest.raises(ValueError, match="`head_dim` of layer 1 is 9; the model has 1 to 8 there"):
        count(sam_config(), Subnet((0, 1), (96, 96), (8, 9)))


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="whole SAM"):
        count_parameters(SamVisionConfig())
    with pytest.raises(ValueError, match="`num_prompts` must be 0"):
        count_macs(sam_config(), num_prompts=-1)


def test_a_shape_read_once_counts_alike() -> None:
    config, space = SamConfig(), vit_b_space()
    shape, generator = SamShape.from_config(config), torch.Generator().manual_seed(0)
    subnets = [space.sample(generator) for _ in range(20)]
    for subnet in subnets:
        assert count_parameters(shape, subnet) == count_parameters(config, subnet)
        assert count_macs(shape, subnet) == count_macs(config, subnet)


@pytest.mark.parametrize("name", ["windows fit", "windows pad", "no relative positions", "ViT-B at 1024 px"])
def test_fifty_random_subnets_cost_what_the_built_model_has(name: str) -> None:
    """200 subnets in all, attention windows among them; built on the meta device from the extracted config."""
    config = SuperSamConfig(**{k: v for k, v in CONFIGS[name].to_dict().items() if k.endswith("_config")})
    vision = config.vision_config
    width, heads = vision.hidden_size, vision.num_attention_heads
    space = ElasticSpace.for_config(
        config,
        prunable_layers=(1, 2),
        mlp_windows=(vision.mlp_dim // 4, vision.mlp_dim // 2),
        attention_windows=(width - width // heads * (heads // 2), width),
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        subnet = space.sample(generator)
        with torch.device("meta"):
            model = SuperSamModel(subnet_config(config, subnet))
        assert count_parameters(config, subnet) == counted_parameters(model)
        assert count_parameters(config, subnet, weights_only=True) == counted_parameters(model, weights_only=True)
