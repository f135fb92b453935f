"""Elastic LoRA: one adapter for every subnet of a supernet, whose matrices are sliced with the window.

The slice that belongs to one subnet is ordinary LoRA: `lora_extraction` takes it out with the subnet.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftConfig, PeftModel
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from ..models.supersam import ElasticLinear, SuperSamModel
from ..models.supersam.layers_supersam import Windowed, leading


# All elastic linears of the image encoder, and the linears of the mask decoder's attention and MLPs.
DEFAULT_TARGETS = (
    r"vision_encoder\.layers\.\d+\.(attn\.(qkv|proj)|mlp\.lin[12])"
    r"|mask_decoder\.transformer\..+\.([qkv]_proj|out_proj|lin[12])"
)


class ElasticLoraLinear(Windowed, LoraLinear):
    """peft's LoRA of an [`ElasticLinear`] that runs at a window: equal to the full computation, sliced.

    Of an elastic output, the rows of B are sliced; of an elastic input, the columns of A; a head at a time, as the
    weight is. Merging, disabling, several adapters, dropout and rank-stabilised scaling are peft's.
    """

    def update_layer(self, adapter_name: str, r: int, lora_alpha: int, *args: Any, **kwargs: Any) -> None:
        if isinstance(kwargs.get("config"), LoraConfig):
            check_elastic(kwargs["config"])
        super().update_layer(adapter_name, r, lora_alpha, *args, **kwargs)

    def forward(self, x: torch.Tensor, window: int | None = None, **kwargs: Any) -> torch.Tensor:
        """(..., in) to (..., out); the elastic one of the two has `groups * window` channels."""
        if window is None:
            return super().forward(x, **kwargs)
        if kwargs:
            raise ValueError(
                f"Elastic LoRA has no {sorted(kwargs)}: a batch runs one subnet with one set of adapters."
            )
        if self.disable_adapters and self.merged:
            self.unmerge()
        result = self.base_layer(x, window)
        if self.disable_adapters or self.merged:
            return result
        dtype = result.dtype
        for name in self.active_adapters:
            if name in self.lora_A:
                down, up, bias = narrowed_adapter(self, name, window)
                x = self._cast_input_dtype(x, down.dtype)
                result = result + F.linear(F.linear(self.lora_dropout[name](x), down), up, bias) * self.scaling[name]
        return result.to(dtype)


def narrowed_adapter(
    layer: LoraLinear, name: str, window: int | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """A (r, in), B (out, r) and the bias of B, sliced as the [`ElasticLinear`] under them is at `window`, if any."""
    base: Any = layer.get_base_layer()
    lora_a, lora_b = cast(nn.Linear, layer.lora_A[name]), cast(nn.Linear, layer.lora_B[name])
    down: torch.Tensor = lora_a.weight
    up: torch.Tensor = lora_b.weight
    bias: torch.Tensor | None = lora_b.bias
    if window is None:
        return down, up, bias
    if base.elastic == "in":
        return leading(down, window, base.groups, 1), up, bias
    bias = None if bias is None else leading(bias, window, base.groups, 0)
    return down, leading(up, window, base.groups, 0), bias


def elastic_lora_config(
    r: int = 8,
    alpha: int = 16,
    dropout: float = 0.0,
    targets: str | list[str] | None = None,
    **options: Any,
) -> LoraConfig:
    """The `LoraConfig` of an adapter that runs at every window of a supernet, for `peft.get_peft_model`.

    Args:
        r (`int`): Rank.
        alpha (`int`): The adapter's product is scaled by `alpha / r`.
        dropout (`float`): Dropout of the adapter's input, in [0, 1).
        targets (`str` or `list[str]`, *optional*): Names of the linear layers, or a regular expression for them, as
            peft's `target_modules`. Defaults to all elastic layers of the image encoder and the linear layers of the
            mask decoder's attention and MLPs.
        options: Further arguments of `LoraConfig`, such as `use_rslora`.

    Raises:
        ValueError: For a variant of LoRA that cannot be sliced, such as DoRA, or no targets.
    """
    if targets is not None and not targets:
        raise ValueError(f"`targets` must name at least one linear layer, got {targets!r}; None takes the defaults.")
    targets = DEFAULT_TARGETS if targets is None else targets
    config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets, **options)
    return registered(config)


def registered(config: LoraConfig) -> LoraConfig:
    """`config`, checked, whose adapters of elastic layers understand windows."""
    check_elastic(config)
    config._register_custom_module({ElasticLinear: ElasticLoraLinear})
    return config


def check_elastic(config: PeftConfig) -> None:
    """Raises `ValueError`, naming the field, unless this is LoRA that can be sliced with a window."""
    if not isinstance(config, LoraConfig):
        raise ValueError(f"Only LoRA can be sliced with a window, not {str(config.peft_type)}.")
    values, plain = config.to_dict(), LoraConfig().to_dict()
    if values["init_lora_weights"] not in (True, False, "gaussian"):
        raise ValueError(
            f"Elastic LoRA needs an `init_lora_weights` of true, false or gaussian, got "
            f"{values['init_lora_weights']!r}, which changes the weights that it is trained on."
        )
    if values["bias"] != "none":
        raise ValueError(f"Elastic LoRA trains no biases: `bias` must be none, got {values['bias']!r}.")
    sliced = {"r", "lora_alpha", "lora_dropout", "use_rslora", "lora_bias", "rank_pattern", "alpha_pattern"}
    naming = {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "init_lora_weights"}
    about = {"task_type", "peft_type", "peft_version", "auto_mapping", "base_model_name_or_path", "revision"}
    free = {*sliced, *naming, *about, "inference_mode", "runtime_config"}
    refused = sorted(name for name in values if name not in free and values[name] != plain[name])
    if refused:
        raise ValueError(
            f"Elastic LoRA has no {', '.join(f'`{name}`' for name in refused)}: only plain LoRA can be sliced with a "
            "window. Extract a subnet and adapt that with stock peft."
        )


def check_layers(model: nn.Module) -> None:
    """Raises `ValueError`, naming the layer, if anything but linear layers of `model` is adapted: LoRA of a
    convolution or an embedding is no pair of matrices that goes with a window, nor with an extracted subnet."""
    for name, layer in model.named_modules():
        if isinstance(layer, BaseTunerLayer) and not isinstance(layer, LoraLinear):
            raise ValueError(
                f"Elastic LoRA adapts linear layers only, but the targets (`target_modules`) take in {name}, "
                f"a {type(layer.get_base_layer()).__name__}: name the linear layers alone."
            )


def load_elastic_adapter(model: SuperSamModel, name_or_path: Any, **kwargs: Any) -> PeftModel:
    """Puts a saved adapter on a supernet, so that it runs at every window.

    `PeftModel.from_pretrained` gives the same outputs, but runs the adapted layers whole in every subnet.

    Args:
        model ([`SuperSamModel`]): The supernet; changed in place, as peft does.
        name_or_path (`str` or `Path`): Folder or Hub repository of the adapter.
        kwargs: Of `PeftModel.from_pretrained` (`is_trainable`, `revision`, `token`, ...).

    Raises:
        ValueError: If the adapter is not plain LoRA.
    """
    hub = {k: kwargs[k] for k in ("subfolder", "revision", "cache_dir", "token") if k in kwargs}
    config: Any = PeftConfig.from_pretrained(str(name_or_path), **hub)
    return PeftModel.from_pretrained(model, str(name_or_path), config=registered(config), **kwargs)
