"""What goes into an ONNX file: a SAM's two halves and a classifier, as modules of tensors only."""

from typing import Any

import torch
from torch import nn

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
        self.mask_decoder: Any = model.mask_decoder
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
        prompts = sparse.shape[1]
        dense = self.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        images = (image_embeddings + dense).repeat_interleave(prompts, 0)  # (batch * prompts, channels, grid, grid)
        return self.decode(images, sparse)

    def decode(self, images: torch.Tensor, sparse: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The stock mask decoder, without its choice between the single mask and the three: all four at once."""
        decoder, (batch, prompts) = self.mask_decoder, sparse.shape[:2]
        tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens = torch.cat([tokens.expand(batch, prompts, -1, -1), sparse], 2)
        # (batch, prompts, tokens, channels), (batch, prompts, grid * grid, channels)
        hidden, decoded = decoder.transformer(tokens, images, self.positions.expand_as(images), None)
        decoded = decoded.transpose(2, 3).reshape(images.shape)
        upscaled = decoder.activation(decoder.upscale_layer_norm(decoder.upscale_conv1(decoded)))
        upscaled = decoder.activation(decoder.upscale_conv2(upscaled))
        mlps = decoder.output_hypernetworks_mlps
        weights = torch.stack([mlp(hidden[:, :, 1 + i]) for i, mlp in enumerate(mlps)], 2)
        channels, height, width = upscaled.shape[1:]
        # (batch, prompts, 4, channels) @ (batch, prompts, channels, height * width)
        masks = weights @ upscaled.reshape(batch, prompts, channels, height * width)
        return masks.reshape(batch, prompts, -1, height, width), decoder.iou_prediction_head(hidden[:, :, 0])

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

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values).logits
