"""Progressive masked image modelling: masked patches and their reconstruction beside the search (OFB, section 3.4)."""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from ..models.ofb_vit import OfbViTForImageClassification


Position = Literal["before", "after"]


def _spans(length: int, window: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """First pixel, and the one after the last, of the window around each of `length` pixels, inside the image."""
    centre = torch.arange(length, device=device)
    return (centre - window // 2).clamp(min=0), (centre + window // 2 + 1).clamp(max=length)


def _box_sum(values: torch.Tensor, window: int) -> torch.Tensor:
    """Sum of `values` (..., height, width) over the `window` x `window` pixels around each, those inside the image."""
    for dim in (-1, -2):
        first, end = _spans(values.shape[dim], window, values.device)
        # (..., length) -> (..., 1 + length): entry i is the sum of all before pixel i
        zero = values.new_zeros(()).expand_as(values.narrow(dim, 0, 1))
        running = torch.cat([zero, values.cumsum(dim)], dim)
        values = running.index_select(dim, end) - running.index_select(dim, first)
    return values


@torch.no_grad()
def local_normalised(pixel_values: torch.Tensor, window: int = 47, eps: float = 1e-6) -> torch.Tensor:
    """The image less its local mean, over its local standard deviation: what the decoder must predict.

    Mean and (unbiased) variance are those of the `window` x `window` neighbourhood of every pixel, channel by channel;
    at the border only pixels inside the image count. Box sums cost the same for every window, average pooling
    `window ** 2` as much. Taken in float64: in float32, `E[x²] - E[x]²` of a nearly flat region is all rounding error.

    Args:
        pixel_values (`torch.Tensor` of shape `(batch, channels, height, width)`).
        window (`int`): Odd, 3 or more.
        eps (`float`): Added to the variance.

    Returns:
        `torch.Tensor`: float32, as `pixel_values`.

    Raises:
        ValueError: If `window` is even or less than 3.
    """
    if window < 3 or window % 2 == 0:
        raise ValueError(f"`window` must be odd and at least 3, got {window}.")
    # Apple's GPUs have no float64
    device = torch.device("cpu") if pixel_values.device.type == "mps" else pixel_values.device
    pixels = pixel_values.to(device, torch.float64)
    (top, bottom), (left, right) = (_spans(size, window, pixels.device) for size in pixels.shape[-2:])
    count = (bottom - top)[:, None] * (right - left)  # (height, width)
    mean = _box_sum(pixels, window) / count
    variance = (_box_sum(pixels.square(), window) - count * mean.square()) / (count - 1)
    return ((pixels - mean) / (variance.clamp(min=0) + eps).sqrt()).to(pixel_values.device, torch.float32)


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
    """SimMIM's decoder: a linear map from every patch's last hidden state to its pixels.

    Attributes:
        projection (`nn.Conv2d`): 1 x 1; the columns of its weight (out, hidden_size, 1, 1) are embedding channels.
    """

    def __init__(self, hidden_size: int, patch_size: int, num_channels: int = 3) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.projection = nn.Conv2d(hidden_size, num_channels * patch_size**2, kernel_size=1)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Pixels of the whole image, (batch, num_channels, side * patch_size, side * patch_size).

        Args:
            hidden_states (`torch.Tensor` of shape `(batch, side * side, hidden_size)`): The patches, row by row.

        Raises:
            ValueError: If the patches do not form a square.
        """
        batch, num_patches, hidden_size = hidden_states.shape
        side = math.isqrt(num_patches)
        if side * side != num_patches:
            raise ValueError(f"`hidden_states` must hold a square of patches and no other token, got {num_patches}.")
        patches = hidden_states.transpose(1, 2).reshape(batch, hidden_size, side, side)
        return F.pixel_shuffle(self.projection(patches), self.patch_size)


def reconstruction_loss(
    predicted: torch.Tensor, target: torch.Tensor, mask: torch.Tensor, patch_size: int
) -> torch.Tensor:
    """L_rec of OFB, Eq. 8: mean over masked pixels and channels of `|predicted - target|`; 0 if nothing is masked.

    Args:
        predicted, target (`torch.Tensor` of shape `(batch, channels, height, width)`).
        mask (`torch.Tensor` of shape `(batch, num_patches)`, bool): True where masked, patches row by row.
        patch_size (`int`): Side of a patch.

    Returns:
        `torch.Tensor`: A float32 scalar, with a graph to `predicted` in every case.

    Raises:
        ValueError: If the shapes do not belong together.
    """
    batch, channels, height, width = target.shape
    rows, columns = height // patch_size, width // patch_size
    if predicted.shape != target.shape:
        raise ValueError(f"`predicted` must be of the target's shape {(*target.shape,)}, got {(*predicted.shape,)}.")
    if mask.shape != (batch, rows * columns):
        raise ValueError(f"`mask` must be of shape {(batch, rows * columns)}, got {(*mask.shape,)}.")
    error = (predicted.float() - target.float()).abs()
    # (batch, channels, rows * p, columns * p) -> a mean for every patch, (batch, rows * columns)
    error = error.view(batch, channels, rows, patch_size, columns, patch_size).mean((1, 3, 5)).flatten(1)
    return (error * mask).sum() / mask.sum().clamp(min=1)


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
    """Masks patches of an ordinary classifier by forward hooks: before a forward set `.mask`, (batch, num_patches),
    bool, or `None` for no masking; `.remove()` takes the hooks off again.

    The hooks come first at their modules: hooks put on later, such as a bi-mask of the embedding, see the token too.

    Args:
        model (`OfbViTForImageClassification`): The classifier; it gets no parameter.
        position (`str`): `"before"` the position embedding is added, so that a masked patch keeps its place (the
            paper's, SimMIM's), or `"after"` (the released code).
        generator (`torch.Generator`, *optional*): Draws the token, on the CPU.

    Attributes:
        token (`nn.Parameter` of shape `(1, 1, hidden_size)`): Stands for every masked patch.

    Raises:
        ValueError: If `position` is another; in a forward if the mask does not fit the batch and its patches.
    """

    token: nn.Parameter

    def __init__(
        self,
        model: OfbViTForImageClassification,
        position: Position = "before",
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        if position not in ("before", "after"):
            raise ValueError(f"`position` must be 'before' or 'after', got {position!r}.")
        super().__init__()
        embeddings: Any = model.vit.embeddings
        positions = embeddings.position_embeddings
        token = nn.init.trunc_normal_(torch.empty(1, 1, positions.shape[-1]), std=0.02, generator=generator)
        self.token = nn.Parameter(token.to(positions))
        self.mask: torch.Tensor | None = None
        module, special = embeddings.patch_embeddings, 0
        if position == "after":
            module, special = embeddings, embeddings.num_tokens
        self._handle = module.register_forward_hook(self._hook(special), prepend=True)

    def _hook(self, special: int) -> Callable[[nn.Module, tuple, torch.Tensor], torch.Tensor | None]:
        def hook(module: nn.Module, args: tuple, hidden_states: torch.Tensor) -> torch.Tensor | None:
            if self.mask is None:
                return None
            batch, tokens, _ = hidden_states.shape
            if self.mask.shape != (batch, tokens - special):
                raise ValueError(f"`mask` must be of shape {(batch, tokens - special)}, got {(*self.mask.shape,)}.")
            return mask_patches(hidden_states, self.mask, self.token)

        return hook

    def remove(self) -> None:
        """Takes the hooks off; the model is as it was before."""
        self._handle.remove()


__all__ = ["PatchMasking", "PmimDecoder", "local_normalised", "mask_patches", "reconstruction_loss", "sample_mask"]
