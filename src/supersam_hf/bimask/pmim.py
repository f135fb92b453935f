"""Progressive masked image modelling: masked patches and their reconstruction beside the search (OFB, section 3.4)."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .families import family_of
from .families.base import Position


def _box_sum(values: torch.Tensor, window: int) -> torch.Tensor:
    """Sum of `values` (..., height, width) over the `window` x `window` pixels around each, those inside the image."""
    half = window // 2
    for pad, dim in (((half + 1, half), -1), ((0, 0, half + 1, half), -2)):
        length = values.shape[dim]
        # Zeros around, so that entry i + window less entry i of the running sum is the window around pixel i.
        running = F.pad(values, pad).cumsum_(dim)
        values = running.narrow(dim, window, length) - running.narrow(dim, 0, length)
    return values


def _box_count(height: int, width: int, window: int, device: torch.device) -> torch.Tensor:
    """How many pixels around each are inside the image, (height, width)."""

    def along(length: int) -> torch.Tensor:
        pixel = torch.arange(length, device=device)
        return (pixel + window // 2 + 1).clamp(max=length) - (pixel - window // 2).clamp(min=0)

    return along(height)[:, None] * along(width)


@torch.no_grad()
def local_normalised(
    pixel_values: torch.Tensor, mask: torch.Tensor, patch_size: int, window: int = 47, eps: float = 1e-6
) -> torch.Tensor:
    """Masked patches less the image's local mean, over its local standard deviation: what the decoder must predict.

    Mean and (unbiased) variance are those of the `window` x `window` neighbourhood of every pixel, channel by channel;
    at the border only pixels inside the image count. Box sums cost the same for every window, average pooling
    `window ** 2` as much. Taken in float64: in float32, `E[x²] - E[x]²` of a nearly flat region is all rounding error.

    Args:
        pixel_values (`torch.Tensor` of shape `(batch, channels, height, width)`).
        mask (`torch.Tensor` of shape `(batch, num_patches)`, bool): True where masked, patches row by row. On a GPU
            it would have to be waited for: leave it on the CPU.
        patch_size (`int`): Side of a patch.
        window (`int`): Odd, 3 or more.
        eps (`float`): Added to the variance.

    Returns:
        `torch.Tensor`: float32, `(masked patches, channels, patch_size, patch_size)`, image by image and row by row.

    Raises:
        ValueError: If `window` is even or less than 3, or the mask does not fit the images.
    """
    if window < 3 or window % 2 == 0:
        raise ValueError(f"`window` must be odd and at least 3, got {window}.")
    batch, _, height, width = pixel_values.shape
    rows, columns = height // patch_size, width // patch_size
    if mask.shape != (batch, rows * columns):
        raise ValueError(f"`mask` must be of shape {(batch, rows * columns)}, got {(*mask.shape,)}.")
    # Apple's GPUs have no float64
    device = torch.device("cpu") if pixel_values.device.type == "mps" else pixel_values.device
    image, row, column = mask.view(batch, rows, columns).nonzero().to(device).unbind(1)
    pixels = pixel_values.to(device, torch.float64)

    def patches(values: torch.Tensor) -> torch.Tensor:
        # (batch, channels, rows * p, columns * p) -> (masked patches, channels, p, p)
        values = values.unflatten(-1, (columns, patch_size)).unflatten(-3, (rows, patch_size))
        return values[image, :, row, :, column]

    count = patches(_box_count(height, width, window, device).expand(batch, 1, -1, -1))
    total, squares = patches(_box_sum(pixels, window)), patches(_box_sum(pixels.square(), window))
    mean = total / count
    variance = (squares - mean * total) / (count - 1)
    return ((patches(pixels) - mean) / (variance.clamp(min=0) + eps).sqrt()).to(pixel_values.device, torch.float32)


def sample_mask(batch: int, num_patches: int, ratio: float, generator: torch.Generator) -> torch.Tensor:
    """Which patches of each image are masked: `round(ratio * num_patches)` of them, drawn for every image anew.

    Returns:
        `torch.Tensor` of shape `(batch, num_patches)`, bool, on the generator's device.

    Raises:
        ValueError: If `ratio` is not in [0, 1].
    """
    if not 0 <= ratio <= 1:
        raise ValueError(f"`ratio` must be in [0, 1], got {ratio}.")
    order = torch.rand(batch, num_patches, generator=generator, device=generator.device).argsort(1)
    first = torch.arange(num_patches, device=order.device) < round(ratio * num_patches)
    return torch.zeros_like(order, dtype=torch.bool).scatter_(1, order, first.expand_as(order))


class PmimDecoder(nn.Module):
    """SimMIM's decoder: a linear map from a patch's last hidden state to its pixels.

    Attributes:
        projection (`nn.Linear`): The columns of its weight (num_channels * patch_size², hidden_size) are embedding
            channels.
    """

    def __init__(self, hidden_size: int, patch_size: int, num_channels: int = 3) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.projection = nn.Linear(hidden_size, num_channels * patch_size**2)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Pixels of patches, (patches, num_channels, patch_size, patch_size).

        Args:
            hidden_states (`torch.Tensor` of shape `(patches, hidden_size)`): Those to reconstruct, of any images.
        """
        pixels = self.projection(hidden_states)
        return pixels.unflatten(-1, (-1, self.patch_size, self.patch_size))  # channels * p * p -> channels, p, p


def reconstruction_loss(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L_rec of OFB, Eq. 8: mean over the pixels and channels of masked patches of `|predicted - target|`; 0 if nothing
    is masked.

    Args:
        predicted, target (`torch.Tensor` of shape `(masked patches, channels, patch_size, patch_size)`).

    Returns:
        `torch.Tensor`: A float32 scalar, with a graph to `predicted` in every case.

    Raises:
        ValueError: If the shapes differ.
    """
    if predicted.shape != target.shape:
        raise ValueError(f"`predicted` must be of the target's shape {(*target.shape,)}, got {(*predicted.shape,)}.")
    return (predicted.float() - target.float()).abs().sum() / max(1, target.numel())


def mask_patches(hidden_states: torch.Tensor, mask: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    """Puts `token` in the place of masked patches; special tokens, which come before the patches, stay.

    Args:
        hidden_states (`torch.Tensor` of shape `(batch, special + num_patches, hidden_size)`).
        mask (`torch.Tensor` of shape `(batch, num_patches)`, bool): True where masked.
        token (`torch.Tensor` of shape `(1, 1, hidden_size)`).
    """
    special = hidden_states.shape[1] - mask.shape[1]
    masked = F.pad(mask.to(hidden_states.device), (special, 0), value=False)
    return torch.where(masked.unsqueeze(-1), token.to(hidden_states.dtype), hidden_states)


class PatchMasking(nn.Module):
    """Masks patches of an ordinary classifier by a forward hook: before a forward set `.mask`, (batch, squares), bool,
    or `None` for no masking; `.remove()` takes the hook off again.

    A square is as many patches as one token at the end of the model stands for: one of a ViT's, `across` * `across` of
    a Swin's. The hook comes first at its module: hooks put on later, such as a bi-mask of the embedding, see the token
    too.

    Args:
        model (`PreTrainedModel`): Of one of the families (`families/`); it gets no parameter.
        position (`str`): `"before"` the position embedding is added, so that a masked patch keeps its place (the
            paper's, SimMIM's), or `"after"` (the released code).
        generator (`torch.Generator`, *optional*): Draws the token, on the CPU.

    Attributes:
        token (`nn.Parameter` of shape `(1, 1, hidden_size)`): Stands for every masked patch.
        squares (`int`): That an image has.
        across (`int`): Patches a side of a square.

    Raises:
        ValueError: If `position` is another, or an image is not made of whole squares; in a forward if the mask does
            not fit the batch.
    """

    token: nn.Parameter

    def __init__(self, model: Any, position: Position = "before", *, generator: torch.Generator | None = None) -> None:
        if position not in ("before", "after"):
            raise ValueError(f"`position` must be 'before' or 'after', got {position!r}.")
        super().__init__()
        patches = family_of(model).patches(model, position)
        grid = model.config.image_size // model.config.patch_size
        if grid % patches.across:
            raise ValueError(
                f"PMIM masks squares of {patches.across} patches a side, of which a grid of {grid} is no multiple: "
                "take another image size, or `search.pmim false`."
            )
        token = nn.init.trunc_normal_(torch.empty(1, 1, patches.like.shape[-1]), std=0.02, generator=generator)
        self.token = nn.Parameter(token.to(patches.like))
        self.mask: torch.Tensor | None = None
        self.squares = (grid // patches.across) ** 2
        self.across = patches.across
        self._handle = patches.module.register_forward_hook(self._hook(patches.special_tokens), prepend=True)

    def _hook(self, special: int) -> Callable[[nn.Module, tuple, torch.Tensor], torch.Tensor | None]:
        def hook(module: nn.Module, args: tuple, hidden_states: torch.Tensor) -> torch.Tensor | None:
            if self.mask is None:
                return None
            wanted, patches = (len(hidden_states), self.squares), hidden_states.shape[1] - special
            if patches != self.squares * self.across**2:
                raise ValueError(
                    f"The images have {patches} patches and the model's config says {self.squares * self.across**2}: "
                    "give images of its `image_size`."
                )
            if self.mask.shape != wanted:
                raise ValueError(f"`mask` must be of shape {wanted}, got {(*self.mask.shape,)}.")
            return mask_patches(hidden_states, self._patch_by_patch(self.mask), self.token)

        return hook

    def _patch_by_patch(self, mask: torch.Tensor) -> torch.Tensor:
        """(batch, squares) to (batch, patches), row by row."""
        if self.across == 1:
            return mask
        side = round(self.squares**0.5)
        square = mask.view(-1, side, 1, side, 1).expand(-1, -1, self.across, -1, self.across)
        return square.reshape(len(mask), -1)  # batch, row, row in it, column, column in it -> batch, patches

    def remove(self) -> None:
        """Takes the hook off; the model is as it was before."""
        self._handle.remove()


__all__ = ["PatchMasking", "PmimDecoder", "local_normalised", "mask_patches", "reconstruction_loss", "sample_mask"]
