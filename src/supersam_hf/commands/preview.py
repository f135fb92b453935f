"""`supersam-hf preview`: a figure of what a recipe trains or evaluates on, before anything is trained."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cli import RecipeParser, recipe_parser


if TYPE_CHECKING:
    import torch
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

    from ..data import DataArguments


# Longest side of a drawn image, px; what the model sees may be larger.
DRAWN_PX = 512


def parser() -> RecipeParser:
    """Its arguments: those of a recipe, of which `data` is read, and its own."""
    parser = recipe_parser("preview")
    parser.add_argument("--output", type=str, default="preview.png", help="the picture (.png, .pdf, .svg)")
    parser.add_argument("--num_images", type=int, default=12, help="images, drawn at random from the split")
    parser.add_argument("--split", type=str, choices=("train", "eval"), default="train", help="which of both splits")
    parser.add_argument("--image_size", type=int, default=1024, help="side of the model's input, px")
    return parser


def main(argv: list[str]) -> int:
    """Draws the figure; returns the exit code."""
    own = parser()
    values = own.parse(argv)
    from ..data import DataArguments
    from ..fields import build, section
    from ..plots import plot_samples
    from ..plots.common import check_path

    try:
        check_path(values["output"])
        with section("data"):
            data = build(DataArguments, values["data"].as_dict())
        if values["num_images"] < 1 or values["image_size"] < 64 or values["image_size"] % 16:
            raise ValueError("`--num_images` must be at least 1, `--image_size` a multiple of 16 from 64 px on.")
        samples = drawn_samples(data, values["split"], values["num_images"], values["image_size"])
        print(f"wrote {plot_samples(samples, Path(values['output']).expanduser())}")
    except (ValueError, OSError) as error:
        print(f"supersam-hf preview: {error}", file=sys.stderr)
        return 2
    return 0


def drawn_samples(args: "DataArguments", split: Any, num_images: int, image_size: int) -> list[dict[str, Any]]:
    """Samples of random images of a split, each of which shows an object, as `plot_samples` draws them.

    Raises:
        ValueError: If the source cannot be read, or shows no object.
    """
    from ..data.dataset import PromptSamples
    from ..data.source import UnreadableError

    if args.unlabelled:
        raise ValueError("`data.format: images` has no objects or prompts to draw.")

    processor = image_processor(image_size)
    rows = split_rows(args, split)
    samples = PromptSamples(rows, processor, args, training=split == "train")
    drawn: list[dict[str, Any]] = []
    for index in np.random.default_rng(args.seed).permutation(len(rows)).tolist():
        try:
            row = rows.read(index)
            shown = samples.sample(row, 0, index) if samples.shows(row["objects"]) else None
        except UnreadableError as error:
            if args.on_error == "raise":
                raise
            print(f"left out: {error}", file=sys.stderr)
            continue
        if shown is not None:
            drawn.append({"name": row["image_id"], **_drawn(shown, processor)})
        if len(drawn) == num_images:
            break
    if not drawn:
        raise ValueError(f"None of {len(rows)} images shows an object of `data.min_area` ({args.min_area} px).")
    return drawn


def split_rows(args: "DataArguments", split: Any) -> Any:
    """The examples of a split by index: read as they are needed where they can be, so that nothing is converted."""
    from ..data import load_source, open_source
    from ..data.load import FILE_LAYOUTS, layout_of
    from ..data.rows import SourceRows, TableRows

    if layout_of(args) in FILE_LAYOUTS:
        return SourceRows(open_source(args, split))
    return TableRows(load_source(args, split), training=split == "train")


def image_processor(side: int) -> "SamImageProcessorPil":
    """What prepares images for a SAM of an input size."""
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

    square, mask_square = {"height": side, "width": side}, {"height": side // 4, "width": side // 4}
    return SamImageProcessorPil(
        size={"longest_edge": side},
        pad_size=square,
        mask_size={"longest_edge": side // 4},
        mask_pad_size=mask_square,
    )


def _drawn(sample: "dict[str, torch.Tensor]", processor: "SamImageProcessorPil") -> dict[str, Any]:
    """What is drawn of a sample: all of the model's input, padding too, at `DRAWN_PX` at most."""
    import torch

    keep = sample["object_mask"]
    mean, std = (torch.tensor(v)[:, None, None] for v in (processor.image_mean, processor.image_std))
    image = (sample["pixel_values"] * std + mean).clamp(0, 1).permute(1, 2, 0)  # (S, S, 3)
    stride = -(-image.shape[0] // DRAWN_PX)
    # In training there are no masks but those that the loss compares with: (K, S/4, S/4).
    masks = sample["masks"] if "masks" in sample else sample["low_res_masks"]
    # There the slots that are left over repeat objects, with prompts of their own.
    unique, numbers = masks[keep].unique(dim=0, return_inverse=True)
    scale = image.shape[0] // masks.shape[-1]
    whole = unique.repeat_interleave(scale, 1).repeat_interleave(scale, 2)  # (K, S, S)
    boxes, points = sample.get("input_boxes"), sample.get("input_points")
    return {
        "image": (image[::stride, ::stride] * 255).round().byte().numpy(),
        "truth": whole[:, ::stride, ::stride].bool().numpy(),
        "objects": numbers.tolist(),
        "boxes": None if boxes is None else boxes[keep].numpy() / stride,
        "points": None if points is None else points[keep][:, 0].numpy() / stride,
    }
