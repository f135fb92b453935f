"""SuperSamModel against stock SamModel, and its subnets against their extraction."""

import json
from pathlib import Path

import fresh
import numpy as np
import pytest
import torch
from conftest import randomised, tiny_config
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskGeneration,
    SamConfig,
    SamModel,
    SamProcessor,
    ViTConfig,
    ViTModel,
)
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from supersam_hf import ElasticSpace, Subnet, SuperSamConfig, SuperSamModel, SuperSamProcessor, SuperSamVisionModel
from supersam_hf.models.supersam import shared_depth


SPACE = {"prunable_layers": (1, 2, 3), "attention_windows": (24, 36, 48)}


# Bit for bit on most CPUs; on others, products of the same numbers differ with how they lie in memory.
ROUNDING = {"rtol": 1e-5, "atol": 1e-6}


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


def assert_same_outputs(a: SamModel, b: SamModel, inputs: dict[str, torch.Tensor], **kwargs: object) -> None:
    with torch.no_grad():
        for multimask in (True, False):
            one = a(**inputs, multimask_output=multimask)
            other = b(**inputs, multimask_output=multimask, **kwargs)
            torch.testing.assert_close(one.pred_masks, other.pred_masks, **ROUNDING)
            torch.testing.assert_close(one.iou_scores, other.iou_scores, **ROUNDING)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_gives_the_stock_outputs(stock_folder: Path, inputs: dict, implementation: str) -> None:
    stock = SamModel.from_pretrained(stock_folder, attn_implementation=implementation).eval()
    ours, info = SuperSamModel.from_pretrained(
        stock_folder, attn_implementation=implementation, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert stock.vision_encoder.layers[0].attn.rel_pos_h.abs().min() > 0
    assert_same_outputs(stock, ours.eval(), inputs)
    embeddings = [m.get_image_embeddings(inputs["pixel_values"]) for m in (stock, ours)]
    torch.testing.assert_close(*embeddings, **ROUNDING)


@pytest.mark.shared
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_gives_the_outputs_of_a_real_checkpoint(shared: Path, implementation: str) -> None:
    folder = shared / "weights" / "sam-tiny-256"
    stock = SamModel.from_pretrained(folder, attn_implementation=implementation).eval()
    ours = SuperSamModel.from_pretrained(folder, attn_implementation=implementation).eval()
    inputs = {"pixel_values": torch.randn(1, 3, 256, 256), "input_points": torch.tensor([[[[30.0, 50.0]]]])}
    assert_same_outputs(stock, ours, inputs)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_gradients_are_the_stock_ones(stock_folder: Path, inputs: dict, implementation: str) -> None:
    classes = (SamModel, SuperSamModel)
    stock, ours = (c.from_pretrained(stock_folder, attn_implementation=implementation) for c in classes)
    for model in (stock, ours):
        model(**inputs).pred_masks.square().mean().backward()
    grads = dict(ours.named_parameters())
    for name, parameter in stock.named_parameters():
        if parameter.grad is not None:
            largest = parameter.grad.abs().max().item()
            # those of key biases are zero but for rounding
            assert difference(parameter.grad, grads[name].grad) <= 1e-5 * largest + 1e-11, name


def test_auto_classes_find_it(supernet: SuperSamModel, tmp_path: Path) -> None:
    supernet.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), SuperSamConfig)
    assert isinstance(AutoModel.from_pretrained(tmp_path), SuperSamModel)
    assert isinstance(AutoModelForMaskGeneration.from_pretrained(tmp_path), SuperSamModel)


def test_the_encoder_alone_loads_from_a_whole_sam(stock: SamModel, stock_folder: Path, inputs: dict) -> None:
    encoder, info = SuperSamVisionModel.from_pretrained(stock_folder, output_loading_info=True)
    assert not info["missing_keys"]
    with torch.no_grad():
        output = encoder.eval()(inputs["pixel_values"]).last_hidden_state
    assert difference(output, stock.get_image_embeddings(inputs["pixel_values"])) == 0


@pytest.mark.parametrize("model_type", ["sam2", "sam3", "sam_hq", "vit"])
def test_other_architectures_are_refused_by_name(tmp_path: Path, model_type: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(ValueError, match=f"'{model_type}'"):
        SuperSamModel.from_pretrained(tmp_path)


def test_an_encoder_alone_is_no_whole_sam(stock_folder: Path, tmp_path: Path) -> None:
    SuperSamVisionModel.from_pretrained(stock_folder).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'supersam_vision_model'"):
        SuperSamModel.from_pretrained(tmp_path)


def test_missing_weights_are_refused(supernet: SuperSamModel, tmp_path: Path) -> None:
    state = {k: v for k, v in supernet.state_dict().items() if "layers.2.mlp" not in k}
    supernet.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ValueError, match="lacks weights"):
        SuperSamModel.from_pretrained(tmp_path)


def test_a_subnet_loads_straight_from_a_supernet(supernet: SuperSamModel, stock_folder: Path, inputs: dict) -> None:
    subnet = supernet.elastic_space.smallest()
    alone = SuperSamModel.from_pretrained(stock_folder, subnet=subnet).eval()
    assert_same_outputs(alone, supernet, inputs, subnet=subnet)
    assert alone.config.elastic_space is None


def test_a_saved_vit_is_refused(tmp_path: Path) -> None:
    ViTModel(ViTConfig(hidden_size=12, num_hidden_layers=1, num_attention_heads=1)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'vit'"):
        SuperSamModel.from_pretrained(tmp_path)


def test_extraction_equals_the_subnet_bit_for_bit(supernet: SuperSamModel, inputs: dict) -> None:
    space = ElasticSpace.for_config(supernet.config, **SPACE)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        subnet = space.sample(generator)
        extracted = supernet.extract(subnet)
        with torch.no_grad():
            whole, part = supernet(**inputs, subnet=subnet), extracted(**inputs)
        assert difference(whole.pred_masks, part.pred_masks) == 0
        assert difference(whole.iou_scores, part.iou_scores) == 0


def test_a_subnet_is_the_model_with_the_other_channels_zeroed(supernet: SuperSamModel, inputs: dict) -> None:
    """An independent truth for slicing: zeroing what the windows drop, in a full-width stock model."""
    space = ElasticSpace.for_config(supernet.config, **SPACE)
    subnet = space.subnet(mlp_dim=60, head_dim=8)
    stock = SamModel(tiny_config())
    stock.load_state_dict(supernet.state_dict())
    with torch.no_grad():
        for layer in stock.vision_encoder.layers[1:]:
            layer.mlp.lin2.weight[:, 60:] = 0
            # channels beyond 8 of each head: of q (so that they add nothing to q·k and to q·rel_pos), and of v
            rows = layer.attn.qkv.weight.view(3, 3, 16, 48)
            bias = layer.attn.qkv.bias.view(3, 3, 16)
            rows[[0, 2], :, 8:] = 0
            bias[[0, 2], :, 8:] = 0
        expected = stock.eval()(**inputs).pred_masks
        actual = supernet(**inputs, subnet=subnet).pred_masks
    assert torch.allclose(actual, expected, atol=1e-4)
    assert difference(actual, supernet(**inputs).pred_masks) > 0.01


def test_an_extracted_model_reloads_in_a_fresh_process(supernet: SuperSamModel, inputs: dict, tmp_path: Path) -> None:
    space = ElasticSpace.for_config(supernet.config, **SPACE)
    extracted = supernet.extract(space.smallest())
    extracted.save_pretrained(tmp_path / "subnet")
    torch.save(inputs, tmp_path / "inputs.pt")
    script = """
import sys, torch, supersam_hf
from transformers import AutoModelForMaskGeneration
model = AutoModelForMaskGeneration.from_pretrained(sys.argv[1] + "/subnet").eval()
inputs = torch.load(sys.argv[1] + "/inputs.pt", weights_only=True)
with torch.no_grad():
    torch.save(model(**inputs).pred_masks, sys.argv[1] + "/masks.pt")
"""
    fresh.run("-c", script, tmp_path, check=True)
    masks = torch.load(tmp_path / "masks.pt", weights_only=True)
    with torch.no_grad():
        assert difference(masks, supernet(**inputs, subnet=space.smallest()).pred_masks) == 0


def test_global_layers_are_remapped(supernet: SuperSamModel) -> None:
    space = ElasticSpace.for_config(supernet.config, **SPACE)
    config = supernet.extract(space.subnet(removed=(2, 3))).config.vision_config
    assert config.global_attn_indexes == [1, 2]
    config = supernet.extract(space.subnet(removed=(1,))).config.vision_config
    assert config.global_attn_indexes == [3]


@pytest.mark.parametrize("widths", [{}, {"mlp_dim": dict.fromkeys(range(6), 96)}])
def test_uniform_subnets_are_stock_sams(supernet: SuperSamModel, inputs: dict, tmp_path: Path, widths: dict) -> None:
    space = ElasticSpace.for_config(supernet.config, **SPACE)
    subnet = space.subnet(removed=(1, 3), **widths)
    supernet.extract(subnet).to_sam().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "sam"
    stock = SamModel.from_pretrained(tmp_path).eval()
    assert_same_outputs(stock, supernet, inputs, subnet=subnet)


def test_what_stock_sam_cannot_hold_is_refused(supernet: SuperSamModel) -> None:
    space = ElasticSpace.for_config(supernet.config, **SPACE)
    for subnet in (space.smallest(), space.subnet(head_dim=dict.fromkeys(range(6), 8))):
        with pytest.raises(ValueError, match="stock SAM"):
            supernet.extract(subnet).to_sam()


def test_unknown_arguments_and_misfits_are_refused(supernet: SuperSamModel, inputs: dict) -> None:
    smallest = supernet.elastic_space.smallest()
    with pytest.raises(TypeError, match="subent"):
        supernet(**inputs, subent=smallest)
    with pytest.raises(TypeError, match="subent"):
        supernet.vision_encoder(inputs["pixel_values"], subent=smallest)
    with pytest.raises(ValueError, match="`layers`"):
        supernet(**inputs, subnet=Subnet((0, 9), (192, 192), (16, 16)))
    with pytest.raises(ValueError, match="`mlp_dim` of layer 3 is 193"):
        supernet.extract(Subnet((3,), (193,), (16,)))
    embeddings = supernet.get_image_embeddings(inputs["pixel_values"])
    with pytest.raises(ValueError, match="image_embeddings"):
        supernet(image_embeddings=embeddings, input_boxes=inputs["input_boxes"], subnet=smallest)


def test_attention_can_be_switched_after_loading(stock_folder: Path, inputs: dict) -> None:
    model = SuperSamModel.from_pretrained(stock_folder, attn_implementation="sdpa").eval()
    eager = SuperSamModel.from_pretrained(stock_folder, attn_implementation="eager").eval()
    assert model(**inputs, output_attentions=True).vision_attentions == ()
    model.set_attn_implementation("eager")
    subnet = model.elastic_space.subnet(removed=(1,))
    outputs = model(**inputs, output_attentions=True, subnet=subnet)
    sums = outputs.vision_attentions[0].sum(-1)
    assert torch.allclose(sums, torch.ones_like(sums), atol=1e-5)
    assert difference(outputs.pred_masks, eager(**inputs, subnet=subnet).pred_masks) == 0


def test_hidden_states_are_those_of_the_kept_layers(supernet: SuperSamModel, inputs: dict) -> None:
    subnet = supernet.elastic_space.subnet(removed=(2, 3))
    states = supernet(**inputs, output_hidden_states=True, subnet=subnet).vision_hidden_states
    full = supernet(**inputs, output_hidden_states=True).vision_hidden_states
    assert (len(states), len(full)) == (5, 7)
    assert difference(states[2], full[2]) == 0
    assert supernet(**inputs, return_dict=False, subnet=subnet)[0].shape == (2, 2, 3)


def test_a_forward_can_go_on_from_what_subnets_share(supernet: SuperSamModel, inputs: dict) -> None:
    space = ElasticSpace.for_config(supernet.config, **SPACE)
    one = space.subnet((2,), {1: 64, 3: 96}, {1: 6})
    other = space.subnet((2,), {1: 64, 3: 64}, {1: 6})
    assert shared_depth([one, other], 4) == 3
    encoder, prompts = supernet.vision_encoder, {k: v for k, v in inputs.items() if k != "pixel_values"}
    with torch.no_grad():
        shared = encoder.run_layers(encoder.embed(inputs["pixel_values"]), one, 0, 3)
        for subnet in (one, other):
            whole = supernet(**inputs, subnet=subnet)
            resumed = supernet(**prompts, subnet=subnet, hidden_states=shared, first_layer=3)
            assert difference(whole.pred_masks, resumed.pred_masks) == 0
    with pytest.raises(ValueError, match="Only one of pixel_values"):
        supernet(**inputs, hidden_states=shared)
    with pytest.raises(ValueError, match="either pixel_values or hidden_states"):
        encoder()


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_keeps_the_gradients(stock_folder: Path, inputs: dict, use_reentrant: bool) -> None:
    # eager: the reentrant variant runs forward without gradients, where sdpa picks another kernel
    load = {"attn_implementation": "eager"}
    plain, saving = (SuperSamModel.from_pretrained(stock_folder, **load).train() for _ in range(2))
    saving.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    subnet = ElasticSpace.for_config(plain.config, **SPACE).smallest()
    for model in (plain, saving):
        model(**inputs, subnet=subnet).pred_masks.square().mean().backward()
    grads = dict(saving.named_parameters())
    for name, parameter in plain.vision_encoder.layers[0].named_parameters(prefix="vision_encoder.layers.0"):
        assert difference(parameter.grad, grads[name].grad) == 0
    assert saving.vision_encoder.layers[2].mlp.lin1.weight.grad is None


def test_gradients_stay_inside_the_window(supernet: SuperSamModel, inputs: dict) -> None:
    space = ElasticSpace.for_config(supernet.config, **SPACE)
    subnet = space.subnet(mlp_dim=48, head_dim=8)
    supernet(**inputs, subnet=subnet).pred_masks.square().mean().backward()
    extracted = supernet.extract(subnet)
    extracted(**inputs).pred_masks.square().mean().backward()
    layer, alone = supernet.vision_encoder.layers[2], extracted.vision_encoder.layers[2]
    assert difference(layer.mlp.lin1.weight.grad[:48], alone.mlp.lin1.weight.grad) == 0
    assert layer.mlp.lin1.weight.grad[48:].abs().max() == 0
    heads = layer.attn.qkv.weight.grad.view(9, 16, 48)
    assert difference(heads[:, :8].flatten(0, 1), alone.attn.qkv.weight.grad) < 1e-7
    assert heads[:, 8:].abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_runs_in_other_precisions(stock_folder: Path, inputs: dict, dtype: torch.dtype) -> None:
    model = SuperSamModel.from_pretrained(stock_folder, dtype=dtype).eval()
    exact = SuperSamModel.from_pretrained(stock_folder).eval()
    subnet = ElasticSpace.for_config(model.config, **SPACE).smallest()
    outputs = model(**{k: v.to(dtype) for k, v in inputs.items()}, subnet=subnet)
    assert outputs.pred_masks.dtype == dtype
    assert model.extract(subnet).dtype == dtype
    expected = exact(**inputs, subnet=subnet).pred_masks
    assert difference(outputs.pred_masks.float(), expected) < 0.1 * expected.abs().max()


def test_runs_under_autocast(supernet: SuperSamModel, inputs: dict) -> None:
    subnet = supernet.elastic_space.smallest()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = supernet(**inputs, subnet=subnet).pred_masks
    expected = supernet(**inputs, subnet=subnet).pred_masks
    assert difference(mixed.float(), expected) < 0.1 * expected.abs().max()


def test_resized_once_there_and_not_at_all(stock_folder: Path, inputs: dict) -> None:
    same = SuperSamModel.from_pretrained(stock_folder, image_size=64, window_size=3).eval()
    assert_same_outputs(SuperSamModel.from_pretrained(stock_folder).eval(), same, inputs)


def test_another_image_size_interpolates_positions(stock: SamModel, stock_folder: Path) -> None:
    model = SuperSamModel.from_pretrained(stock_folder, image_size=128).eval()
    config = model.config
    assert config.vision_config.image_size == config.prompt_encoder_config.image_size == 128
    assert config.prompt_encoder_config.image_embedding_size == 8
    # a bicubic resize keeps a constant; a linear one keeps the ends of a doubled axis near the ends
    assert model.vision_encoder.pos_embed.shape == (1, 8, 8, 48)
    mean = stock.vision_encoder.pos_embed.mean((1, 2))
    assert torch.allclose(model.vision_encoder.pos_embed.mean((1, 2)), mean, atol=0.02)
    assert model.vision_encoder.layers[1].attn.rel_pos_h.shape == (15, 16)
    windowed = model.vision_encoder.layers[0].attn.rel_pos_h
    assert difference(windowed, stock.vision_encoder.layers[0].attn.rel_pos_h) == 0
    inputs = {"pixel_values": torch.randn(1, 3, 128, 128), "input_boxes": torch.tensor([[[1.0, 2.0, 90.0, 80.0]]])}
    assert model(**inputs).pred_masks.shape[-2:] == (32, 32)


def test_relative_positions_are_resized_as_sam_does_on_the_fly(stock: SamModel, stock_folder: Path) -> None:
    attention = stock.vision_encoder.layers[1].attn
    model = SuperSamModel.from_pretrained(stock_folder, image_size=96)
    resized = model.vision_encoder.layers[1].attn
    expected = attention.get_rel_pos(6, 6, attention.rel_pos_h)
    assert torch.allclose(resized.get_rel_pos(6, 6, resized.rel_pos_h), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("sizes", "field"), [({"image_size": 100}, "image_size"), ({"window_size": 9}, "window_size")]
)
def test_sizes_that_do_not_fit_are_refused(stock_folder: Path, sizes: dict, field: str) -> None:
    with pytest.raises(ValueError, match=f"`{field}`"):
        SuperSamModel.from_pretrained(stock_folder, **sizes)


def test_the_processor_is_sams_and_follows_the_image_size(stock_folder: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 90, 3), dtype=np.uint8))
    boxes = [[[10.0, 5.0, 80.0, 40.0]]]
    stock = SamProcessor(SamImageProcessorPil.from_pretrained(stock_folder))
    ours = SuperSamProcessor.from_pretrained(stock_folder)
    expected, actual = (p(image, input_boxes=boxes, return_tensors="pt") for p in (stock, ours))
    for name, value in expected.items():
        assert torch.equal(actual[name], value), name
    larger = SuperSamProcessor.from_pretrained(stock_folder, image_size=128)
    doubled = larger(image, input_boxes=boxes, return_tensors="pt")
    assert doubled["pixel_values"].shape == (1, 3, 128, 128)
    assert torch.allclose(doubled["input_boxes"], 2 * expected["input_boxes"], atol=2)
    assert larger.image_processor.mask_size["longest_edge"] == 32


def test_wrong_types_in_the_config_are_refused() -> None:
    with pytest.raises(Exception, match="elastic_space"):
        SuperSamConfig(elastic_space="all of it")


@pytest.mark.slow
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("shape", [(768, 12, 12), (1280, 32, 16)], ids=["base", "huge"])
def test_vit_base_and_huge_shapes_match(implementation: str, shape: tuple[int, int, int]) -> None:
    """At SAM's own widths and 1024 px (huge: one windowed and one global layer of its 32)."""
    hidden, depth, heads = shape
    depth = depth if hidden == 768 else 2
    vision = {"hidden_size": hidden, "num_hidden_layers": depth, "num_attention_heads": heads, "scale": 1.0}
    config = SamConfig(vision_config={**vision, "global_attn_indexes": [1, 5, 8, 11] if depth > 2 else [1]})
    stock = randomised(SamModel._from_config(config, attn_implementation=implementation))
    ours = SuperSamModel._from_config(
        SuperSamConfig(**{k: v for k, v in config.to_dict().items() if k.endswith("_config")}),
        attn_implementation=implementation,
    )
    ours.load_state_dict(stock.state_dict())
    images, boxes = torch.randn(1, 3, 1024, 1024), torch.tensor([[[100.0, 200.0, 700.0, 900.0]]])
    embeddings = [model.get_image_embeddings(images) for model in (stock, ours.eval())]
    # over 12 layers; ours projects fewer tokens at once than stock, which pads first
    assert difference(*embeddings) <= 2e-5 * embeddings[0].abs().max().item()
    assert_same_outputs(stock, ours, {"image_embeddings": embeddings[0], "input_boxes": boxes})


@pytest.mark.shared
def test_subnets_of_a_real_checkpoint_extract_bit_for_bit(shared: Path) -> None:
    model = SuperSamModel.from_pretrained(shared / "weights" / "sam-tiny-256").eval()
    space = ElasticSpace.for_config(model.config, attention_windows=(96, 128, 192))
    generator, images = torch.Generator().manual_seed(0), torch.randn(1, 3, 256, 256)
    for _ in range(50):
        subnet = space.sample(generator)
        extracted = model.extract(subnet).get_image_embeddings(images)
        assert difference(extracted, model.get_image_embeddings(images, subnet=subnet)) == 0


def test_the_processors_whole_output_goes_into_the_model(stock: SamModel, supernet: SuperSamModel) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8))
    processor = SuperSamProcessor.for_config(supernet.config)
    inputs = processor(image, input_points=[[[20, 10]]], return_tensors="pt").to(dtype=torch.float32)
    with torch.no_grad():
        ours, theirs = supernet(**inputs), stock(**inputs)
    assert torch.equal(ours.pred_masks, theirs.pred_masks)


def test_an_extracted_model_ties_what_stock_ties(supernet: SuperSamModel) -> None:
    small = supernet.extract(supernet.elastic_space.smallest())
    assert (
        small.prompt_encoder.shared_embedding.positional_embedding is small.shared_image_embedding.positional_embedding
    )
