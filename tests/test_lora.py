"""Elastic LoRA against stock peft, which runs the adapted layers whole and slices; training, saving, the Hub."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from conftest import tiny_config
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from torch.utils.data import DataLoader

from supersam_hf import ElasticLinear, ElasticSpace, Subnet, SuperSamModel, SuperSamProcessor
from supersam_hf.elastic.lora import ElasticLoraLinear, elastic_lora_config, load_elastic_adapter
from supersam_hf.elastic.lora_extraction import base_model, extract_adapter
from supersam_hf.training.adapt import AdaptArguments, add_adapter, train_adapter
from supersam_hf.training.arguments import lr_factor
from supersam_hf.training.checkpoints import checkpoints
from supersam_hf.training.engine import Engine
from supersam_hf.training.sandwich import SandwichArguments, subnets_of_step
from supersam_hf_cli import main


def space_of(model: SuperSamModel) -> ElasticSpace:
    return ElasticSpace.for_config(model.config, prunable_layers=(1, 2, 3), attention_windows=(24, 36, 48))


def random_adapter(model: Any, config: Any, seed: int = 5) -> Any:
    """The model with an adapter whose matrices are all random: B as well."""
    adapted = get_peft_model(model, config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name or "ia3_" in name:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(1 + 0.3 * noise if "ia3_" in name else 0.1 * noise)
    return adapted


def sampled(space: ElasticSpace, count: int) -> list[Subnet]:
    generator = torch.Generator().manual_seed(0)
    return [space.largest(), space.smallest(), *(space.sample(generator) for _ in range(count))]


@torch.no_grad()
def masks(model: Any, inputs: dict[str, torch.Tensor], **subnet: Any) -> torch.Tensor:
    return model(**inputs, **subnet).pred_masks


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def windowed_input(x: torch.Tensor, layer: Any, window: int) -> torch.Tensor:
    return x.unflatten(-1, (layer.groups, -1))[..., :window].flatten(-2) if layer.elastic == "in" else x


LAYERS = [("out", 1), ("in", 1), ("out", 6), ("in", 3)]


def layer_and_input(elastic: str, groups: int, **options: Any) -> tuple[Any, torch.Tensor]:
    """An adapted elastic layer of 24 channels on each side, and inputs for it."""
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"one": ElasticLinear(24, 24, elastic=elastic, groups=groups)})
    config = elastic_lora_config(r=3, alpha=5, targets=["one"], **options)
    layer: Any = random_adapter(model, config).get_submodule("base_model.model.one")
    assert isinstance(layer, ElasticLoraLinear)
    return layer, torch.randn(2, 7, 24)


@torch.no_grad()
def sliced_truth(layer: Any, x: torch.Tensor, window: int) -> torch.Tensor:
    """The merged weight, written out, on inputs whose channels beyond the window are zero; outputs sliced."""
    base, weight, bias = layer.base_layer, layer.base_layer.weight.clone(), layer.base_layer.bias.clone()
    for name in [] if layer.disable_adapters else layer.active_adapters:
        a, b = layer.lora_A[name], layer.lora_B[name]
        scale = 5 / (3**0.5 if layer.use_rslora[name] else 3)
        weight += scale * b.weight @ a.weight
        bias += 0 if b.bias is None else scale * b.bias
    if base.elastic == "in":
        x = x.clone().unflatten(-1, (base.groups, -1))
        x[..., window:] = 0
        return x.flatten(-2) @ weight.T + bias
    return (x @ weight.T + bias).unflatten(-1, (base.groups, -1))[..., :window].flatten(-2)


@pytest.mark.parametrize(("elastic", "groups"), LAYERS)
@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"lora_bias": True}], ids=["plain", "rslora", "bias"])
def test_a_window_is_the_full_computation_sliced(elastic: str, groups: int, options: dict[str, bool]) -> None:
    layer, x = layer_and_input(elastic, groups, **options)
    full = 24 // groups
    for window in range(1, full + 1):
        result = layer(windowed_input(x, layer.base_layer, window), window)
        assert torch.allclose(result, sliced_truth(layer, x, window), atol=1e-5)
    assert torch.allclose(layer(x), sliced_truth(layer, x, full), atol=1e-5)


@pytest.mark.parametrize(("elastic", "groups"), LAYERS)
@torch.no_grad()
def test_disabling_merging_and_several_adapters_are_pefts(elastic: str, groups: int) -> None:
    layer, x = layer_and_input(elastic, groups)
    window = 24 // groups // 2
    narrow = windowed_input(x, layer.base_layer, window)
    first = layer(narrow, window)

    layer.enable_adapters(False)
    assert torch.equal(layer(narrow, window), layer.base_layer(narrow, window))
    assert difference(layer(narrow, window), first) > 1e-2
    layer.enable_adapters(True)

    weight = layer.base_layer.weight.clone()
    layer.merge(safe_merge=True)
    assert torch.allclose(layer(narrow, window), first, atol=1e-5)
    layer.enable_adapters(False)  # peft unmerges at the next forward
    assert torch.allclose(layer(narrow, window), layer.base_layer(narrow, window))
    assert not layer.merged
    assert torch.allclose(layer.base_layer.weight, weight, atol=1e-6)
    layer.enable_adapters(True)

    layer.update_layer("second", 3, 5, config=elastic_lora_config(r=3, alpha=5, init_lora_weights=False))
    layer.set_adapter(["default", "second"])
    assert torch.allclose(layer(narrow, window), sliced_truth(layer, x, window), atol=1e-5)
    assert difference(layer(narrow, window), first) > 1e-2


def test_a_half_precision_layer_gives_its_own_dtype_and_dropout_acts_in_training_only() -> None:
    layer, x = layer_and_input("out", 1, dropout=0.5)
    layer.base_layer.to(torch.bfloat16)
    result = layer(x.bfloat16(), 8)
    assert result.dtype == torch.bfloat16  # the adapter stays in fp32, as peft keeps it
    assert torch.allclose(result.float(), sliced_truth(layer.to(torch.float32), x, 8), atol=0.1)
    assert torch.equal(layer(x, 8), layer(x, 8))
    layer.train()
    assert not torch.equal(layer(x, 8), layer(x, 8))


REFUSED = [
    ({"use_dora": True}, "`use_dora`"),
    ({"modules_to_save": ["iou_prediction_head"]}, "`modules_to_save`"),
    ({"bias": "all"}, "`bias` must be none"),
    ({"init_lora_weights": "pissa"}, "`init_lora_weights`"),
    ({"use_qalora": True}, "`use_qalora`"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_what_cannot_be_sliced_is_refused(supernet: SuperSamModel, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        elastic_lora_config(**options)
    if "use_dora" in options:  # nor as a second adapter that stock peft is asked for
        adapted = get_peft_model(supernet, elastic_lora_config(r=2))
        with pytest.raises(ValueError, match=message):
            adapted.add_adapter("second", LoraConfig(target_modules=["lin1"], **options))


def test_a_batch_of_mixed_adapters_is_refused(supernet: SuperSamModel, inputs: dict[str, torch.Tensor]) -> None:
    adapted = get_peft_model(supernet, elastic_lora_config(r=2)).eval()
    smallest = space_of(supernet).smallest()
    with pytest.raises(ValueError, match="adapter_names"):
        adapted(**inputs, subnet=smallest, adapter_names=["default", "__base__"])


def test_every_linear_layer_of_encoder_and_decoder_transformer_is_adapted(supernet: SuperSamModel) -> None:
    wanted = {
        name
        for name, module in supernet.named_modules()
        if isinstance(module, torch.nn.Linear)
        and name.startswith(("vision_encoder.layers.", "mask_decoder.transformer."))
    }
    adapted = get_peft_model(supernet, elastic_lora_config(r=2))
    base = adapted.get_base_model()
    assert {name for name, m in base.named_modules() if isinstance(m, peft.tuners.lora.layer.Linear)} == wanted
    elastic = {name for name, m in base.named_modules() if isinstance(m, ElasticLoraLinear)}
    assert elastic == {name for name in wanted if name.startswith("vision_encoder.")}
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert all(".lora_" in name for name in trained)
    assert len(trained) == 2 * len(wanted)


def test_every_subnet_is_what_stock_peft_computes_whole(
    stock_folder: Path, inputs: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    model, twin = (SuperSamModel.from_pretrained(stock_folder).eval() for _ in range(2))
    space = space_of(model)
    adapted = random_adapter(model, elastic_lora_config(r=4))
    adapted.save_pretrained(tmp_path)
    stock = PeftModel.from_pretrained(twin, str(tmp_path)).eval()
    assert not any(isinstance(module, ElasticLoraLinear) for module in stock.modules())
    with adapted.disable_adapter():
        plain = masks(adapted, inputs, subnet=space.smallest())
    assert difference(masks(adapted, inputs, subnet=space.smallest()), plain) > 1e-2
    for subnet in sampled(space, 5):
        assert difference(masks(adapted, inputs, subnet=subnet), masks(stock, inputs, subnet=subnet)) < 1e-5


def test_twenty_random_subnets_equal_the_extracted_ones_merged_and_not(
    supernet: SuperSamModel, inputs: dict[str, torch.Tensor]
) -> None:
    space = space_of(supernet)
    adapted = random_adapter(supernet, elastic_lora_config(r=4))
    before = adapted.state_dict()
    for subnet in sampled(space, 20):
        live = masks(adapted, inputs, subnet=subnet)
        extracted = extract_adapter(adapted, subnet)
        assert not any(isinstance(module, ElasticLoraLinear) for module in extracted.modules())
        assert difference(masks(extracted, inputs), live) <= 5e-6
        merged = extracted.merge_and_unload()
        assert type(merged) is SuperSamModel
        assert difference(masks(merged, inputs), live) <= 1e-5
        assert len(merged.vision_encoder.layers) == len(subnet.layers)
    assert all(torch.equal(value, before[name]) for name, value in adapted.state_dict().items())


def test_merging_the_supernet_merges_every_subnet(supernet: SuperSamModel, inputs: dict[str, torch.Tensor]) -> None:
    subnets = sampled(space_of(supernet), 3)
    adapted = random_adapter(supernet, elastic_lora_config(r=4))
    live = [masks(adapted, inputs, subnet=subnet) for subnet in subnets]
    adapted.merge_adapter()
    with pytest.raises(ValueError, match="unmerge_adapter"):
        extract_adapter(adapted, subnets[1])
    adapted.unmerge_adapter()
    merged = adapted.merge_and_unload()
    for subnet, expected in zip(subnets, live):
        assert difference(masks(merged, inputs, subnet=subnet), expected) <= 1e-5


PATTERNS: list[dict[str, Any]] = [
    {"rank_pattern": {r"layers\.4\.mlp\.lin1": 7}, "alpha_pattern": {r"layers\.5\.attn\.qkv": 40}},
    {"targets": ["lin1", "qkv"], "layers_to_transform": [0, 4, 5], "layers_pattern": "layers"},
    {"targets": r"vision_encoder\.layers\.[45]\..*lin2", "use_rslora": True, "lora_bias": True},
]


@pytest.mark.parametrize("options", PATTERNS, ids=["ranks", "layers", "regex"])
def test_stock_peft_loads_what_was_extracted(
    supernet: SuperSamModel, inputs: dict[str, torch.Tensor], tmp_path: Path, options: dict[str, Any]
) -> None:
    """Numbers of layers in the config are the supernet's; those of the extracted model are others."""
    subnet = space_of(supernet).subnet(removed=(1, 3), mlp_dim=96, head_dim=12)
    adapted = random_adapter(supernet, elastic_lora_config(r=4, **options))
    extracted = extract_adapter(adapted, subnet, base=str(tmp_path / "subnet"))
    base_model(extracted).save_pretrained(tmp_path / "subnet")
    extracted.save_pretrained(tmp_path / "adapter")
    stored = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert stored["base_model_name_or_path"] == str(tmp_path / "subnet")
    base = SuperSamModel.from_pretrained(stored["base_model_name_or_path"]).eval()
    without = masks(base, inputs)
    loaded = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    live = masks(adapted, inputs, subnet=subnet)
    assert difference(masks(loaded, inputs), live) <= 1e-6
    assert difference(without, live) > 1e-3


def test_bad_extractions_are_refused(supernet: SuperSamModel) -> None:
    space = space_of(supernet)
    adapted = get_peft_model(supernet, elastic_lora_config(r=2))
    with pytest.raises(ValueError, match=r"`adapter_name` must be one of \['default'\], got 'other'"):
        extract_adapter(adapted, space.smallest(), adapter_name="other")
    with pytest.raises(ValueError, match="`mlp_dim` of layer 0 is 1000"):
        extract_adapter(adapted, Subnet((0,), (1000,), (16,)))


CONVOLUTION = ["lin1", "neck.conv1"]


def test_other_layers_than_linear_ones_are_never_dropped_in_silence(supernet: SuperSamModel) -> None:
    message = r"linear layers only.*vision_encoder\.neck\.conv1, a Conv2d"
    stock = get_peft_model(supernet, LoraConfig(r=2, target_modules=CONVOLUTION))
    with pytest.raises(ValueError, match=message):
        extract_adapter(stock, space_of(supernet).smallest())
    plain = stock.unload()
    with pytest.raises(ValueError, match=message):
        add_adapter(plain, AdaptArguments(r=2, targets=CONVOLUTION), elastic=True)


def test_a_plain_adapter_may_have_convolutions(supernet: SuperSamModel) -> None:
    adapted = add_adapter(supernet, AdaptArguments(r=2, targets=CONVOLUTION), elastic=False)
    assert any("conv1.lora_A" in name for name, p in adapted.named_parameters() if p.requires_grad)


def test_a_merged_convolution_is_no_base(supernet: SuperSamModel) -> None:
    stock = get_peft_model(supernet, LoraConfig(r=2, target_modules=["neck.conv1"]))
    stock.merge_adapter()
    with pytest.raises(ValueError, match="unmerge_adapter"):
        base_model(stock)


def test_a_subnet_without_any_adapted_layer_is_refused(supernet: SuperSamModel) -> None:
    space = space_of(supernet)
    adapted = get_peft_model(supernet, elastic_lora_config(r=2, targets=["layers.1.attn.qkv"]))
    assert 1 not in space.smallest().layers
    with pytest.raises(ValueError, match="keeps none of the layers that the adapter 'default' adapts"):
        extract_adapter(adapted, space.smallest())
    assert extract_adapter(adapted, space.largest()).peft_config["default"].target_modules


def test_no_targets_are_refused() -> None:
    with pytest.raises(ValueError, match="`targets` must name at least one linear layer"):
        elastic_lora_config(targets=[])


def test_a_revision_stays_with_its_own_repository(supernet: SuperSamModel, tmp_path: Path) -> None:
    from supersam_hf.hub.contents import prepared

    supernet.name_or_path = "org/supernet"
    for base, named, revision in (
        (None, "org/supernet", "v2"),
        ("org/supernet", "org/supernet", "v2"),
        ("org/other", "org/other", None),
    ):
        adapted: Any = add_adapter(supernet, AdaptArguments(r=2, base=base), elastic=True, revision="v2")
        config = adapted.peft_config["default"]
        assert (config.base_model_name_or_path, config.revision) == (named, revision)
        if base is None:
            extracted = extract_adapter(adapted, space_of(supernet).smallest(), base="org/small")
            extracted.save_pretrained(str(tmp_path / "small"), save_embedding_layers=False)  # asks no Hub
            config.base_model_name_or_path = str(tmp_path)  # with the revision that an older adapter may still have
            adapted.save_pretrained(str(tmp_path / "local"), save_embedding_layers=False)
        supernet = adapted.unload()
    small = LoraConfig.from_pretrained(str(tmp_path / "small"))
    assert (small.base_model_name_or_path, small.revision) == ("org/small", None)
    assert json.loads((tmp_path / "local" / "adapter_config.json").read_text())["revision"] == "v2"
    pushed = LoraConfig.from_pretrained(str(prepared(tmp_path / "local", tmp_path / "scratch", {})))
    assert (pushed.base_model_name_or_path, pushed.revision) == (None, None)


def test_scales_cannot_be_sliced(supernet: SuperSamModel, tmp_path: Path) -> None:
    adapted = get_peft_model(supernet, IA3Config(target_modules=["lin2"], feedforward_modules=["lin2"]))
    with pytest.raises(ValueError, match="Only LoRA"):
        extract_adapter(adapted, space_of(supernet).smallest())
    adapted.save_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match="Only LoRA"):
        load_elastic_adapter(adapted.unload(), tmp_path)


def adapted_pair(folder: Path, config: Callable[[], Any]) -> tuple[Any, Any]:
    """The same adapter twice: elastic, and as stock peft wraps it."""
    torch.manual_seed(0)
    elastic = get_peft_model(SuperSamModel.from_pretrained(folder), config())
    torch.manual_seed(0)
    stock_config = config()
    stock_config._custom_modules = None
    return elastic, get_peft_model(SuperSamModel.from_pretrained(folder), stock_config)


def plain_training(
    model: Any, space: ElasticSpace, loader: DataLoader, args: AdaptArguments
) -> dict[str, torch.Tensor]:
    """The sandwich rule on what peft left trainable, in plain PyTorch."""
    rule = SandwichArguments(seed=args.seed, num_sampled=args.num_sampled)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    loader.batch_sampler.begin(0)
    model.train()
    for step, batch in enumerate(loader):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * lr_factor(step, args)
        for subnet in subnets_of_step(space, rule, step).values():
            prompts = {"pixel_values": batch["pixel_values"], "input_boxes": batch["input_boxes"]}
            outputs = model(**prompts, multimask_output=False, subnet=subnet)
            p, t = outputs.pred_masks[:, :, 0].sigmoid(), batch["low_res_masks"].float()
            loss = (1 - 2 * (p * t).sum((-2, -1)) / (p.sum((-2, -1)) + t.sum((-2, -1)))).mean()
            (loss / 3).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step + 1 == args.max_steps:
            break
    return dict(model.named_parameters())


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
def test_elastic_training_is_the_sandwich_rule_on_stock_adapters(
    stock_folder: Path, shapes_loader: Callable, tmp_path: Path, checkpointing: bool
) -> None:
    args = AdaptArguments(max_steps=2, learning_rate=1e-2, r=4, save_steps=0, gradient_checkpointing=checkpointing)
    model, twin = adapted_pair(stock_folder, lambda: elastic_lora_config(r=4))
    space = space_of(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    expected = plain_training(twin, space, shapes_loader(), args)
    train_adapter(model, shapes_loader(), args, tmp_path, space=space)
    moved = 0
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter, expected[name], atol=1e-4), name
        if ".lora_" not in name:
            assert torch.equal(parameter, before[name]), name
        moved += ".lora_" in name and not torch.equal(parameter, before[name])
    assert moved > 20


class Stopped(Exception):
    """The run ends here, as if it were killed."""


def adapted_model(folder: Path, args: AdaptArguments) -> Any:
    model = SuperSamModel.from_pretrained(folder)
    return add_adapter(model, args, elastic=True)


def stop(engine: Engine) -> dict[str, float]:
    raise Stopped


def test_stopped_and_resumed_is_never_stopped_bit_for_bit(
    stock_folder: Path, shapes_loader: Callable, tmp_path: Path
) -> None:
    values: dict[str, Any] = {"max_steps": 7, "learning_rate": 1e-2, "r": 2, "dropout": 0.2, "logging_steps": 1}
    args = AdaptArguments(**values, save_steps=2)
    whole, halves = adapted_model(stock_folder, args), adapted_model(stock_folder, args)
    space = space_of(whole)
    train_adapter(whole, shapes_loader(), args, tmp_path / "whole", space=space)
    stopping = AdaptArguments(**values, save_steps=2, eval_steps=5)
    with pytest.raises(Stopped):
        train_adapter(halves, shapes_loader(), stopping, tmp_path / "halves", space=space, evaluate=stop)
    assert [folder.name for folder in checkpoints(tmp_path / "halves")][-1] == "checkpoint-00000004"
    # written afterwards, so not another training
    resumed_args = AdaptArguments(**values, save_steps=2, merge=True, subnet="smallest", base="org/base")
    resumed = adapted_model(stock_folder, resumed_args)
    train_adapter(resumed, shapes_loader(), resumed_args, tmp_path / "halves", space=space)
    state = resumed.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in whole.state_dict().items())
    other = AdaptArguments(**{**values, "alpha": 3}, save_steps=2)
    with pytest.raises(ValueError, match="another `alpha`"):
        train_adapter(adapted_model(stock_folder, other), shapes_loader(), other, tmp_path / "halves", space=space)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "dora"}, "`method`"),
        ({"r": 0}, "`r`"),
        ({"dropout": 1.0}, "`dropout`"),
        ({"alpha": -1}, "`alpha`"),
        ({"targets": []}, "`targets` must name at least one linear layer"),
    ],
)
def test_bad_arguments_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdaptArguments(**values)


def options(output_dir: Path, model: Path, **changed: object) -> list[str]:
    from test_pipeline import OPTIONS

    data = {key: value for key, value in OPTIONS.items() if key.startswith(("data.", "holdout"))}
    values = {**data, "output_dir": output_dir, "model.name": model, "adapt.max_steps": 4, "adapt.r": 2}
    values |= {"adapt.eval_sampled": 2, **{k.replace("__", "."): v for k, v in changed.items()}}
    return ["adapt", *(str(word) for key, value in values.items() for word in (f"--{key}", value))]


def quality(run: Path, name: str) -> float:
    return {row["name"]: row["after"] for row in json.loads((run / "adapt.json").read_text())["rows"]}[name]


def test_a_supernet_is_adapted_from_the_command_line(
    supersam_run: Path, inputs: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    supernet, run = supersam_run / "supernet", tmp_path / "run"
    words = {
        "adapt__subnet": "smallest",
        "adapt__merge": "true",
        "adapt__learning_rate": "1e-2",
        "adapt__save_steps": 2,
    }
    assert main(options(run, supernet, adapt__eval_steps=2, **words)) == 0
    printed = capsys.readouterr().out
    facts = json.loads((run / "adapt.json").read_text())
    assert (facts["method"], facts["elastic"], facts["base"]) == ("lora", True, str(supernet))
    assert (facts["r"], facts["alpha"], facts["steps"], facts["data"]) == (2, 16, 4, "shapes")
    assert sorted(file.name for file in (run / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert facts["adapter_bytes"] == (run / "adapter" / "adapter_model.safetensors").stat().st_size
    assert [row["name"] for row in facts["rows"]] == ["largest", "smallest", "sampled 1", "sampled 2"]
    assert facts["before"]["miou"] == facts["rows"][0]["before"]
    assert facts["after"]["miou_smallest"] == quality(run, "smallest")
    for row in facts["rows"]:
        assert f"| {row['name']} | {row['params']:,} | {row['before']:.4f} | {row['after']:.4f} |" in printed
    assert "miou_largest" in (run / "adapt" / "log.jsonl").read_text()

    model = SuperSamModel.from_pretrained(supernet).eval()
    space, total = model.elastic_space, sum(p.numel() for p in model.parameters())
    adapted = load_elastic_adapter(model, run / "adapter").eval()
    count = sum(p.numel() for name, p in adapted.named_parameters() if ".lora_" in name)
    assert facts["trainable_params"] == count
    assert facts["total_params"] == count + total
    live = masks(adapted, inputs, subnet=space.smallest())
    subnet = PeftModel.from_pretrained(
        SuperSamModel.from_pretrained(run / "subnet").eval(), str(run / "subnet_adapter")
    ).eval()
    merged = SuperSamModel.from_pretrained(run / "merged").eval()
    assert merged.config.elastic_space == space.to_dict()
    assert difference(masks(subnet, inputs), live) <= 1e-6
    assert difference(masks(merged, inputs, subnet=space.smallest()), live) <= 1e-5

    # once more: nothing is trained or evaluated again
    log = (run / "adapt" / "log.jsonl").read_text()
    assert main(options(run, supernet, adapt__eval_steps=2, **words)) == 0
    again = json.loads((run / "adapt.json").read_text())
    assert again["rows"] == facts["rows"]
    assert again["cost"]["iterations"] == facts["cost"]["iterations"] == 4
    assert (run / "adapt" / "log.jsonl").read_text().splitlines()[0] == log.splitlines()[0]
    assert main(options(run, supernet, adapt__r=3)) == 2
    assert "`r`" in capsys.readouterr().err


def test_the_cost_of_a_training_is_that_of_all_its_sittings(supersam_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("codecarbon")
    from supersam_hf.pipeline.publish import publication

    run = tmp_path / "run"
    words = options(run, supersam_run / "subnet", adapt__save_steps=2)
    assert main(words) == 0
    facts = json.loads((run / "adapt.json").read_text())
    cost = facts["cost"]
    assert cost["energy_kwh"] > 0
    assert cost["iterations"] == 4
    assert facts["hardware"]["device"]
    card = publication(run, "adapter", repo_id="org/lora").card
    assert f"{cost['energy_kwh'] * 1e3:.3g} Wh" in card
    assert f"Energy: {cost['method']}." in card

    # a training that went on from a checkpoint used more than its last sitting did
    shutil.rmtree(run / "adapt" / "checkpoint-00000004")
    assert main(words) == 0
    resumed = json.loads((run / "adapt.json").read_text())
    assert resumed["after"] == facts["after"]
    assert resumed["cost"]["iterations"] == 6
    assert resumed["cost"]["energy_kwh"] > cost["energy_kwh"]
    assert "`adapt` in 2" in publication(run, "adapter", repo_id="org/lora").card


@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_an_extracted_subnet_is_adapted_by_stock_peft(
    supersam_run: Path, inputs: dict[str, torch.Tensor], tmp_path: Path, method: str
) -> None:
    run, words = tmp_path / "run", {"adapt__method": method, "adapt__merge": "true", "adapt__base": "org/small"}
    assert main(options(run, supersam_run / "subnet", adapt__learning_rate="1e-2", **words)) == 0
    facts = json.loads((run / "adapt.json").read_text())
    assert (facts["method"], facts["elastic"], facts["base"]) == (method, False, "org/small")
    assert ("r" in facts) == (method == "lora")
    assert facts["after"] == {"miou": quality(run, "model")}
    base = SuperSamModel.from_pretrained(supersam_run / "subnet").eval()
    without = masks(base, inputs)
    adapted = PeftModel.from_pretrained(base, str(run / "adapter")).eval()
    expected = masks(adapted, inputs)
    assert difference(expected, without) > 1e-4
    assert difference(masks(SuperSamModel.from_pretrained(run / "merged").eval(), inputs), expected) <= 1e-5


@pytest.mark.parametrize(
    ("model", "changed", "message"),
    [
        ("supernet", {"adapt__method": "ia3"}, "not a supernet: choose lora"),
        ("supernet", {"adapt__subnet": "enormous"}, "'enormous'"),
        ("subnet", {"adapt__subnet": "smallest"}, "it is no supernet"),
        ("subnet", {"adapt__targets": "[nowhere]"}, "nowhere"),
        ("subnet", {"adapt__targets": "[]"}, "`adapt.targets` must name at least one linear layer"),
        ("supernet", {"adapt__targets": "[lin1, neck.conv1]"}, "neck.conv1, a Conv2d"),
        ("subnet", {"adapt__r": 0}, "`adapt.r` must be a whole number from 1"),
    ],
)
def test_bad_requests_end_before_any_work(
    supersam_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture, model: str, changed: dict, message: str
) -> None:
    try:
        code = main(options(tmp_path / "run", supersam_run / model, **changed))
    except SystemExit as error:  # values that do not parse
        code = error.code
    assert code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "adapt").exists()


def test_a_subnet_that_keeps_no_adapted_layer_is_refused_before_training(
    supersam_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    space = SuperSamModel.from_pretrained(supersam_run / "supernet").elastic_space
    removed = min(set(space.largest().layers) - set(space.smallest().layers))
    words = {"adapt__targets": f"[layers.{removed}.attn.qkv]", "adapt__subnet": "smallest"}
    assert main(options(tmp_path / "run", supersam_run / "supernet", **words)) == 2
    assert "keeps none of the layers that the adapter 'default' adapts" in capsys.readouterr().err
    assert not (tmp_path / "run" / "adapt").exists()


def test_without_peft_the_command_line_says_what_to_install(
    supersam_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    assert main(options(tmp_path, supersam_run / "subnet")) == 2
    assert "pip install 'supersam-hf[peft]'" in capsys.readouterr().err


def test_base_and_adapter_come_back_from_the_hub(
    hub: Any, supernet: SuperSamModel, inputs: dict[str, torch.Tensor]
) -> None:
    """By peft's own push: of a supernet with elastic LoRA, and of a subnet extracted with its adapter."""
    space = space_of(supernet)
    supernet.config.elastic_space = space.to_dict()
    supernet.push_to_hub("loopback/supernet")
    adapted = random_adapter(SuperSamModel.from_pretrained("loopback/supernet").eval(), elastic_lora_config(r=4))
    live = masks(adapted, inputs, subnet=space.smallest())
    adapted.push_to_hub("loopback/supernet-lora")
    assert adapted.peft_config["default"].base_model_name_or_path == "loopback/supernet"

    extracted = extract_adapter(adapted, space.smallest(), base="loopback/small")
    base_model(extracted).push_to_hub("loopback/small")
    extracted.push_to_hub("loopback/small-lora")

    files = hub.repos["models", "loopback/small-lora"].files()
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(files)
    stored = LoraConfig.from_pretrained("loopback/small-lora")
    base = SuperSamModel.from_pretrained(stored.base_model_name_or_path).eval()
    loaded = PeftModel.from_pretrained(base, "loopback/small-lora").eval()
    assert difference(masks(loaded, inputs), live) <= 1e-6
    again = load_elastic_adapter(
        SuperSamModel.from_pretrained("loopback/supernet"), "loopback/supernet-lora", revision="main"
    ).eval()
    assert difference(masks(again, inputs, subnet=space.smallest()), live) <= 1e-6


STRANGER = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForMaskGeneration
base, adapter, inputs, output = sys.argv[1:]
model = AutoModelForMaskGeneration.from_pretrained(base, trust_remote_code=True).eval()
model = PeftModel.from_pretrained(model, adapter).eval()
with torch.no_grad():
    masks = [model(**torch.load(inputs)).pred_masks, model.merge_and_unload()(**torch.load(inputs)).pred_masks]
torch.save(masks, output)
"""


def test_stock_peft_needs_nothing_of_ours(
    bare_python: str, supernet: SuperSamModel, inputs: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    from supersam_hf.hub import export

    adapted = random_adapter(supernet, elastic_lora_config(r=4))
    subnet = space_of(supernet).sample(torch.Generator().manual_seed(3))
    extracted = extract_adapter(adapted, subnet)
    export(base_model(extracted), tmp_path / "base", processor=SuperSamProcessor.for_config(tiny_config()))
    extracted.save_pretrained(tmp_path / "adapter")
    torch.save(inputs, tmp_path / "inputs.pt")
    paths = [str(tmp_path / name) for name in ("base", "adapter", "inputs.pt", "masks.pt")]
    done = subprocess.run([bare_python, "-c", STRANGER, *paths], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    unmerged, merged = torch.load(tmp_path / "masks.pt")
    live = masks(adapted, inputs, subnet=subnet)
    assert difference(unmerged, live) <= 1e-6
    assert difference(merged, live) <= 1e-5


@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_a_found_vit_is_adapted_by_stock_peft(method: str, tmp_path: Path) -> None:
    """Uneven layers, as OFB's search leaves them: trained by the package's own training, saved, loaded, merged."""
    from classify_script import LABELS, stripes
    from test_ofb_vit import uneven

    from supersam_hf import OfbViTForImageClassification
    from supersam_hf.training.finetune import ClassifierFinetuneArguments, finetune_classifier

    model = uneven(num_labels=len(LABELS), image_size=16)
    model.save_pretrained(tmp_path / "base")
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"]
    config: Any = LoraConfig(r=2, target_modules=targets)
    if method == "ia3":
        config = IA3Config(target_modules=["k_proj", "v_proj", "fc2"], feedforward_modules=["fc2"])
    config.modules_to_save = ["classifier"]
    torch.manual_seed(0)
    adapted = get_peft_model(model, config)
    # drop path, layer decay and the average see the wrapped model as they see any other
    args = ClassifierFinetuneArguments(max_steps=3, warmup_steps=0, learning_rate=1e-2, ema_decay=0.9, save_steps=0)
    loader = stripes()
    weight = model.vit.layers[0].mlp.fc2.base_layer.weight.clone()
    finetune_classifier(adapted.get_base_model(), loader, args, tmp_path / "train")
    assert torch.equal(model.vit.layers[0].mlp.fc2.base_layer.weight, weight)
    trained = adapted.eval()
    trained.save_pretrained(str(tmp_path / "adapter"))
    pixels = next(iter(loader))["pixel_values"]
    with torch.no_grad():
        expected = trained(pixel_values=pixels).logits
        base = OfbViTForImageClassification.from_pretrained(tmp_path / "base").eval()
        without = base(pixels).logits
        loaded: Any = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
        assert difference(loaded(pixel_values=pixels).logits, expected) <= 1e-6
        assert difference(without, expected) > 1e-4
        merged = loaded.merge_and_unload()
        assert type(merged) is OfbViTForImageClassification
        assert difference(merged(pixels).logits, expected) <= 1e-5
