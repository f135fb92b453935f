"""PyTorch OFB ViT: stock ViT and DeiT, whose layers may each have widths of their own."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.core_model_loading import WeightRenaming
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.models.vit.modeling_vit import (
    ViTEmbeddings,
    ViTLayer,
    ViTMLP,
    ViTPatchEmbeddings,
    ViTPooler,
    ViTPreTrainedModel,
)
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .attention_ofb_vit import OfbViTAttention
from .configuration_ofb_vit import OfbViTConfig


# transformers renames the tensors of older ViT checkpoints by the name of the model's class: without this, nearly all
# of them would stay random. Registered here, and not by the package, so that it also works as remote code.
register_checkpoint_conversion_mapping(
    "OfbViTModel",
    [WeightRenaming(r"^deit\.", "vit."), *get_checkpoint_conversion_mapping("ViTModel")],
    overwrite=True,
)
register_checkpoint_conversion_mapping(
    "OfbViTForImageClassification",
    [WeightRenaming(r"^deit\.", "vit."), WeightRenaming(r"^cls_classifier\.", "classifier.")],
    overwrite=True,
)

HEADS = ("classifier.", "distillation_classifier.")
SEGMENTER, SEGMENTATION_HEADS = "SemanticSegmentation", ("segmentation_head.", "auxiliary_heads.")
UNPOOLED = ("OfbViTForImageClassification", "OfbViTForSemanticSegmentation")
# Checkpoints with these architectures have no classifier: a new one is no missing weight.
BACKBONES = ("ViTModel", "DeiTModel", "OfbViTModel")


def interpolate_positions(positions: torch.Tensor, num_tokens: int, grid: tuple[int, int]) -> torch.Tensor:
    """Position embeddings for another grid of patches, as stock ViT and DeiT interpolate them (bicubic).

    Args:
        positions (`torch.Tensor` of shape `(1, num_tokens + side * side, channels)`): Of a square grid.
        num_tokens (`int`): The leading ones that are no patch's (class and distillation token); kept as they are.
        grid (`tuple[int, int]`): Rows and columns of the new grid.

    Returns:
        `torch.Tensor` of shape `(1, num_tokens + rows * columns, channels)`.
    """
    tokens, patches = positions[:, :num_tokens], positions[:, num_tokens:]
    side = int(patches.shape[1] ** 0.5)
    if grid == (side, side):
        return positions
    # (1, side * side, channels) -> (1, channels, side, side) -> (1, channels, rows, columns) -> (1, patches, channels)
    patches = patches.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=grid, mode="bicubic", align_corners=False)
    return torch.cat((tokens, patches.permute(0, 2, 3, 1).flatten(1, 2)), dim=1)


class OfbViTEmbeddings(ViTEmbeddings):
    """Class token, distillation token where the model has one, and patches, with their positions."""

    def __init__(self, config: OfbViTConfig) -> None:
        nn.Module.__init__(self)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.distillation_token = (
            nn.Parameter(torch.zeros(1, 1, config.hidden_size)) if config.distillation_token else None
        )
        self.mask_token = None
        self.patch_embeddings = ViTPatchEmbeddings(config)
        self.num_tokens = 1 + config.distillation_token
        self.position_embeddings = nn.Parameter(
            torch.zeros(1, self.patch_embeddings.num_patches + self.num_tokens, config.hidden_size)
        )
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.patch_size = config.patch_size
        self.image_size = self.patch_embeddings.image_size

    def forward(self, pixel_values: torch.Tensor, interpolate_pos_encoding: bool = False) -> torch.Tensor:
        """(batch, channels, height, width) to (batch, tokens, hidden_size); `ValueError` for images of another size
        than the model's unless `interpolate_pos_encoding`."""
        height, width = pixel_values.shape[2:]
        if not interpolate_pos_encoding and (height, width) != tuple(self.image_size):
            raise ValueError(
                f"Input image size ({height}*{width}) doesn't match model ({self.image_size[0]}*{self.image_size[1]})."
                " Give `interpolate_pos_encoding=True`, or load the model with `image_size`."
            )
        patches = self.patch_embeddings(pixel_values)
        tokens = [self.cls_token] if self.distillation_token is None else [self.cls_token, self.distillation_token]
        embeddings = torch.cat((*(token.expand(patches.shape[0], -1, -1) for token in tokens), patches), dim=1)
        positions = self.position_embeddings
        if interpolate_pos_encoding:
            grid = (height // self.patch_size, width // self.patch_size)
            positions = interpolate_positions(positions, self.num_tokens, grid)
        return self.dropout(embeddings + positions)

    def resize(self, image_size: int) -> None:
        """Takes images of `image_size` pixels a side from now on, with positions interpolated once."""
        side = image_size // self.patch_size
        old = self.position_embeddings
        positions = interpolate_positions(old.detach(), self.num_tokens, (side, side))
        self.position_embeddings = nn.Parameter(positions.clone(), requires_grad=old.requires_grad)
        self.patch_embeddings.num_patches = side**2
        self.image_size = self.patch_embeddings.image_size = (image_size, image_size)


class OfbViTMLP(ViTMLP):
    """Stock ViT's MLP with any number of hidden units."""

    def __init__(self, config: OfbViTConfig, intermediate_size: int) -> None:
        nn.Module.__init__(self)
        self.activation_fn = ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, intermediate_size)
        self.fc2 = nn.Linear(intermediate_size, config.hidden_size)


class OfbViTLayer(ViTLayer):
    """Stock ViT's layer at its own widths."""

    def __init__(self, config: OfbViTConfig, num_attention_heads: int, head_dim: int, intermediate_size: int) -> None:
        GradientCheckpointingLayer.__init__(self)
        self.attention = OfbViTAttention(config, num_attention_heads, head_dim)
        self.layernorm_before = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layernorm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = OfbViTMLP(config, intermediate_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)


class OfbViTPreTrainedModel(ViTPreTrainedModel):
    """Loading, resizing and what transformers asks of a model family."""

    config: OfbViTConfig
    config_class = OfbViTConfig
    base_model_prefix = "vit"
    _no_split_modules = ["OfbViTEmbeddings", "OfbViTLayer"]
    # declared only where they were run
    _supports_flash_attn = False
    _supports_flex_attn = False
    _supports_attention_backend = False
    _can_record_outputs = {"hidden_states": OfbViTLayer, "attentions": OfbViTAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, OfbViTEmbeddings) and module.distillation_token is not None:
            init.trunc_normal_(module.distillation_token, mean=0.0, std=self.config.initializer_range)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *model_args: Any, image_size: int | None = None, **kwargs: Any
    ) -> Any:
        """Loads an OFB ViT, or any stock ViT or DeiT checkpoint, from the Hub or a folder.

        A classifier for other labels than the checkpoint's is asked for as with every transformers model:
        `num_labels=10, ignore_mismatched_sizes=True`; or load it as it is and call `reset_classifier`.

        Args:
            image_size (`int`, *optional*): Run at this many pixels a side instead of the checkpoint's: position
                embeddings are interpolated. A multiple of the patch size.

        Raises:
            ValueError: For a checkpoint of another architecture, one that lacks weights of this model or holds others
                (only a classifier may be new, and a pooler or classifier left out), or a size that does not fit the
                patches.
        """
        with_info = kwargs.pop("output_loading_info", False)
        loaded: Any = super().from_pretrained(
            pretrained_model_name_or_path, *model_args, output_loading_info=True, **kwargs
        )
        model, info = loaded
        _check_loaded(model, info, pretrained_model_name_or_path)
        if image_size is not None:
            model = model.resized(image_size)
        return (model, info) if with_info else model

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Saves under the names that the modules have here: as in transformers, but the names of the original
        checkpoint are not restored (`save_original_format=True` would), which another model could not load."""
        super().save_pretrained(save_directory, **{"save_original_format": False, **kwargs})

    def resized(self, image_size: int) -> Any:
        """This model at another input size, as a new one: position embeddings interpolated once, in the way that
        `interpolate_pos_encoding=True` does at every call.

        Args:
            image_size (`int`): In pixels a side; a multiple of the patch size.

        Raises:
            ValueError: If the size does not fit the patches.
        """
        patch = self.config.patch_size
        if image_size < patch or image_size % patch:
            raise ValueError(f"`image_size` must be a multiple of the patch size {patch}, got {image_size}.")
        model = copy.deepcopy(self)
        model.config.image_size = image_size
        model.base_model.embeddings.resize(image_size)
        return model


class OfbViTModel(OfbViTPreTrainedModel):
    """The backbone of a ViT or DeiT: loads `ViTModel`, `DeiTModel` and classifiers (`add_pooling_layer=False`).

    Args:
        config ([`OfbViTConfig`]): With the widths of every layer.
        add_pooling_layer (`bool`, *optional*): Whether the class token goes through a pooler (`pooler_output`). By
            default it does, unless the config is that of a classifier or segmenter of ours, which have none.
    """

    def __init__(self, config: OfbViTConfig, add_pooling_layer: bool | None = None) -> None:
        PreTrainedModel.__init__(self, config)
        if add_pooling_layer is None:
            add_pooling_layer = not set(config.architectures or []) & set(UNPOOLED)
        self.embeddings = OfbViTEmbeddings(config)
        self.layers = nn.ModuleList(OfbViTLayer(config, *widths) for widths in zip(*config.layer_widths))
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.pooler = ViTPooler(config) if add_pooling_layer else None
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, pixel_values: torch.Tensor, interpolate_pos_encoding: bool = False, **kwargs: Any
    ) -> tuple | BaseModelOutputWithPooling:
        """Encodes images.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch, channels, height, width)`): Normalised images.
            interpolate_pos_encoding (`bool`): Take images of any size, with position embeddings interpolated.

        Returns:
            `BaseModelOutputWithPooling`: `last_hidden_state` of shape `(batch, tokens, hidden_size)`, with the class
            token first and the distillation token, if any, second; `pooler_output` of shape `(batch,
            pooler_output_size)`; `hidden_states` and `attentions` if asked for.
        """
        pixel_values = pixel_values.to(self.embeddings.patch_embeddings.projection.weight.dtype)
        hidden_states = self.embeddings(pixel_values, interpolate_pos_encoding)
        for layer in self.layers:
            hidden_states = layer(hidden_states, None, **kwargs)
        hidden_states = self.layernorm(hidden_states)
        pooled = None if self.pooler is None else self.pooler(hidden_states)
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=pooled)


@dataclass
class OfbViTImageClassifierOutput(ImageClassifierOutput):
    """An `ImageClassifierOutput`, and the logits of either head where there are two.

    Args:
        cls_logits (`torch.Tensor` of shape `(batch, num_labels)`, *optional*): Of the class token's head.
        distillation_logits (`torch.Tensor` of shape `(batch, num_labels)`, *optional*): Of the distillation token's.
    """

    cls_logits: torch.Tensor | None = None
    distillation_logits: torch.Tensor | None = None


class OfbViTForImageClassification(OfbViTPreTrainedModel):
    """A ViT or DeiT classifier, or the smaller network that an OFB search left of one.

    `OfbViTForImageClassification.from_pretrained("facebook/deit-small-patch16-224")` loads any ViT or DeiT checkpoint,
    with or without distillation token and head, and gives its outputs.
    """

    def __init__(self, config: OfbViTConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels or 0
        self.vit = OfbViTModel(config, add_pooling_layer=False)
        self.classifier = self._new_head()
        if config.distillation_head:
            self.distillation_classifier = self._new_head()
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Any,
    ) -> tuple | OfbViTImageClassifierOutput:
        """Classifies images.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch, channels, height, width)`): Normalised images.
            labels (`torch.LongTensor` of shape `(batch,)`, *optional*): Classes, for the loss.
            interpolate_pos_encoding (`bool`): Take images of any size, with position embeddings interpolated.

        Returns:
            [`OfbViTImageClassifierOutput`]: `logits` of shape `(batch, num_labels)`: with a distillation head, the
            mean of `cls_logits` and `distillation_logits`.
        """
        # whatever the config says: `can_return_tuple` makes the tuple of this model's own outputs
        outputs = self.vit(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, return_dict=True, **kwargs)
        hidden_states = outputs.last_hidden_state
        logits = cls_logits = self.classifier(hidden_states[:, 0])
        distillation_logits = None
        if self.config.distillation_head:
            distillation_logits = self.distillation_classifier(hidden_states[:, 1])
            logits = (cls_logits + distillation_logits) / 2
        return OfbViTImageClassifierOutput(
            loss=None if labels is None else self.loss_function(labels, logits, self.config, **kwargs),
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            cls_logits=None if distillation_logits is None else cls_logits,
            distillation_logits=distillation_logits,
        )

    def select_labels(self, indices: Sequence[int]) -> "OfbViTForImageClassification":
        """Keeps these labels, in this order: rows of the head (both, if there are two) and the config's names.

        In place; returns the model itself.

        Raises:
            ValueError: If `indices` is empty, repeats a label or holds one that the model does not have.
        """
        _check_label_indices(indices, self.num_labels)
        id2label: Any = self.config.id2label
        names = [id2label[i] for i in indices]
        for name in self._head_names():
            old: Any = self.get_submodule(name)
            new = nn.Linear(old.in_features, len(names), device=old.weight.device, dtype=old.weight.dtype)
            new.load_state_dict({key: value[list(indices)] for key, value in old.state_dict().items()})
            self._replace_head(name, new)
        self._rename_labels(names)
        return self

    def reset_classifier(self, names: Sequence[str]) -> "OfbViTForImageClassification":
        """A new, random head (both, if there are two) for labels of these names.

        In place; returns the model itself. Seeded by torch's global generator.

        Raises:
            ValueError: If `names` is empty or repeats a name.
        """
        if not names or len(set(names)) != len(names):
            raise ValueError(f"`names` must be one or more labels, each once, got {list(names)}.")
        embeddings = self.vit.embeddings.position_embeddings
        for name in self._head_names():
            new = nn.Linear(self.config.hidden_size, len(names), device=embeddings.device, dtype=embeddings.dtype)
            nn.init.normal_(new.weight, std=self.config.initializer_range)
            nn.init.zeros_(new.bias)
            self._replace_head(name, new)
        self._rename_labels(list(names))
        return self

    def _new_head(self) -> nn.Module:
        # as in stock ViT, a classifier without labels gives the features
        return nn.Linear(self.config.hidden_size, self.num_labels) if self.num_labels > 0 else nn.Identity()

    def _head_names(self) -> list[str]:
        return ["classifier", "distillation_classifier"] if self.config.distillation_head else ["classifier"]

    def _replace_head(self, name: str, head: nn.Linear) -> None:
        self.set_submodule(name, head.train(self.training))

    def _rename_labels(self, names: list[str]) -> None:
        self.config.id2label = dict(enumerate(names))
        self.config.label2id = {name: i for i, name in enumerate(names)}
        # derived by `loss_function` from the number of labels: let it do so again
        if self.config.problem_type == "single_label_classification":
            self.config.problem_type = None
        self.num_labels = len(names)


def _check_label_indices(indices: Sequence[int], num_labels: int) -> None:
    if not indices or len(set(indices)) != len(indices) or min(indices) < 0 or max(indices) >= num_labels:
        raise ValueError(
            f"`indices` must be one or more of the labels 0 to {num_labels - 1}, each once, got {list(indices)}."
        )


def _check_loaded(model: Any, info: dict[str, Any], source: Any) -> None:
    """Raises `ValueError` for weights that stayed random or were left out, but for heads that are meant to be."""
    mismatched = sorted(key for key, *_ in info["mismatched_keys"])
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    if set(model.config.architectures or []) & set(BACKBONES):
        missing = [key for key in missing if not key.startswith(HEADS)]
    if isinstance(model, OfbViTModel):
        heads = (*HEADS, "cls_classifier.", *SEGMENTATION_HEADS)
        unexpected = [key for key in unexpected if not key.startswith(heads)]
    elif SEGMENTER in type(model).__name__:
        new = not any(SEGMENTER in name for name in model.config.architectures or [])
        missing = [key for key in missing if not (new and key.startswith(SEGMENTATION_HEADS))]
        unexpected = [
            key for key in unexpected if not key.startswith((*HEADS, "cls_classifier.")) and "pooler." not in key
        ]
    else:
        unexpected = [key for key in unexpected if "pooler." not in key]
    resized = [key for key in mismatched if not key.startswith(HEADS)]
    for problem, keys in (("lacks", missing), ("has in another shape", resized), ("holds beside", unexpected)):
        if keys:
            raise ValueError(
                f"`{source}` {problem} weights of {type(model).__name__}: {keys[:5]} ({len(keys)} in all). "
                "Nothing may stay random or be left out in silence; `OfbViTModel` does without a pooler where "
                "`add_pooling_layer=False`."
            )


__all__ = [
    "OfbViTForImageClassification",
    "OfbViTImageClassifierOutput",
    "OfbViTModel",
    "OfbViTPreTrainedModel",
]
