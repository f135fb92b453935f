"""What goes into an ONNX file: a SAM's two halves and a classifier, as modules of tensors only."""

from typing import Any

import torch
from torch import nn

from ..models.ofb_vit import OfbViTForImageClassification
from ..models.supersam import SuperSamModel


# What a label says of a point (Segment Anything's own ONNX export has the same, but for the last).
NO_POINT, IGNORED = -1, -10


class ImageEncoder(nn.Module):
    """A SAM's image encoder: images (batch, 3, size, size) to embeddings (batch, channels, grid, grid)."""

    def __init__(self, model: SuperSamModel) -> None:
        super().__init__()
        self.encoder = model.vision_encoder

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.encoder(pixel_values).last_hidden_state


class PromptDecoder(nn.Module):
    """A SAM's prompt encoder and mask decoder in one. A box is two points, labelled as its corners."""

    positions: torch.Tensor

    def __init__(self, model: SuperSamModel) -> None:
        super().__init__()
        self.prompt_encoder: Any = model.prompt_encoder
        self.mask_decoder = model.mask_decoder
        with torch.no_grad():
            # (1, channels, grid, grid)
            self.register_buffer("positions", model.get_image_wide_positional_embeddings())

    def forward(
        self, image_embeddings: torch.Tensor, input_points: torch.Tensor, input_labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings (batch, channels, grid, grid), points (batch, prompts, points, 2) and their labels (batch,
        prompts, points) to mask logits (batch, prompts, 4, 4 * grid, 4 * grid) and predicted IoU (batch, prompts, 4):
        the single mask, then the three."""
        sparse = self.embed_points(input_points, input_labels)
        dense = self.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand_as(image_embeddings)
        positions = self.positions.repeat(image_embeddings.shape[0], 1, 1, 1)
        # Twice the same but for what is kept of it: ONNX Runtime computes the common part once.
        single = self.mask_decoder(image_embeddings, positions, sparse, dense, multimask_output=False)
        three = self.mask_decoder(image_embeddings, positions, sparse, dense, multimask_output=True)
        return torch.cat([single[0], three[0]], 2), torch.cat([single[1], three[1]], 2)

    def embed_points(self, points: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(batch, prompts, points, channels), as the stock prompt encoder embeds points and the corners of boxes."""
        encoder, labels = self.prompt_encoder, labels[..., None]
        size = encoder.input_image_size
        embedded = encoder.shared_embedding(points + 0.5, (size, size))  # + 0.5: to the middle of a pixel
        embedded = torch.where(labels == NO_POINT, encoder.not_a_point_embed.weight, embedded)
        embedded = torch.where(labels == IGNORED, torch.zeros_like(embedded), embedded)
        for label, learned in enumerate(encoder.point_embed):
            embedded = torch.where(labels == label, embedded + learned.weight, embedded)
        return embedded


class Classifier(nn.Module):
    """A classifier whole: images (batch, channels, size, size) to logits (batch, labels)."""

    def __init__(self, model: OfbViTForImageClassification) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values).logits
