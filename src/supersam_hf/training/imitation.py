"""Training without labels: a SAM's image encoder imitates the frozen original's embeddings (after the neck).

The mask decoder is left as it is: what was trained to read the original's embeddings reads the subnets'. Tokens in the
padding count as all others: SAM's decoder attends to every token, so what they hold changes the masks.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..evaluation import PROMPTS
from ..evaluation.agreement import is_sure
from ..files import file_aside, fingerprint
from ..models.supersam import Subnet, SuperSamModel
from .arguments import EngineArguments
from .engine import Batch, Engine
from .losses import LossArguments, mask_loss


logger = logging.getLogger(__name__)

# Bytes that a safetensors file has beside its tensor, at most.
HEADER = 256
# What the original gives of a batch, beside the pictures.
EMBEDDINGS, MASKS, COUNTED = "original_embeddings", "original_masks", "original_counted"


class EncoderEngine(Engine):
    """Trains the image encoder of a SAM alone; `unwrapped` is the SAM."""

    def __init__(self, model: SuperSamModel, *args: Any, **kwargs: Any) -> None:
        model.requires_grad_(False)
        model.vision_encoder.requires_grad_(True)
        self._whole = model
        super().__init__(model.vision_encoder, *args, **kwargs)
        model.to(self.accelerator.device)

    @property
    def unwrapped(self) -> SuperSamModel:
        return self._whole


def encoder_engine(
    model: SuperSamModel,
    teacher: "Teacher",
    loader: Any,
    args: EngineArguments,
    output_dir: Path | str,
    context: dict[str, Any],
    **options: Any,
) -> EncoderEngine:
    """The engine of a training by a teacher, which becomes part of what a resumed run must share. Arguments as of
    [`Engine`].

    Raises:
        ValueError: If teacher and model have embeddings of different shapes.
    """
    teacher.check(model)
    return EncoderEngine(model, loader, args, output_dir, context | {"original": teacher.fingerprint}, **options)


class StoredEmbeddings:
    """Embeddings of pictures on disk, a safetensors file each, up to a limit.

    Args:
        folder (`Path`): Takes them; those of another model or other data lie in folders of their own.
        limit (`int`): Most bytes of all of them.
        processes (`int`, *optional*, defaults to 1): Those that write there, of which each has an equal share of the
            room that is left.
    """

    def __init__(self, folder: Path, limit: int, processes: int = 1) -> None:
        self.folder = folder
        self._room = (limit - sum(file.stat().st_size for file in folder.glob("*.safetensors"))) // processes

    def get(self, index: int) -> torch.Tensor | None:
        """The embeddings (channels, grid, grid) of picture number `index`, if they are there and whole."""
        file = self._file(index)
        if not file.is_file():
            return None
        try:
            with safe_open(file, "pt") as content:
                return content.get_tensor(EMBEDDINGS)
        except SafetensorError as error:
            logger.warning(f"{file} is damaged and made anew: {error}")
            return None

    def put(self, index: int, embeddings: torch.Tensor) -> None:
        """Keeps embeddings (channels, grid, grid) where there is room."""
        size = embeddings.nbytes + HEADER
        if size > self._room:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with file_aside(self._file(index)) as aside:
            save_file({EMBEDDINGS: embeddings.cpu().contiguous()}, aside)
        self._room -= size

    def _file(self, index: int) -> Path:
        return self.folder / f"{index:08d}.safetensors"


@dataclass
class Teacher:
    """The frozen original, which tells what to imitate.

    Args:
        model (`SuperSamModel`): The original.
        min_predicted_iou (`float`): Masks of which it predicts a smaller IoU are not learned from, in [0, 1].
        stored ([`StoredEmbeddings`], *optional*): Keeps its embeddings; for pictures that are the same in each epoch.
    """

    model: SuperSamModel
    min_predicted_iou: float
    stored: StoredEmbeddings | None = None

    def __post_init__(self) -> None:
        self.model.requires_grad_(False).eval()
        self.fingerprint = fingerprint(self.model)

    def check(self, student: SuperSamModel) -> None:
        """Raises `ValueError` where a model's embeddings are not of the original's shape."""
        shapes = [_embedding_shape(model) for model in (self.model, student)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"`data.original` gives embeddings of (channels, side, side) {shapes[0]}, the model that is trained "
                f"{shapes[1]}: give the SAM that it was made of."
            )

    @torch.no_grad()
    def added_to(self, batch: Batch, engine: Engine, args: LossArguments) -> Batch:
        """The batch with `original_embeddings` (batch, channels, grid, grid), float32, and where masks are learned
        from too `original_masks` (batch, points, side, side) and which of them count, (batch, points)."""
        self.model.to(engine.accelerator.device)
        embeddings = self._embeddings(batch, engine)
        batch = {**batch, EMBEDDINGS: embeddings}
        return batch | self._masks(batch, embeddings) if args.original_mask_weight else batch

    def _embeddings(self, batch: Batch, engine: Engine) -> torch.Tensor:
        def encoded(pictures: torch.Tensor) -> torch.Tensor:
            with engine.accelerator.autocast():
                return self.model.vision_encoder(pictures).last_hidden_state.float()

        if self.stored is None:
            return encoded(batch["pixel_values"])
        found = []
        # One by one: the bits of a product depend on how many pictures are in it, and what is stored must not.
        for index, picture in zip(batch["image_index"].tolist(), batch["pixel_values"]):
            known = self.stored.get(index)
            if known is None:
                known = encoded(picture[None])[0]
                self.stored.put(index, known)
            found.append(known.to(picture.device))
        return torch.stack(found)

    def _masks(self, batch: Batch, embeddings: torch.Tensor) -> Batch:
        outputs = decoded(self.model, embeddings, batch)
        masks = outputs.pred_masks[:, :, 0] > 0
        stride = batch["pixel_values"].shape[-1] // masks.shape[-1]
        cells = torch.arange(masks.shape[-1], device=masks.device) * stride
        rows, columns = (cells < batch["valid_size"][:, axis, None] for axis in (0, 1))
        masks = masks & (rows[:, :, None] & columns[:, None, :])[:, None]
        counted = is_sure(outputs.iou_scores[:, :, 0], self.min_predicted_iou) & masks.any(-1).any(-1)
        return {MASKS: masks, COUNTED: counted}


def imitation_loss(model: SuperSamModel, embeddings: torch.Tensor, batch: Batch, args: LossArguments) -> torch.Tensor:
    """Mean squared error of embeddings (batch, channels, grid, grid), and with `args.original_mask_weight` the loss of
    the masks that the model's own decoder makes of them."""
    loss = F.mse_loss(embeddings.float(), batch[EMBEDDINGS])
    if not args.original_mask_weight or not batch[COUNTED].any():
        return loss
    outputs, counted = decoded(model, embeddings, batch), batch[COUNTED]
    masks, ious = outputs.pred_masks[:, :, 0], outputs.iou_scores[:, :, 0]
    return loss + args.original_mask_weight * mask_loss(masks[counted], ious[counted], batch[MASKS][counted], args)


def imitated(engine: Engine, batch: Batch, subnet: Subnet | None, args: LossArguments, shared: Any) -> torch.Tensor:
    """The loss of a subnet that goes on from what is `shared`, or from the batch's pictures."""
    inputs = {"pixel_values": batch["pixel_values"]} if shared is None else shared
    embeddings = engine.model(subnet=subnet, **inputs).last_hidden_state
    return imitation_loss(engine.unwrapped, embeddings, batch, args)


def decoded(model: SuperSamModel, embeddings: torch.Tensor, batch: Batch) -> Any:
    """Single masks at the batch's points, from embeddings."""
    prompts = {name: batch[name] for name in PROMPTS if name in batch}
    return model(image_embeddings=embeddings, multimask_output=False, **prompts)


def _embedding_shape(model: SuperSamModel) -> tuple[int, int]:
    vision: Any = model.config.vision_config
    return vision.output_channels, vision.image_size // vision.patch_size


__all__ = [
    "EMBEDDINGS",
    "EncoderEngine",
    "StoredEmbeddings",
    "Teacher",
    "encoder_engine",
    "imitated",
    "imitation_loss",
]
