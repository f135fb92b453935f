"""OfbViT against stock ViT and DeiT, and networks of uneven widths against themselves elsewhere."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fresh
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import CLASSIFIERS, TINY_VIT, randomised, tiny_classifier
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    DeiTConfig,
    DeiTModel,
    ViTConfig,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTModel,
)

from supersam_hf import OfbViTConfig, OfbViTForImageClassification, OfbViTModel
from supersam_hf.elastic.cost import count_parameters


KINDS = pytest.mark.parametrize("kind", CLASSIFIERS)
IMPLEMENTATIONS = pytest.mark.parametrize("implementation", ["eager", "sdpa"])
UNEVEN = {
    0: {"num_attention_heads": 2, "head_dim": 16},
    1: {"num_attention_heads": 1, "head_dim": 4, "intermediate_size": 12},
}


def images(side: int = 32, batch_size: int = 2, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch_size, 3, side, side, generator=torch.Generator().manual_seed(seed))


def uneven(**config: Any) -> OfbViTForImageClassification:
    """A narrow network whose layers differ, with scale and pooler of the original."""
    shape = {**TINY_VIT, "hidden_size": 40, "head_dim": 16, "per_layer_config": UNEVEN, **config}
    return randomised(OfbViTForImageClassification(OfbViTConfig(**shape)))


def logits(model: nn.Module, pixel_values: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(pixel_values, **kwargs).logits


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return (a - b).abs().max().item()


def load_stock(kind: str, folder: Path, **kwargs: Any) -> Any:
    return CLASSIFIERS[kind][1].from_pretrained(folder, **kwargs)


def load(folder: Path, **kwargs: Any) -> OfbViTForImageClassification:
    return OfbViTForImageClassification.from_pretrained(folder, **kwargs)


# Stock checkpoints.


@KINDS
@IMPLEMENTATIONS
def test_gives_the_stock_outputs_exactly(classifier_folders: dict[str, Path], kind: str, implementation: str) -> None:
    stock = load_stock(kind, classifier_folders[kind], attn_implementation=implementation)
    ours, info = OfbViTForImageClassification.from_pretrained(
        classifier_folders[kind], attn_implementation=implementation, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert ours.config.model_type == "ofb_vit"
    assert ours.config.distillation_token == (kind != "vit")
    assert ours.config.distillation_head == (kind == "deit_two_heads")
    recorded = {"output_hidden_states": True, "output_attentions": implementation == "eager"}
    with torch.no_grad():
        one, other = stock(images(), **recorded), ours(images(), **recorded)
    assert one.logits.abs().max() > 0.1
    assert difference(one.logits, other.logits) == 0
    assert len(other.hidden_states) == 4
    for a, b in zip(one.hidden_states, other.hidden_states):
        assert difference(a, b) == 0
    if implementation == "eager":
        assert len(other.attentions) == 3
        assert all(difference(a, b) == 0 for a, b in zip(one.attentions, other.attentions))


@pytest.mark.shared
@IMPLEMENTATIONS
def test_gives_the_outputs_of_a_real_deit_exactly(shared: Path, implementation: str) -> None:
    folder = shared / "weights" / "deit-tiny-patch16-224"
    stock = ViTForImageClassification.from_pretrained(folder, attn_implementation=implementation)
    ours = load(folder, attn_implementation=implementation)
    assert difference(logits(stock, images(224)), logits(ours, images(224))) == 0
    assert ours.config.id2label == stock.config.id2label


@KINDS
def test_gradients_and_loss_are_the_stock_ones(classifier_folders: dict[str, Path], kind: str) -> None:
    stock, ours = load_stock(kind, classifier_folders[kind]), load(classifier_folders[kind])
    labels = torch.tensor([1, 4])
    F.cross_entropy(stock(images()).logits, labels).backward()
    loss = ours(images(), labels=labels).loss
    assert loss.item() == F.cross_entropy(stock(images()).logits, labels).item()
    loss.backward()
    grads = dict(ours.named_parameters())
    for name, parameter in stock.named_parameters():
        name = name.replace("deit.", "vit.").replace("cls_classifier", "classifier")
        assert difference(parameter.grad, grads[name].grad) == 0, name


def test_both_heads_are_given_apart(classifier_folders: dict[str, Path]) -> None:
    stock = load_stock("deit_two_heads", classifier_folders["deit_two_heads"])
    with torch.no_grad():
        one, other = stock(images()), load(classifier_folders["deit_two_heads"])(images())
    assert difference(one.cls_logits, other.cls_logits) == 0
    assert difference(one.distillation_logits, other.distillation_logits) == 0
    assert load(classifier_folders["deit"])(images()).distillation_logits is None


@pytest.mark.parametrize(("config_class", "model_class"), [(ViTConfig, ViTModel), (DeiTConfig, DeiTModel)])
def test_a_backbone_gives_the_stock_outputs_exactly(config_class: Any, model_class: Any, tmp_path: Path) -> None:
    stock = randomised(model_class(config_class(**TINY_VIT)))
    stock.save_pretrained(tmp_path)
    ours = OfbViTModel.from_pretrained(tmp_path)
    with torch.no_grad():
        one, other = stock(images()), ours(images())
    assert difference(one.last_hidden_state, other.last_hidden_state) == 0
    assert difference(one.pooler_output, other.pooler_output) == 0
    # and gets a new head as a classifier
    with torch.no_grad():
        hidden_states = load(tmp_path).vit(images()).last_hidden_state
    assert difference(one.last_hidden_state, hidden_states) == 0


@KINDS
def test_the_backbone_of_a_classifier_loads_alone(classifier_folders: dict[str, Path], kind: str) -> None:
    alone = OfbViTModel.from_pretrained(classifier_folders[kind], add_pooling_layer=False)
    with torch.no_grad():
        whole = load(classifier_folders[kind]).vit(images()).last_hidden_state
        assert difference(alone(images()).last_hidden_state, whole) == 0
    with pytest.raises(ValueError, match=r"lacks weights of OfbViTModel: \['pooler"):
        OfbViTModel.from_pretrained(classifier_folders[kind])


@pytest.mark.parametrize("model_type", ["swin", "beit", "dinov2", "sam"])
def test_other_architectures_are_refused_by_name(tmp_path: Path, model_type: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(ValueError, match=f"'{model_type}'"):
        load(tmp_path)


@pytest.mark.parametrize("lost", ["layers.1.mlp.fc1.weight", "classifier.bias", "distillation_token"])
def test_missing_weights_are_refused(classifier_folders: dict[str, Path], lost: str, tmp_path: Path) -> None:
    load(classifier_folders["deit"]).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    save_file(
        {k: v for k, v in state.items() if not k.endswith(lost)}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ValueError, match=f"lacks weights.*{lost}"):
        load(tmp_path)


def test_weights_left_over_are_refused(tmp_path: Path) -> None:
    ViTForMaskedImageModeling(ViTConfig(**TINY_VIT, encoder_stride=8)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="lacks weights|holds beside"):
        load(tmp_path)
    tiny_classifier("deit_two_heads").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["DeiTForImageClassification"]}))
    with pytest.raises(ValueError, match=r"holds beside.*distillation_classifier"):
        load(tmp_path)


def test_a_new_head_is_asked_for_as_everywhere(vit_folder: Path, tmp_path: Path) -> None:
    ours = load(vit_folder, num_labels=7, ignore_mismatched_sizes=True)
    assert logits(ours, images()).shape == (2, 7)
    with pytest.raises(ValueError, match="in another shape"):
        load(vit_folder, intermediate_size=95, ignore_mismatched_sizes=True)
    with pytest.raises(RuntimeError, match="mismatch"):
        load(vit_folder, num_labels=7)


def test_auto_classes_find_it(vit_folder: Path, tmp_path: Path) -> None:
    load(vit_folder).save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), OfbViTConfig)
    assert isinstance(AutoModelForImageClassification.from_pretrained(tmp_path), OfbViTForImageClassification)
    assert isinstance(AutoModel.from_pretrained(tmp_path, add_pooling_layer=False), OfbViTModel)


@pytest.mark.parametrize("kind", ["vit", "deit", "no type"])
def test_the_image_processor_of_the_source_loads_without_torchvision(
    classifier_folders: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    source = classifier_folders["deit" if kind == "deit" else "vit"]
    load(source).save_pretrained(tmp_path)
    settings = json.loads((source / "preprocessor_config.json").read_text())
    if kind == "no type":
        del settings["image_processor_type"]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 40, 3), dtype=np.uint8))
    pixel_values = AutoImageProcessor.from_pretrained(tmp_path)(image, return_tensors="pt").pixel_values
    assert pixel_values.shape == (1, 3, 32, 32)
    expected = AutoImageProcessor.from_pretrained(source)(image, return_tensors="pt").pixel_values
    assert difference(pixel_values, expected) == 0


# Other input sizes.


@KINDS
def test_another_size_is_interpolated_as_in_stock(classifier_folders: dict[str, Path], kind: str) -> None:
    stock, ours = load_stock(kind, classifier_folders[kind]), load(classifier_folders[kind])
    for side in (16, 32, 44, 64):
        expected = logits(stock, images(side), interpolate_pos_encoding=True)
        assert difference(expected, logits(ours, images(side), interpolate_pos_encoding=True)) == 0
    wide = torch.randn(1, 3, 24, 40)
    expected = logits(stock, wide, interpolate_pos_encoding=True)
    assert difference(expected, logits(ours, wide, interpolate_pos_encoding=True)) == 0
    with pytest.raises(ValueError, match=r"\(64\*64\) doesn't match model \(32\*32\)"):
        ours(images(64))


@KINDS
@pytest.mark.parametrize("side", [16, 32, 64])
def test_a_resized_model_interpolates_once(
    classifier_folders: dict[str, Path], kind: str, side: int, tmp_path: Path
) -> None:
    ours = load(classifier_folders[kind])
    resized = load(classifier_folders[kind], image_size=side)
    assert resized.config.image_size == side
    assert ours.config.image_size == 32
    expected = logits(ours, images(side), interpolate_pos_encoding=True)
    assert difference(logits(resized, images(side)), expected) == 0
    resized.save_pretrained(tmp_path)
    assert difference(logits(load(tmp_path), images(side)), expected) == 0
    assert count_parameters(resized.config) == resized.num_parameters()


def test_a_resized_backbone_keeps_its_pooler(vit_folder: Path) -> None:
    ours = randomised(OfbViTModel(OfbViTConfig(**TINY_VIT)))
    with torch.no_grad():
        resized = ours.resized(64)(images(64)).pooler_output
        assert difference(resized, ours(images(64), interpolate_pos_encoding=True).pooler_output) == 0
    with pytest.raises(ValueError, match="multiple of the patch size 8, got 60"):
        load(vit_folder, image_size=60)


# Networks of uneven widths.


def by_hand(model: OfbViTForImageClassification, pixel_values: torch.Tensor) -> torch.Tensor:
    """The forward of an uneven network from its weights, head by head, and the config's scale."""
    vit, scale = model.vit, model.config.query_pre_attn_scalar**-0.5
    patches = vit.embeddings.patch_embeddings.projection(pixel_values).flatten(2).mT
    x = torch.cat((vit.embeddings.cls_token.expand(len(patches), -1, -1), patches), 1)
    x = x + vit.embeddings.position_embeddings
    for layer, (heads, dim) in zip(vit.layers, [(2, 16), (1, 4), (3, 16)]):
        normed, attention = layer.layernorm_before(x), layer.attention
        out = attention.o_proj.bias
        for head in range(heads):
            rows = slice(head * dim, (head + 1) * dim)
            q, k, v = (
                F.linear(normed, linear.weight[rows], linear.bias[rows])
                for linear in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            out = out + (q @ k.mT * scale).softmax(-1) @ v @ attention.o_proj.weight[:, rows].T
        x = x + out
        x = x + layer.mlp.fc2(F.gelu(layer.mlp.fc1(layer.layernorm_after(x))))
    return model.classifier(vit.layernorm(x)[:, 0])


@IMPLEMENTATIONS
def test_uneven_layers_compute_what_their_weights_say(implementation: str) -> None:
    model = uneven(query_pre_attn_scalar=25)
    model.set_attn_implementation(implementation)
    assert model.config.layer_widths == ([2, 1, 3], [16, 4, 16], [96, 12, 96])
    assert [layer.attention.head_dim for layer in model.vit.layers] == [16, 4, 16]
    with torch.no_grad():
        expected = by_hand(model, images())
    assert expected.abs().max() > 0.1
    assert torch.allclose(logits(model, images()), expected, atol=1e-5)


def test_the_attention_implementation_can_be_switched_after_loading() -> None:
    model = uneven()
    before = logits(model, images())
    model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = model(images(), output_attentions=True).attentions
    assert [tuple(a.shape) for a in attentions] == [(2, heads, 17, 17) for heads in (2, 1, 3)]
    assert torch.allclose(logits(model, images()), before, atol=1e-5)
    with pytest.raises(ValueError, match="Flex Attention|flex_attention"):
        model.set_attn_implementation("flex_attention")


@pytest.mark.parametrize("tokens", [{}, {"distillation_token": True, "distillation_head": True}])
def test_an_uneven_network_saves_and_loads(tokens: dict[str, bool], tmp_path: Path) -> None:
    model = uneven(query_pre_attn_scalar=25, search={"budget": 3}, **tokens)
    model.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert difference(logits(again, images()), logits(model, images())) == 0
    again.save_pretrained(tmp_path / "again")
    config = (tmp_path / "config.json").read_text()
    assert (tmp_path / "again" / "config.json").read_text() == config
    assert again.config.search == {"budget": 3}
    assert list(json.loads(config)["per_layer_config"]) == ["0", "1"]
    if tokens:
        return
    torch.save({"images": images(), "logits": logits(model, images())}, tmp_path / "expected.pt")
    script = """
import sys, torch
from supersam_hf import OfbViTForImageClassification
expected = torch.load(sys.argv[1] + "/expected.pt")
with torch.no_grad():
    logits = OfbViTForImageClassification.from_pretrained(sys.argv[1])(expected["images"]).logits
print((logits - expected["logits"]).abs().max().item())
"""
    assert float(fresh.run("-c", script, tmp_path, check=True).stdout) == 0


def test_saved_names_are_those_of_the_modules(deit_folder: Path, tmp_path: Path) -> None:
    model = load(deit_folder)
    model.save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == set(model.state_dict())


def test_loads_as_remote_code_without_the_package(
    tmp_path: Path, deit_folder: Path, monkeypatch: pytest.MonkeyPatch, run_python: Callable[..., str]
) -> None:
    """The code files that are saved beside the weights are enough, in a process that cannot see the package."""
    for registered in (OfbViTConfig, OfbViTForImageClassification):
        monkeypatch.setattr(registered, "_auto_class", None)  # forgotten again after the test
    OfbViTConfig.register_for_auto_class()
    OfbViTForImageClassification.register_for_auto_class("AutoModelForImageClassification")
    uneven().save_pretrained(tmp_path / "hub")
    code = {path.name for path in (tmp_path / "hub").glob("*.py")}
    assert code == {"attention_ofb_vit.py", "configuration_ofb_vit.py", "modeling_ofb_vit.py"}
    # a stock DeiT is loaded by the remote class too: the renaming travels with the code
    script = """
import importlib.abc, sys, torch
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "supersam_hf":
            raise ImportError(name)
sys.meta_path.insert(0, Absent())
from transformers import AutoModelForImageClassification
model = AutoModelForImageClassification.from_pretrained(sys.argv[1], trust_remote_code=True)
stock = type(model).from_pretrained(sys.argv[2])
images = torch.load(sys.argv[3])
with torch.no_grad():
    torch.save([model(images).logits, stock(images).logits], sys.argv[3])
"""
    torch.save(images(), tmp_path / "tensors.pt")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    run_python(script, tmp_path / "hub", deit_folder, tmp_path / "tensors.pt")
    remote, stock = torch.load(tmp_path / "tensors.pt")
    assert difference(remote, logits(uneven(), images())) == 0
    assert difference(stock, logits(load(deit_folder), images())) == 0


def test_gradient_checkpointing_changes_no_gradient() -> None:
    plain, checkpointed = uneven(), uneven()
    checkpointed.gradient_checkpointing_enable()
    for model in (plain, checkpointed):
        model.train()(images(), labels=torch.tensor([0, 1])).loss.backward()
    for (name, one), other in zip(plain.named_parameters(), checkpointed.parameters()):
        assert difference(one.grad, other.grad) == 0, name


@IMPLEMENTATIONS
def test_runs_in_bf16_and_autocast(implementation: str) -> None:
    model = uneven()
    model.set_attn_implementation(implementation)
    expected = logits(model, images())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.allclose(logits(model, images()).float(), expected, atol=0.1)
    half = logits(model.to(torch.bfloat16), images())  # fp32 images, as a loader gives them
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.float(), expected, atol=0.1)
    assert model.resized(64).dtype == torch.bfloat16


@pytest.mark.parametrize("tokens", [False, True])
def test_compiles_whole_without_a_break(tokens: bool) -> None:
    model = uneven(distillation_token=tokens, distillation_head=tokens)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.allclose(logits(compiled, images()), logits(model, images()), atol=1e-6)
    torch.compiler.reset()


def test_compiles_layer_by_layer_without_a_break() -> None:
    model = uneven()
    model.set_attn_implementation("eager")
    expected = logits(model, images())
    for layer in model.vit.layers:
        layer.compile(backend="eager", fullgraph=True)
    assert torch.allclose(logits(model, images()), expected, atol=1e-6)
    torch.compiler.reset()


# Labels.


@KINDS
def test_selected_labels_are_those_rows_of_the_heads(
    classifier_folders: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    ours = load(classifier_folders[kind], id2label=dict(enumerate("abcde")))
    expected = logits(ours, images())[:, [3, 0]]
    assert ours.select_labels([3, 0]) is ours
    assert torch.allclose(logits(ours, images()), expected, atol=1e-6)
    assert ours.config.id2label == {0: "d", 1: "a"}
    assert ours.config.label2id == {"d": 0, "a": 1}
    assert ours.config.num_labels == ours.num_labels == 2
    assert ours(images(), labels=torch.tensor([0, 1])).loss.isfinite()
    ours.save_pretrained(tmp_path)
    assert torch.allclose(logits(load(tmp_path), images()), expected, atol=1e-6)


@pytest.mark.parametrize("indices", [[], [1, 1], [5], [-1]])
def test_bad_labels_are_refused(indices: list[int], vit_folder: Path) -> None:
    with pytest.raises(ValueError, match="`indices` must be one or more of the labels 0 to 4"):
        load(vit_folder).select_labels(indices)


@KINDS
def test_a_new_classifier_is_fresh_named_and_seeded(classifier_folders: dict[str, Path], kind: str) -> None:
    ours = load(classifier_folders[kind]).train()
    with torch.no_grad():
        body = ours.vit(images()).last_hidden_state
    names = [f"class {i}" for i in range(200)]
    torch.manual_seed(3)
    assert ours.reset_classifier(names).config.id2label == dict(enumerate(names))
    heads = [ours.classifier, ours.distillation_classifier] if kind == "deit_two_heads" else [ours.classifier]
    for head in heads:
        assert head.weight.std().item() == pytest.approx(ours.config.initializer_range, rel=0.05)
        assert head.bias.abs().max() == 0
        assert head.training
    assert logits(ours, images()).shape == (2, 200)
    weight = ours.classifier.weight.clone()
    torch.manual_seed(3)
    ours.reset_classifier(names)
    assert torch.equal(weight, ours.classifier.weight)
    with torch.no_grad():
        assert difference(ours.vit(images()).last_hidden_state, body) == 0
    with pytest.raises(ValueError, match="`names` must be one or more labels, each once"):
        ours.reset_classifier(["a", "a"])


# The config.


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_attention_heads": 500}, "`head_dim` must be given"),
        ({"distillation_head": True}, "`distillation_token` must be True"),
        ({"image_size": [32, 64]}, "`image_size` must be square"),
        ({"per_layer_config": {0: {"hidden_size": 3}}}, r"layer 0 holds \['hidden_size'\]"),
        (
            {"per_layer_config": {"1": {"head_dim": 0}}},
            "`head_dim` of layer 1 in `per_layer_config` must be 1 or more",
        ),
        ({"per_layer_config": {3: {"head_dim": 4}}}, r"in the range \[0, 3\)"),
    ],
)
def test_bad_configs_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OfbViTConfig(**{**TINY_VIT, **config})


def test_a_stock_config_becomes_ours(deit_folder: Path) -> None:
    config = OfbViTConfig.from_pretrained(deit_folder)
    assert (config.head_dim, config.query_pre_attn_scalar) == (16, 16)
    assert config.layer_widths == ([3] * 3, [16] * 3, [96] * 3)
    assert OfbViTConfig(image_size=[32, 32], patch_size=(8, 8)).image_size == 32
