"""Semantic segmentation by a ViT: SETR's heads on a whole or a pruned backbone (Zheng et al. 2021)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.utils.generic import can_return_tuple

from .configuration_ofb_vit import OfbViTConfig
from .modeling_ofb_vit import OfbViTModel, OfbViTPreTrainedModel


register_checkpoint_conversion_mapping(
    "OfbViTForSemanticSegmentation", [WeightRenaming(r"^deit\.", "vit.")], overwrite=True
)
UPSAMPLED = {"mode": "bilinear", "align_corners": False}


class OfbViTForSemanticSegmentation(OfbViTPreTrainedModel):
    """A ViT or DeiT, or the smaller network that an OFB search left of one, with a SETR head.

    `OfbViTForSemanticSegmentation.from_pretrained(classifier, num_labels=19, segmentation_head="pup")` loads the
    backbone of any ViT or DeiT, also of a classifier that a search found; the head is new.
    """

    def __init__(self, config: OfbViTConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.vit = OfbViTModel(config, add_pooling_layer=False)
        self.segmentation_head = HEADS[config.segmentation_head](config)
        auxiliary = config.auxiliary_layers if config.use_auxiliary_head else []
        self.auxiliary_heads = nn.ModuleList(SetrNaiveHead(config) for _ in auxiliary)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.BatchNorm2d):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            init.zeros_(module.running_mean)
            init.ones_(module.running_var)
            init.zeros_(module.num_batches_tracked)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> tuple | SemanticSegmenterOutput:
        """Labels every pixel.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch, channels, height, width)`): Normalised images.
            labels (`torch.LongTensor` of shape `(batch, height, width)`, *optional*): Classes, for the loss;
                `config.semantic_loss_ignore_index` where there is none.
            interpolate_pos_encoding (`bool`): Take images of any size, with position embeddings interpolated.
            output_hidden_states (`bool`, *optional*): Whether to return what the layers put out; by default as the
                config says.

        Returns:
            `SemanticSegmenterOutput`: `logits` of shape `(batch, num_labels, height, width)`, of the images' size.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        # the heads read hidden states, whatever is to be returned and as what
        kwargs |= {"output_hidden_states": True, "return_dict": True}
        outputs = self.vit(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, **kwargs)
        size = pixel_values.shape[-2:]
        grid = (size[0] // self.config.patch_size, size[1] // self.config.patch_size)
        logits = self.segmentation_head(self._maps(outputs, self.config.read_layers, grid))
        return SemanticSegmenterOutput(
            loss=None if labels is None else self._loss(logits, outputs, labels, grid),
            logits=F.interpolate(logits, size=size, **UPSAMPLED),
            hidden_states=outputs.hidden_states if output_hidden_states else None,
            attentions=outputs.attentions,
        )

    def _maps(self, outputs: Any, layers: list[int], grid: tuple[int, int]) -> list[torch.Tensor]:
        """What layers put out, the last one's normalised, as maps (batch, hidden_size, rows, columns)."""
        last, special = self.config.num_hidden_layers - 1, self.vit.embeddings.num_tokens
        states = [outputs.last_hidden_state if i == last else outputs.hidden_states[i + 1] for i in layers]
        return [state[:, special:].transpose(1, 2).unflatten(2, grid) for state in states]

    def _loss(self, logits: torch.Tensor, outputs: Any, labels: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Cross entropy over labelled pixels, of the head and, weighted, of the auxiliary heads."""
        loss = self._cross_entropy(logits, labels)
        for head, layer in zip(self.auxiliary_heads, self.config.auxiliary_layers):
            auxiliary = self._cross_entropy(head(self._maps(outputs, [layer], grid)), labels)
            loss = loss + self.config.auxiliary_loss_weight * auxiliary
        return loss

    def _cross_entropy(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logits = F.interpolate(logits.float(), size=labels.shape[-2:], **UPSAMPLED)
        return F.cross_entropy(logits, labels, ignore_index=self.config.semantic_loss_ignore_index)


class SetrNaiveHead(nn.Module):
    """SETR-Naïve: two 1 x 1 convolutions at the patches' resolution."""

    def __init__(self, config: OfbViTConfig) -> None:
        super().__init__()
        width = config.segmentation_channels
        self.convolution = _convolution(config.hidden_size, width, 1)
        self.classifier = nn.Conv2d(width, config.num_labels, 1)

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        return self.classifier(self.convolution(maps[-1]))


class SetrPupHead(nn.Module):
    """SETR-PUP: four 3 x 3 convolutions, each followed by upsampling to twice the side."""

    def __init__(self, config: OfbViTConfig) -> None:
        super().__init__()
        width = config.segmentation_channels
        self.convolutions = nn.ModuleList(_convolution(width if i else config.hidden_size, width, 3) for i in range(4))
        self.classifier = nn.Conv2d(width, config.num_labels, 1)

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        hidden = maps[-1]
        for convolution in self.convolutions:
            hidden = F.interpolate(convolution(hidden), scale_factor=2, **UPSAMPLED)
        return self.classifier(hidden)


class SetrMlaHead(nn.Module):
    """SETR-MLA: four layers' outputs, added up from the last to the first, and put side by side at four times the
    side."""

    def __init__(self, config: OfbViTConfig) -> None:
        super().__init__()
        width, count = config.segmentation_channels, len(config.read_layers)
        self.norms = nn.ModuleList(nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) for _ in range(count))
        self.reductions = nn.ModuleList(_convolution(config.hidden_size, width, 1) for _ in range(count))
        self.aggregations = nn.ModuleList(_convolution(width, width, 3) for _ in range(count))
        self.streams = nn.ModuleList(
            nn.Sequential(_convolution(width, width // 2, 3), _convolution(width // 2, width // 2, 3))
            for _ in range(count)
        )
        self.classifier = nn.Conv2d(count * (width // 2), config.num_labels, 1)

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        # (batch, channels, rows, columns): norms want channels last
        normed = [norm(one.movedim(1, -1)).movedim(-1, 1) for norm, one in zip(self.norms, maps)]
        reduced = [reduce(one) for reduce, one in zip(self.reductions, normed)]
        for i in reversed(range(len(reduced) - 1)):
            reduced[i] = reduced[i] + reduced[i + 1]
        hidden = [stream(mix(one)) for stream, mix, one in zip(self.streams, self.aggregations, reduced)]
        return self.classifier(torch.cat([F.interpolate(one, scale_factor=4, **UPSAMPLED) for one in hidden], dim=1))


def _convolution(channels: int, width: int, kernel: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU())


HEADS = {"naive": SetrNaiveHead, "pup": SetrPupHead, "mla": SetrMlaHead}

__all__ = ["OfbViTForSemanticSegmentation"]
