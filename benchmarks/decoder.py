"""SAM's mask decoder as candidates of a search are evaluated with it, against stock transformers, same weights.

    python benchmarks/decoder.py [--model SAM] [--batch_size 8] [--objects 8] [--rounds 20] [--multimask]

Every slot holds a box, prompts are embedded beforehand in both, images are random embeddings. `floor_ms` is the stock
decoder's multiply-accumulates by the matmul rate of this machine; ours multiplies fewer. `own_ms` in the JSON are
profiles of five runs each.
"""

import argparse
from typing import Any

import torch
from common import DTYPES, floor_ms, main, measured_rates, most_of, operations, sam_tiny

from supersam_hf import SuperSamModel
from supersam_hf.elastic.cost import SamShape, count_macs
from supersam_hf.evaluation.decoding import EmbeddedPrompts, decode
from supersam_hf.measure import compare_latency


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="Hub id or folder of a SAM or supernet (default: random, of 10 M)")
    parser.add_argument("--batch_size", type=int, default=8, help="images")
    parser.add_argument("--objects", type=int, default=8, help="boxes an image")
    parser.add_argument("--multimask", action="store_true", help="the three-mask output too; stock runs once more")
    parser.add_argument("--rounds", type=int, default=20, help="interleaved rounds")


def boxes(images: int, objects: int, size: int) -> torch.Tensor:
    """Random boxes (images, objects, 4), pixels."""
    corners = torch.rand(images, objects, 2, 2) * size
    return torch.cat([corners.amin(2), corners.amax(2)], dim=-1)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    if args.quick:
        args.batch_size, args.rounds = 2, 1
    torch.manual_seed(0)
    model = sam_tiny(1) if args.model is None else SuperSamModel.from_pretrained(args.model)
    model = model.to(args.device, DTYPES[args.dtype]).eval()
    shape = SamShape.from_config(model.config)
    size, outputs = shape.grid, (False, True) if args.multimask else (False,)
    batch = {"input_boxes": boxes(args.batch_size, args.objects, 16 * size).to(args.device, DTYPES[args.dtype])}
    batch["object_mask"] = torch.ones(args.batch_size, args.objects, dtype=torch.bool, device=args.device)
    embeddings = torch.randn(args.batch_size, shape.decoder_size, size, size).to(args.device, DTYPES[args.dtype])

    with torch.inference_mode():
        prompts = EmbeddedPrompts.of(model, batch)
        embedded = model.prompt_encoder(None, None, batch["input_boxes"], None)
        positions = model.get_image_wide_positional_embeddings().repeat(args.batch_size, 1, 1, 1)

        def stock() -> torch.Tensor:
            found = [model.mask_decoder(embeddings, positions, *embedded, multimask_output=m)[0] for m in outputs]
            return torch.cat([masks.flatten(0, 1) for masks in found], dim=1)

        def ours() -> torch.Tensor:
            return decode(model.mask_decoder, embeddings, prompts, multimask=args.multimask)[0]

        difference = (stock() - ours()).abs().max().item()
        timed = compare_latency({"stock": stock, "ours": ours}, args.rounds, device=args.device)
        profiles = {name: most_of(operations(run)) for name, run in (("stock", stock), ("ours", ours))}
    decoder = count_macs(shape, None, 1) - count_macs(shape)
    macs = len(outputs) * args.batch_size * args.objects * decoder
    floor = floor_ms(macs, 0, measured_rates(args.device, args.dtype))
    rows = [
        {"name": name, "ms": one.latency.median_ms, "ratio": one.ratio, "ratio_p10": one.ratio_p10}
        | {"ratio_p90": one.ratio_p90, "times_as_fast": 1 / one.ratio, "floor_ms": floor}
        for name, one in timed.items()
    ]
    names = ("batch_size", "objects", "multimask", "rounds")
    settings = {"model": args.model or "random", **{name: vars(args)[name] for name in names}}
    return {"rows": rows, "settings": settings, "max_difference": difference, "own_ms": profiles}


if __name__ == "__main__":
    main(__doc__, arguments, measure)
