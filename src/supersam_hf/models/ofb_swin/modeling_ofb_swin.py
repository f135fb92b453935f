"""PyTorch OFB Swin: stock Swin, whose stages and blocks may each have widths of their own."""

from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.swin.modeling_swin import (
    SwinAttention,
    SwinDropPath,
    SwinEmbeddings,
    SwinEncoder,
    SwinForImageClassification,
    SwinLayer,
    SwinMLP,
    SwinModel,
    SwinPatchMerging,
    SwinPreTrainedModel,
    SwinRelativePositionBias,
    SwinStage,
)
from transformers.utils.output_capturing import OutputRecorder

from .configuration_ofb_swin import OfbSwinConfig


# transformers renames the tensors of older checkpoints by model type: without this, most would stay random. Registered
# here, and not by the package, so that it also works as remote code.
register_checkpoint_conversion_mapping(
    OfbSwinConfig.model_type, get_checkpoint_conversion_mapping("swin"), overwrite=True
)

HEAD = "classifier."
# Checkpoints with these architectures have no classifier: a new one is no missing weight.
BACKBONES = ("SwinModel", "OfbSwinModel")


class OfbSwinAttention(SwinAttention):
    """Stock Swin's attention with any number of heads of any width; the logits are scaled by the original head
    width."""

    def __init__(self, config: OfbSwinConfig, dim: int, num_heads: int, head_dim: int, scalar: int) -> None:
        nn.Module.__init__(self)
        self.config = config
        self.head_dim = head_dim
        self.attention_dropout = config.attention_probs_dropout_prob
        self.scaling = scalar**-0.5
        self.is_causal = False
        width = num_heads * head_dim
        self.q_proj = nn.Linear(dim, width, bias=config.qkv_bias)
        self.k_proj = nn.Linear(dim, width, bias=config.qkv_bias)
        self.v_proj = nn.Linear(dim, width, bias=config.qkv_bias)
        self.o_proj = nn.Linear(width, dim)
        self.relative_position_bias = SwinRelativePositionBias(num_heads, (config.window_size, config.window_size))


class OfbSwinMLP(SwinMLP):
    """Stock Swin's MLP with any number of hidden units."""

    def __init__(self, config: OfbSwinConfig, dim: int, intermediate_size: int) -> None:
        nn.Module.__init__(self)
        self.activation_fn = ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(dim, intermediate_size)
        self.fc2 = nn.Linear(intermediate_size, dim)


class OfbSwinLayer(SwinLayer):
    """Stock Swin's block at its own widths (heads, channels a head, hidden units)."""

    def __init__(
        self,
        config: OfbSwinConfig,
        dim: int,
        widths: tuple[int, int, int],
        scalar: int,
        drop_path_rate: float,
        shift_size: int,
    ) -> None:
        GradientCheckpointingLayer.__init__(self)
        num_heads, head_dim, intermediate_size = widths
        self.attention = OfbSwinAttention(config, dim, num_heads, head_dim, scalar)
        self.layernorm_before = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.layernorm_after = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.mlp = OfbSwinMLP(config, dim, intermediate_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.window_size = config.window_size
        self.shift_size = shift_size
        self.drop_path = SwinDropPath(drop_path_rate) if drop_path_rate > 0.0 else nn.Identity()


class OfbSwinPatchMerging(SwinPatchMerging):
    """Stock Swin's patch merging between stages of any two widths."""

    def __init__(self, dim: int, next_dim: int) -> None:
        nn.Module.__init__(self)
        self.reduction = nn.Linear(4 * dim, next_dim, bias=False)
        self.norm = nn.LayerNorm(4 * dim)


class OfbSwinStage(SwinStage):
    """Stock Swin's stage at its own width, with blocks of their own widths."""

    def __init__(self, config: OfbSwinConfig, stage: int, drop_path: list[float]) -> None:
        GradientCheckpointingLayer.__init__(self)
        sizes: Any = config.hidden_sizes
        scalars: Any = config.query_pre_attn_scalars
        self.config = config
        self.blocks = nn.ModuleList(
            OfbSwinLayer(config, sizes[stage], widths, scalars[stage], rate, i % 2 * (config.window_size // 2))
            for i, (widths, rate) in enumerate(zip(config.stage_widths[stage], drop_path))
        )
        last = stage + 1 == len(sizes)
        self.downsample = None if last else OfbSwinPatchMerging(sizes[stage], sizes[stage + 1])


class OfbSwinPreTrainedModel(SwinPreTrainedModel):
    """Loading, and what transformers asks of a model family."""

    config: OfbSwinConfig
    config_class = OfbSwinConfig
    base_model_prefix = "swin"
    _no_split_modules = ["OfbSwinStage"]
    # declared only where it was run
    _supports_attention_backend = False
    _can_record_outputs = {
        "hidden_states": OutputRecorder(OfbSwinStage, index=0, capture_initial_hidden_state=True),
        "attentions": OutputRecorder(OfbSwinStage, index=2, capture_initial_hidden_state=False),
    }

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """Loads an OFB Swin, or any stock Swin checkpoint, from the Hub or a folder.

        Raises:
            ValueError: For a checkpoint of another architecture, or one that lacks weights of this model or holds
                others (only a classifier may be new, or left out).
        """
        with_info = kwargs.pop("output_loading_info", False)
        loaded: Any = super().from_pretrained(
            pretrained_model_name_or_path, *model_args, output_loading_info=True, **kwargs
        )
        model, info = loaded
        _check_loaded(model, info, pretrained_model_name_or_path)
        return (model, info) if with_info else model

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Saves under the names that the modules have here: as in transformers, but the names of the original
        checkpoint are not restored (`save_original_format=True` would), which another model could not load."""
        super().save_pretrained(*args, **{"save_original_format": False, **kwargs})


class OfbSwinEncoder(OfbSwinPreTrainedModel, SwinEncoder):
    """The stages."""

    def __init__(self, config: OfbSwinConfig) -> None:
        PreTrainedModel.__init__(self, config)
        self.num_layers = len(config.depths)
        blocks = sum(config.depths)
        rates = iter([config.drop_path_rate * i / max(blocks - 1, 1) for i in range(blocks)])
        self.layers = nn.ModuleList(
            OfbSwinStage(config, stage, [next(rates) for _ in range(depth)])
            for stage, depth in enumerate(config.depths)
        )
        self.post_init()


class OfbSwinModel(OfbSwinPreTrainedModel, SwinModel):
    """The backbone of a Swin: loads `SwinModel` and classifiers. Forward as stock [`SwinModel`]'s."""

    def __init__(self, config: OfbSwinConfig, add_pooling_layer: bool = True, use_mask_token: bool = False) -> None:
        PreTrainedModel.__init__(self, config)
        self.num_layers = len(config.depths)
        self.num_features = config.hidden_size
        self.embeddings = SwinEmbeddings(config, use_mask_token=use_mask_token)
        self.encoder = OfbSwinEncoder(config)
        self.layernorm = nn.LayerNorm(self.num_features, eps=config.layer_norm_eps)
        self.pooler = nn.AdaptiveAvgPool1d(1) if add_pooling_layer else None
        self.post_init()


class OfbSwinForImageClassification(OfbSwinPreTrainedModel, SwinForImageClassification):
    """A Swin classifier, or the smaller network that an OFB search left of one. Forward as stock
    [`SwinForImageClassification`]'s.

    `OfbSwinForImageClassification.from_pretrained("microsoft/swin-tiny-patch4-window7-224")` loads any Swin
    checkpoint and gives its outputs.
    """

    def __init__(self, config: OfbSwinConfig) -> None:
        PreTrainedModel.__init__(self, config)
        self.num_labels = config.num_labels or 0
        self.swin = OfbSwinModel(config)
        self.classifier = nn.Linear(self.swin.num_features, self.num_labels) if self.num_labels > 0 else nn.Identity()
        self.post_init()

    def select_labels(self, indices: Sequence[int]) -> "OfbSwinForImageClassification":
        """Keeps these labels, in this order: rows of the head, and the config's names.

        In place; returns the model itself.

        Raises:
            ValueError: If `indices` is empty, repeats a label or holds one that the model does not have.
        """
        id2label: Any = self.config.id2label
        if not indices or len(set(indices)) != len(indices) or not set(indices) <= set(id2label):
            raise ValueError(
                f"`indices` must be one or more of the labels 0 to {len(id2label) - 1}, each once, got "
                f"{list(indices)}."
            )
        rows = {key: value[list(indices)] for key, value in self.classifier.state_dict().items()}
        self._new_head([id2label[i] for i in indices]).load_state_dict(rows)
        return self

    def reset_classifier(self, names: Sequence[str]) -> "OfbSwinForImageClassification":
        """A new, random head for labels of these names.

        In place; returns the model itself. Seeded by torch's global generator.

        Raises:
            ValueError: If `names` is empty or repeats a name.
        """
        if not names or len(set(names)) != len(names):
            raise ValueError(f"`names` must be one or more labels, each once, got {list(names)}.")
        head = self._new_head(list(names))
        nn.init.normal_(head.weight, std=self.config.initializer_range)
        nn.init.zeros_(head.bias)
        return self

    def _new_head(self, names: list[str]) -> nn.Linear:
        """Puts a head for these labels in the place of the old one."""
        like = self.swin.layernorm.weight
        head = nn.Linear(len(like), len(names), device=like.device, dtype=like.dtype).train(self.training)
        self.classifier = head
        self.config.id2label = dict(enumerate(names))
        self.config.label2id = {name: i for i, name in enumerate(names)}
        # derived by `loss_function` from the number of labels: let it do so again
        if self.config.problem_type == "single_label_classification":
            self.config.problem_type = None
        self.num_labels = len(names)
        return head


def _check_loaded(model: Any, info: dict[str, Any], source: Any) -> None:
    """Raises `ValueError` for weights that stayed random or were left out, but for a head that is meant to be."""
    mismatched = sorted(key for key, *_ in info["mismatched_keys"])
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    if set(model.config.architectures or []) & set(BACKBONES):
        missing = [key for key in missing if not key.startswith(HEAD)]
    if isinstance(model, OfbSwinModel):
        unexpected = [key for key in unexpected if not key.startswith(HEAD)]
    resized = [key for key in mismatched if not key.startswith(HEAD)]
    for problem, keys in (("lacks", missing), ("has in another shape", resized), ("holds beside", unexpected)):
        if keys:
            raise ValueError(
                f"`{source}` {problem} weights of {type(model).__name__}: {keys[:5]} ({len(keys)} in all). "
                "Nothing may stay random or be left out in silence."
            )


__all__ = ["OfbSwinForImageClassification", "OfbSwinModel", "OfbSwinPreTrainedModel"]
