"""Bi-masks put on an ordinary model by hooks, and taken off again."""

from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers.modeling_outputs import ImageClassifierOutput

from .families import family_of
from .families.base import Position
from .pmim import PatchMasking, PmimDecoder
from .scores import BiMask
from .space import SearchSpace
from .stack import MaskStack, StackValues
from .submodules import Slice, columns, kind_of


@dataclass
class MaskedOutput(ImageClassifierOutput):
    """Output of a [`MaskedModel`]: `logits`, and `reconstruction` (masked patches, channels, patch_size, patch_size),
    by the PMIM decoder, image by image and row by row."""

    reconstruction: torch.Tensor | None = None


class MaskedModel(nn.Module):
    """A model with a bi-mask on every searched submodule, and the decoder of PMIM. What the search trains.

    A linear is masked by its weights: O(weights) operations, where masking its outputs would take O(tokens).

    The model itself stays ordinary: its modules are hooked and its linears have a forward of their own for the time of
    the search; `remove` leaves nothing on them.

    Args:
        model (`PreTrainedModel`): Of one of the families (`families/`). Kept as `model`.
        space ([`SearchSpace`]): What is searched.
        generator (`torch.Generator`, *optional*): Draws scores and architecture parameters.
        score_mean (`float`): Mean of the initial scores.
        score_std (`float`): Their standard deviation.
        ordinal (`bool`): Ordinal weight sharing, the baseline of OFB's Table 5a.
        pmim ("before", "after" or None): Patches are masked before or after positions are added; `None`: no PMIM.

    Attributes:
        lam (`float`): Weight of the importance score in Eq. 3.
        submodules (`dict[str, Submodule]`): What is masked, by name.
        values (`dict[str, StackValues]`): The masks' scores in the last forward, by kind of submodule ("embedding",
            "attention", "mlp"); with their graph.
    """

    def __init__(
        self,
        model: Any,
        space: SearchSpace,
        *,
        generator: torch.Generator | None = None,
        score_mean: float = 3.0,
        score_std: float = 0.2,
        ordinal: bool = False,
        pmim: Position | None = "before",
    ) -> None:
        super().__init__()
        self.model = model
        self.lam = 1.0
        self.family = family_of(model)
        self.submodules = self.family.submodules(model, space)
        if not self.submodules:
            raise ValueError("The `space` searches nothing: every submodule is off or has a single size.")
        init: Any = {"generator": generator, "score_mean": score_mean, "score_std": score_std, "ordinal": ordinal}
        self._masks = nn.ModuleList(
            BiMask(s.groups, s.units, s.group_sizes, s.unit_sizes, shared_units=s.shared_units, **init)
            for s in self.submodules.values()
        )
        # Hooked before the masks, so that the mask token is masked like any other embedding.
        self.patch_masking: PatchMasking | None = None
        self.decoder: PmimDecoder | None = None
        if pmim is not None:
            self._add_pmim(pmim)
        self._stacks: dict[str, MaskStack] = {}
        # Of the last forward: the scores, the masks, and which have units that are dead but not cut yet.
        self.values: dict[str, StackValues] = {}
        self._masks_by_name: dict[str, torch.Tensor] = {}
        self._partly_dead: set[str] = set()
        self._handles: list[RemovableHandle] = []
        self._linears: list[nn.Linear] = []
        for name, submodule in self.submodules.items():
            for module in submodule.masked:
                self._put_on(name, module)
            # before the token of PMIM is put in, which no norm has seen
            self._handles += [
                norm.register_forward_hook(partial(self._normalise, name), prepend=True) for norm in submodule.norms
            ]
        # What the decoder of PMIM reads; after the hooks that may change it.
        self._tokens: torch.Tensor | None = None
        if pmim is not None:
            self._handles.append(self.family.last_norm(model).register_forward_hook(self._keep_tokens))

    def _put_on(self, name: str, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            # not a hook, which would come before or after the multiplication with the weights
            module.forward = partial(self._linear, name, module)  # type: ignore[method-assign]
            self._linears.append(module)
        else:
            self._handles.append(module.register_forward_hook(partial(self._mask, name)))

    def _add_pmim(self, position: Position) -> None:
        config = self.model.config
        self.patch_masking = PatchMasking(self.model, position)
        side = self.patch_masking.across * config.patch_size
        self.decoder = PmimDecoder(self.family.last_norm(self.model).weight.shape[0], side, config.num_channels)
        sizes = self.family.sizes(self.family.physical_shape(self.model))
        streams = [name for name in sizes if kind_of(name) == "embedding"]
        token, decoded = Slice(self.patch_masking, "token", 2), columns(self.decoder.projection)
        for name, piece in ((streams[0], token), (streams[-1], decoded)):
            if name in self.submodules:
                self.submodules[name].sliced.append(piece)

    @property
    def config(self) -> Any:
        return self.model.config

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def masks(self) -> dict[str, BiMask]:
        """The bi-masks by the names of their submodules."""
        return dict(zip(self.submodules, self._masks))  # type: ignore[arg-type]

    @property
    def decided(self) -> bool:
        """Whether every submodule has one option left."""
        return all(mask.decided for mask in self.masks.values())

    @property
    def stacks(self) -> dict[str, MaskStack]:
        """The bi-masks by kind, as they stand."""
        if not self._stacks or not all(stack.is_current() for stack in self._stacks.values()):
            kinds = dict.fromkeys(map(kind_of, self.submodules))
            of_kind = {kind: [mask for name, mask in self.masks.items() if name.startswith(kind)] for kind in kinds}
            # perhaps in an evaluation; the next training step differentiates through it
            with torch.inference_mode(False):
                self._stacks = {kind: MaskStack(masks) for kind, masks in of_kind.items()}
            self._partly_dead = {name for name, s in self.submodules.items() if s.norms and self._has_dead(name)}
        return self._stacks

    def evaluate(self) -> dict[str, StackValues]:
        """The scores of all masks as they are now, by kind of submodule."""
        return {kind: stack.evaluate(self.lam) for kind, stack in self.stacks.items()}

    def update(self) -> None:
        """Brings the masks that the model runs with up to the scores: a forward does so by itself."""
        self.values = self.evaluate()
        # submodules are in the order of their kinds
        self._masks_by_name = dict(zip(self.submodules, chain(*(value.masks for value in self.values.values()))))

    def forward(self, pixel_values: torch.Tensor, patch_mask: torch.Tensor | None = None, **kwargs: Any) -> Any:
        """Runs the masked model.

        Args:
            pixel_values (`torch.Tensor` of shape (batch, channels, height, width)): Normalised images.
            patch_mask (`torch.Tensor` of shape (batch, patches), bool, *optional*): Patches to mask and reconstruct.
                On a GPU it would have to be waited for: leave it on the CPU.
        """
        self.update()
        if patch_mask is None:
            return self.model(pixel_values, **kwargs)
        if self.patch_masking is None or self.decoder is None:
            raise ValueError("`patch_mask` is given, but the masked model was made without `pmim`.")
        # before the model runs: of a mask on a GPU the number has to be waited for
        images, patches = patch_mask.nonzero().to(self.device).unbind(1)
        self.patch_masking.mask = patch_mask
        try:
            outputs = self.model(pixel_values, **kwargs)
        finally:
            self.patch_masking.mask = None
        assert self._tokens is not None
        special = self._tokens.shape[1] - patch_mask.shape[1]
        masked = self._tokens[images, special + patches]  # (masked patches, hidden_size)
        self._tokens = None
        return MaskedOutput(logits=outputs.logits, reconstruction=self.decoder(masked))

    def _keep_tokens(self, module: nn.Module, args: Any, output: torch.Tensor) -> None:
        if self.patch_masking is not None and self.patch_masking.mask is not None:
            self._tokens = output

    def _linear(self, name: str, module: nn.Linear, hidden: torch.Tensor) -> torch.Tensor:
        """A linear whose outputs are masked: m (W x + b) = (m W) x + m b."""
        mask = self._masks_by_name[name].to(module.weight.dtype)
        mask = mask.repeat(module.weight.shape[0] // len(mask))  # q, k and v in one
        bias = None if module.bias is None else module.bias * mask
        return F.linear(hidden, module.weight * mask[:, None], bias)

    def _mask(self, name: str, module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        return output * self._masks_by_name[name].to(output.dtype)

    def _normalise(self, name: str, norm: nn.LayerNorm, args: Any, output: torch.Tensor) -> torch.Tensor | None:
        """Layer norm over the live channels only: a masked channel must not count, as it would not after the cut."""
        if name not in self._partly_dead:
            return None
        (hidden,) = args
        live = self._masks_by_name[name].detach() > 0
        live = live.repeat(norm.weight.shape[0] // len(live))  # the channels of several neighbours
        normed = F.layer_norm(hidden[..., live], (int(live.sum()),), norm.weight[live], norm.bias[live], norm.eps)
        full = torch.zeros_like(output, dtype=normed.dtype)
        full[..., live] = normed
        return full

    def _has_dead(self, name: str) -> bool:
        mask = self.masks[name]
        return mask.live_sizes() != (mask.groups, mask.units)

    def gradient_checkpointing_enable(self) -> None:
        self.model.gradient_checkpointing_enable()

    def remove(self) -> Any:
        """Takes masks and PMIM off, without folding them in; returns the model."""
        for linear in self._linears:
            del linear.forward
        self._linears.clear()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self.patch_masking is not None:
            self.patch_masking.remove()
        return self.model


__all__ = ["MaskedModel", "MaskedOutput"]
