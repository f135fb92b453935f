"""What transformers' own tests ask of every model: ours pass where the stock class does."""

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_config
from transformers import (
    DeiTConfig,
    DeiTForImageClassification,
    PreTrainedModel,
    SamModel,
    SamVisionConfig,
    SamVisionModel,
    SwinConfig,
    SwinForImageClassification,
    SwinModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from supersam_hf import (
    OfbSwinConfig,
    OfbSwinForImageClassification,
    OfbSwinModel,
    OfbViTConfig,
    OfbViTForImageClassification,
    OfbViTForSemanticSegmentation,
    OfbViTModel,
    SuperSamConfig,
    SuperSamModel,
    SuperSamVisionConfig,
    SuperSamVisionModel,
)


VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
VIT |= {"image_size": 30, "patch_size": 5, "num_labels": 3}
SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [1, 2], "num_heads": [2, 2], "window_size": 2}
SWIN |= {"num_labels": 3}
SAM = tiny_config(num_hidden_layers=2, global_attn_indexes=[1]).to_dict()
for part in ("model_type", "transformers_version", "architectures"):
    SAM.pop(part, None)
VISION = SAM["vision_config"]


@dataclass(frozen=True)
class Family:
    """A class, its config, and the values of a small one."""

    model: type[Any]
    config: type[Any]
    values: dict[str, Any]
    side: int
    prompts: bool = False

    def new(self, attention: str = "sdpa") -> Any:
        torch.manual_seed(0)
        config = self.config(**copy.deepcopy(self.values))
        return self.model._from_config(config, attn_implementation=attention).eval()

    def inputs(self) -> dict[str, torch.Tensor]:
        pixels = torch.randn(2, 3, self.side, self.side, generator=torch.Generator().manual_seed(1))
        boxes = {"input_boxes": torch.tensor([[[5.0, 6.0, 30.0, 40.0]]] * 2)} if self.prompts else {}
        return {"pixel_values": pixels, **boxes}


DISTILLED = {**VIT, "distillation_token": True}
STOCK = {
    "vit": Family(ViTModel, ViTConfig, VIT, 30),
    "vit-classifier": Family(ViTForImageClassification, ViTConfig, VIT, 30),
    "deit-classifier": Family(DeiTForImageClassification, DeiTConfig, VIT, 30),
    "swin": Family(SwinModel, SwinConfig, SWIN, 32),
    "swin-classifier": Family(SwinForImageClassification, SwinConfig, SWIN, 32),
    "sam": Family(SamModel, tiny_config().__class__, {k: SAM[k] for k in SAM if k.endswith("_config")}, 64, True),
    "sam-vision": Family(SamVisionModel, SamVisionConfig, VISION, 64),
}
OURS = {
    "vit": Family(OfbViTModel, OfbViTConfig, VIT, 30),
    "vit-classifier": Family(OfbViTForImageClassification, OfbViTConfig, VIT, 30),
    "vit-segmenter": Family(OfbViTForSemanticSegmentation, OfbViTConfig, {**VIT, "segmentation_channels": 8}, 30),
    "deit-classifier": Family(OfbViTForImageClassification, OfbViTConfig, DISTILLED, 30),
    "swin": Family(OfbSwinModel, OfbSwinConfig, SWIN, 32),
    "swin-classifier": Family(OfbSwinForImageClassification, OfbSwinConfig, SWIN, 32),
    "sam": Family(SuperSamModel, SuperSamConfig, STOCK["sam"].values, 64, True),
    "sam-vision": Family(SuperSamVisionModel, SuperSamVisionConfig, VISION, 64),
}
for values in (*(f.values for f in STOCK.values()), *(f.values for f in OURS.values())):
    for name in ("vision_config", "prompt_encoder_config", "mask_decoder_config"):
        values.get(name, {}).pop("model_type", None)
VISION.pop("model_type", None)
FAMILIES = {**{f"stock-{name}": f for name, f in STOCK.items()}, **{f"ours-{name}": f for name, f in OURS.items()}}


def flat(outputs: Any) -> list[torch.Tensor]:
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    values = outputs.values() if isinstance(outputs, dict) else outputs
    return [tensor for value in values if value is not None for tensor in flat(value)]


def same(a: Any, b: Any) -> bool:
    a, b = flat(a), flat(b)
    return len(a) == len(b) > 0 and all(torch.equal(one, other) for one, other in zip(a, b))


def depth(family: Family) -> int:
    config = family.config(**copy.deepcopy(family.values))
    vision = getattr(config, "vision_config", config)
    return len(vision.depths) if "depths" in family.values else vision.num_hidden_layers


# Checks. Each raises if the class does not pass.


def config_round_trip(family: Family, folder: Path) -> None:
    config = family.config(**copy.deepcopy(family.values))
    config.save_pretrained(folder)
    assert family.config.from_pretrained(folder).to_dict() == config.to_dict()
    assert family.config.from_dict(config.to_dict()).to_dict() == config.to_dict()
    config.to_json_file(folder / "other.json")
    assert family.config.from_json_file(folder / "other.json").to_dict() == config.to_dict()
    assert copy.deepcopy(config).to_dict() == config.to_dict()


def config_properties(family: Family, folder: Path) -> None:
    config = family.config(**copy.deepcopy(family.values))
    part = getattr(config, "vision_config", config)
    for name in ("hidden_size", "num_attention_heads", "num_hidden_layers"):
        assert part.to_dict().get(name, 1) is not None
    assert family.config().to_dict()
    assert family.config(hidden_size=37).hidden_size if "hidden_size" in family.values else True


def config_labels(family: Family, folder: Path) -> None:
    own = ("num_labels", "id2label", "label2id")
    values = {k: v for k, v in copy.deepcopy(family.values).items() if k not in own}
    config = family.config(**values, num_labels=5)
    assert len(config.id2label) == len(config.label2id) == 5
    config.num_labels = 3
    assert len(config.id2label) == len(config.label2id) == 3
    assert family.config(**values, id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1}).num_labels == 2


def hidden_states(family: Family, folder: Path) -> None:
    """By argument and by config, of one length and shape."""
    model = family.new()
    by_argument = _states(model(**family.inputs(), output_hidden_states=True))
    model = family.new()
    model.config.output_hidden_states = True
    for part in ("vision_config", "mask_decoder_config"):
        if part in model.config.to_dict():
            getattr(model.config, part).output_hidden_states = True
    by_config = _states(model(**family.inputs()))
    assert len(by_argument) == len(by_config) == depth(family) + 1
    assert all(torch.equal(a, b) for a, b in zip(by_argument, by_config))
    assert _states(family.new()(**family.inputs(), output_hidden_states=False)) is None


def hidden_states_of_a_config_can_be_left_out(family: Family, folder: Path) -> None:
    model = family.new()
    model.config.output_hidden_states = True
    assert _states(model(**family.inputs(), output_hidden_states=False)) is None


def attentions(family: Family, folder: Path) -> None:
    model = family.new("eager")
    by_argument = _attentions(model(**family.inputs(), output_attentions=True))
    model = family.new("eager")
    model.config.output_attentions = True
    if "vision_config" in model.config.to_dict():
        model.config.vision_config.output_attentions = True
    by_config = _attentions(model(**family.inputs()))
    assert len(by_argument) == len(by_config) == depth(family)
    assert all(torch.equal(a, b) for a, b in zip(by_argument, by_config))


def tuples(family: Family, folder: Path) -> None:
    """`return_dict=False`, with and without hidden states."""
    model = family.new()
    for more in ({}, {"output_hidden_states": True}):
        whole = model(**family.inputs(), return_dict=True, **more)
        plain = model(**family.inputs(), return_dict=False, **more)
        assert isinstance(plain, tuple)
        assert same(plain, whole.to_tuple())


def tuples_by_config(family: Family, folder: Path) -> None:
    model = family.new()
    whole = model(**family.inputs())
    model.config.return_dict = False
    plain = model(**family.inputs())
    assert isinstance(plain, tuple)
    assert same(plain, whole.to_tuple())


def retained_gradients(family: Family, folder: Path) -> None:
    model = family.new("eager")
    outputs = model(**family.inputs(), output_hidden_states=True, output_attentions=True)
    states, weights = _states(outputs), _attentions(outputs)
    states[0].retain_grad(), weights[0].retain_grad()
    first = next(value for key, value in outputs.items() if key in ("last_hidden_state", "logits", "pred_masks"))
    first.flatten()[0].backward(retain_graph=True)
    assert states[0].grad is not None
    assert weights[0].grad is not None


def saved(family: Family, folder: Path) -> None:
    model = family.new()
    before = model(**family.inputs())
    model.save_pretrained(folder)
    loaded, info = family.model.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert same(before, loaded.eval()(**family.inputs()))
    assert same(before, family.model.from_pretrained(folder, config=model.config).eval()(**family.inputs()))
    assert family.model.from_pretrained(folder, dtype=torch.bfloat16).dtype == torch.bfloat16


def determinism(family: Family, folder: Path) -> None:
    model = family.new()
    assert same(model(**family.inputs()), model(**family.inputs()))


def signature(family: Family, folder: Path) -> None:
    assert next(iter(inspect.signature(family.model.forward).parameters.values())).name == "self"
    assert list(inspect.signature(family.model.forward).parameters)[1] == "pixel_values"
    assert family.model.main_input_name == "pixel_values"


def initialisation(family: Family, folder: Path) -> None:
    """From a config, from its class, and again by `init_weights`: finite and of the same spread."""
    values = copy.deepcopy(family.values)
    config = family.config(**values)
    torch.manual_seed(0)
    made = family.model(config)
    torch.manual_seed(0)
    other = family.model._from_config(config)
    assert type(other) is family.model
    for name, value in made.state_dict().items():
        assert torch.isfinite(value).all(), name
    spread = {name: value.float().std() for name, value in made.named_parameters() if value.numel() > 64}
    assert all(s < 1.5 for s in spread.values())


def missing_weights_are_initialised(family: Family, folder: Path) -> None:
    """From the meta device, every parameter and buffer gets a value."""
    config = family.config(**copy.deepcopy(family.values))
    with torch.device("meta"):
        model = family.model(config)
    model.to_empty(device="cpu")
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data.fill_(float("nan"))
    for module in model.modules():
        module._is_hf_initialized = False
    model.init_weights()
    named = (*model.named_parameters(), *model.named_buffers())
    assert [name for name, value in named if not torch.isfinite(value).all()] == []


def checkpointing(family: Family, folder: Path) -> None:
    model = family.new()
    grads = []
    for on in (False, True):
        model.train()
        torch.manual_seed(0)
        if on:
            model.gradient_checkpointing_enable()
            assert model.is_gradient_checkpointing
        outputs = model(**family.inputs())
        model.zero_grad()
        flat(outputs)[0].float().square().mean().backward()
        grads.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    assert all(torch.allclose(grads[0][n], grads[1][n], atol=1e-6) for n in grads[0])
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing


def embeddings(family: Family, folder: Path) -> None:
    assert isinstance(family.new().get_input_embeddings(), torch.nn.Module)


def double_batch(family: Family, folder: Path) -> None:
    """One image alone gives what it gives in a batch."""
    model, inputs = family.new(), family.inputs()
    alone = model(**{name: value[:1] for name, value in inputs.items()})
    for one, both in zip(flat(alone), flat(model(**inputs))):
        torch.testing.assert_close(one, both[:1], atol=1e-4, rtol=1e-4)


CHECKS: list[Callable[[Family, Path], None]] = [
    config_round_trip,
    config_properties,
    config_labels,
    hidden_states,
    hidden_states_of_a_config_can_be_left_out,
    attentions,
    tuples,
    tuples_by_config,
    retained_gradients,
    saved,
    determinism,
    signature,
    initialisation,
    missing_weights_are_initialised,
    checkpointing,
    embeddings,
    double_batch,
]


def _states(outputs: Any) -> Any:
    return outputs.get("hidden_states", outputs.get("vision_hidden_states"))


def _attentions(outputs: Any) -> Any:
    return outputs.get("attentions", outputs.get("vision_attentions"))


def problem(check: Callable[[Family, Path], None], family: Family, folder: Path) -> str | None:
    try:
        check(family, folder)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", OURS)
def test_ours_pass_what_the_stock_class_passes(
    name: str, check: Callable[[Family, Path], None], tmp_path: Path
) -> None:
    stock = STOCK.get(name)
    found = problem(check, OURS[name], tmp_path / "ours")
    expected = None if stock is None else problem(check, stock, tmp_path / "stock")
    assert found is None or expected is not None, found
    assert isinstance(OURS[name].new(), PreTrainedModel)


@pytest.mark.parametrize("hidden_size", [32, 37])
def test_a_width_that_the_heads_do_not_divide_is_rounded_down_as_in_stock(hidden_size: int) -> None:
    values = {**VIT, "hidden_size": hidden_size, "num_attention_heads": 12}
    torch.manual_seed(0)
    stock, ours = ViTModel(ViTConfig(**values)).eval(), OfbViTModel(OfbViTConfig(**values)).eval()
    ours.load_state_dict(stock.state_dict())
    inputs = OURS["vit"].inputs()
    assert torch.equal(ours(**inputs).pooler_output, stock(**inputs).pooler_output)
    assert OfbViTConfig(hidden_size=hidden_size).head_dim == hidden_size // 12
    assert OfbSwinConfig(embed_dim=37).block_head_dims[0] == 37 // 3
    assert SuperSamVisionConfig(hidden_size=hidden_size).head_dim == hidden_size // 12


def test_a_segmenter_gives_hidden_states_where_its_config_says_so() -> None:
    model = OURS["vit-segmenter"].new()
    model.config.output_hidden_states = True
    labels = torch.zeros(2, 30, 30, dtype=torch.long)
    outputs = model(**OURS["vit-segmenter"].inputs(), labels=labels)
    assert len(outputs.hidden_states) == 3
    assert torch.isfinite(outputs.loss)
    model.config.return_dict = False
    loss, logits, states = model(**OURS["vit-segmenter"].inputs(), labels=labels)
    assert torch.equal(loss, outputs.loss)
    assert torch.equal(logits, outputs.logits)
    assert len(states) == 3
