"""Exported models run by ONNX Runtime, called as the PyTorch models they came from."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.models.sam.modeling_sam import SamImageSegmentationOutput

from .graphs import NO_POINT
from .onnx import CLASSIFIER, DECODER, ENCODER
from .requirements import require_onnx


INT8 = "_int8"
CORNERS = (2, 3)


class OnnxModule(nn.Module):
    """What runs ONNX files on the CPU, on as many threads as torch uses; it has no weights of torch's."""

    device = torch.device("cpu")

    def session(self, folder: str | Path, name: str, int8: bool) -> Any:
        """One file's ONNX Runtime session; `FileNotFoundError` if there is none."""
        require_onnx()
        import onnxruntime

        path = Path(folder) / f"{name}{INT8 if int8 else ''}.onnx"
        if not path.is_file():
            raise FileNotFoundError(f"There is no {path}; `supersam-hf export` writes it.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class OnnxSam(OnnxModule):
    """A SAM from a folder of [`export_onnx`]; takes and gives what `SamModel` does, on the CPU.

    Args:
        folder (`str` or `Path`): With the two ONNX files.
        int8 (`bool`): The files with int8 weights (see [`quantize_onnx`]).

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If the `onnx` extra is not installed.
    """

    def __init__(self, folder: str | Path, int8: bool = False) -> None:
        super().__init__()
        self.encoder = self.session(folder, ENCODER, int8)
        self.decoder = self.session(folder, DECODER, int8)

    def get_image_embeddings(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Images (batch, 3, size, size) to embeddings (batch, channels, grid, grid)."""
        return torch.from_numpy(self.encoder.run(None, {"pixel_values": pixel_values.float().numpy()})[0])

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        input_points: torch.Tensor | None = None,
        input_labels: torch.Tensor | None = None,
        input_boxes: torch.Tensor | None = None,
        image_embeddings: torch.Tensor | None = None,
        multimask_output: bool = True,
    ) -> SamImageSegmentationOutput:
        """Segments what the prompts point at, as `SamModel` does; there must be points or boxes."""
        if (pixel_values is None) == (image_embeddings is None):
            raise ValueError("Give either `pixel_values` or `image_embeddings`.")
        points, labels = prompt_tokens(input_points, input_labels, input_boxes)
        embeddings: Any = image_embeddings if pixel_values is None else self.get_image_embeddings(pixel_values)
        inputs = {"image_embeddings": embeddings, "input_points": points, "input_labels": labels}
        masks, scores = self.decoder.run(None, {name: value.numpy() for name, value in inputs.items()})
        kept = slice(1, None) if multimask_output else slice(0, 1)
        masks, scores = torch.from_numpy(masks)[:, :, kept], torch.from_numpy(scores)[:, :, kept]
        return SamImageSegmentationOutput(iou_scores=scores, pred_masks=masks)


class OnnxClassifier(OnnxModule):
    """A classifier from a folder of [`export_onnx`], on the CPU.

    Args:
        folder (`str` or `Path`): With `model.onnx`.
        int8 (`bool`): The file with int8 weights.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If the `onnx` extra is not installed.
    """

    def __init__(self, folder: str | Path, int8: bool = False) -> None:
        super().__init__()
        self.classifier = self.session(folder, CLASSIFIER, int8)

    def forward(self, pixel_values: torch.Tensor) -> ImageClassifierOutput:
        """Images (batch, channels, size, size) to `logits` (batch, labels)."""
        logits = self.classifier.run(None, {"pixel_values": pixel_values.float().numpy()})[0]
        return ImageClassifierOutput(logits=torch.from_numpy(logits))


def prompt_tokens(
    points: torch.Tensor | None, labels: torch.Tensor | None, boxes: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the exported decoder takes for the prompts of a `SamModel`: a box as its two corners, labelled 2 and 3; one
    more point, of label -1, where there is no box.

    Args:
        points (`torch.Tensor` of shape `(batch, prompts, points, 2)`, *optional*): x, y in pixels of the input.
        labels (`torch.Tensor` of shape `(batch, prompts, points)`, *optional*): All 1 if left out.
        boxes (`torch.Tensor` of shape `(batch, prompts, 4)`, *optional*): x1, y1, x2, y2, likewise.

    Returns:
        `tuple`: Points, float32 (batch, prompts, points, 2), and labels, int64 (batch, prompts, points).

    Raises:
        ValueError: If there are neither points nor boxes.
    """
    if points is None and boxes is None:
        raise ValueError("Give `input_points` or `input_boxes`: a SAM needs something to point at.")
    parts = []
    if points is not None:
        parts.append((points.float(), torch.ones(points.shape[:3]) if labels is None else labels))
    if boxes is not None:
        corners = boxes.float().unflatten(-1, (2, 2))  # (batch, prompts, 4) -> (batch, prompts, 2, 2)
        parts.append((corners, torch.tensor(CORNERS).expand(corners.shape[:3])))
    else:
        batch, prompts = parts[0][0].shape[:2]
        parts.append((torch.zeros(batch, prompts, 1, 2), torch.full((batch, prompts, 1), NO_POINT)))
    return torch.cat([part[0] for part in parts], 2), torch.cat([part[1].long() for part in parts], 2)


__all__ = ["OnnxClassifier", "OnnxSam", "prompt_tokens"]
