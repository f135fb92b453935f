"""A subnet taken out of an adapted supernet: the extracted model with its slice of the adapter, as ordinary LoRA."""

import copy
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer

from ..models.supersam import Subnet, SuperSamModel
from ..models.supersam.extraction_supersam import LAYERS
from .lora import check_elastic, check_layers, narrowed_adapter


# An adapted layer, and the window it is taken out at; None: it is not elastic.
Adapted = tuple[LoraLinear, int | None]


def extract_adapter(
    model: PeftModel, subnet: Subnet, *, adapter_name: str = "default", base: str | None = None
) -> PeftModel:
    """The extracted subnet with its slice of the adapter, as ordinary LoRA.

    `save_pretrained` writes an adapter that stock peft loads on the extracted subnet; `merge_and_unload` gives a
    [`SuperSamModel`]. The outputs are those of the adapted supernet at `subnet`.

    Args:
        model (`PeftModel`): A supernet with an adapter, elastic or stock; left as it is.
        subnet ([`Subnet`]): Which.
        adapter_name (`str`): Which adapter.
        base (`str`, *optional*): Folder or Hub repository of the extracted subnet, for the adapter's
            `base_model_name_or_path`.

    Raises:
        ValueError: If the subnet does not fit or keeps no adapted layer, there is no such adapter, it is no plain LoRA
            of linear layers or is merged.
    """
    if adapter_name not in model.peft_config:
        raise ValueError(f"`adapter_name` must be one of {sorted(model.peft_config)}, got {adapter_name!r}.")
    config: Any = copy.deepcopy(model.peft_config[adapter_name])
    check_elastic(config)
    extracted = base_model(model).extract(subnet)
    layers = adapted_layers(model, subnet, adapter_name)
    _name_layers(config, layers, adapter_name)
    # on the meta device until its weights come: nothing is drawn at random
    adapted: Any = get_peft_model(extracted, config, low_cpu_mem_usage=True)
    state = adapter_state(layers, adapter_name)
    set_peft_model_state_dict(adapted, state, low_cpu_mem_usage=True)
    # a revision of the supernet's repository is none of the subnet's
    config.base_model_name_or_path, config.revision = base, None
    return adapted.train(model.training)


def _name_layers(config: LoraConfig, layers: dict[str, Adapted], adapter_name: str) -> None:
    """Makes `config` name the extracted model's layers one by one: numbers in its patterns are the supernet's."""
    ranks = {name: layer.r[adapter_name] for name, (layer, _) in layers.items()}
    alphas = {name: layer.lora_alpha[adapter_name] for name, (layer, _) in layers.items()}
    config.target_modules = list(layers)
    config.exclude_modules = config.layers_to_transform = config.layers_pattern = config._custom_modules = None
    config.rank_pattern = {name: r for name, r in ranks.items() if r != config.r}
    config.alpha_pattern = {name: alpha for name, alpha in alphas.items() if alpha != config.lora_alpha}


def base_model(model: PeftModel) -> SuperSamModel:
    """The model under the adapters: its own weights, shared and not wrapped.

    Raises:
        ValueError: If an adapter is merged into them.
    """
    wrapped: Any = model.get_base_model()
    if any(layer.merged for layer in wrapped.modules() if isinstance(layer, BaseTunerLayer)):
        raise ValueError("The adapter is merged into the weights: call `unmerge_adapter()` first.")
    weights = {k.replace(".base_layer.", "."): v for k, v in wrapped.state_dict().items() if ".lora_" not in k}
    with torch.device("meta"):
        base = SuperSamModel(wrapped.config)
    base.load_state_dict(weights, assign=True)
    return base.train(model.training)


def adapted_layers(model: PeftModel, subnet: Subnet, adapter_name: str) -> dict[str, Adapted]:
    """The adapted layers that `subnet` keeps, by their names in the extracted model, each with its window (None: it
    is not elastic).

    Raises:
        ValueError: If there are none, or something other than linear layers is adapted.
    """
    check_layers(model.get_base_model())
    layers: dict[str, Adapted] = {}
    for name, layer in model.get_base_model().named_modules():
        if not isinstance(layer, LoraLinear) or adapter_name not in layer.lora_A:
            continue
        if not name.startswith(LAYERS):
            layers[name] = (layer, None)
            continue
        number, part = name.removeprefix(LAYERS).split(".", 1)
        if int(number) in subnet.layers:
            new = subnet.layers.index(int(number))
            window = subnet.mlp_dim[new] if part.startswith("mlp.") else subnet.head_dim[new]
            layers[f"{LAYERS}{new}.{part}"] = (layer, window)
    if not layers:
        raise ValueError(
            f"The subnet keeps none of the layers that the adapter {adapter_name!r} adapts: of the encoder it keeps "
            f"layers {list(subnet.layers)}. Choose other targets or another subnet."
        )
    return layers


def adapter_state(layers: dict[str, Adapted], adapter_name: str) -> dict[str, torch.Tensor]:
    """Copies of the layers' A and B at their windows, named as in an adapter's file."""
    state: dict[str, torch.Tensor] = {}
    for name, (layer, window) in layers.items():
        down, up, bias = narrowed_adapter(layer, adapter_name, window)
        tensors = {"lora_A.weight": down, "lora_B.weight": up, "lora_B.bias": bias}
        state |= {f"base_model.model.{name}.{k}": v.detach().clone() for k, v in tensors.items() if v is not None}
    return state
