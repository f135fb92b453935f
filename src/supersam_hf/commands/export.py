"""`supersam-hf export`: a model as ONNX files, or with int8 weights, checked against PyTorch and timed beside it."""

import argparse
import sys
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """Its arguments."""
    parser = argparse.ArgumentParser(
        prog="supersam-hf export",
        description="Write a SAM (stock, supernet or subnet; image encoder and mask decoder apart) or a ViT or DeiT "
        "classifier as ONNX, or with int8 weights; check it against PyTorch on images, and time both.",
    )
    parser.add_argument("model", metavar="MODEL", help="folder of a model, or its id on the Hub")
    parser.add_argument("--output_dir", required=True, metavar="DIR", help="folder to write, new or empty")
    parser.add_argument("--format", default="onnx", help="onnx, or safetensors for from_pretrained (onnx)")
    parser.add_argument("--quantize", metavar="int8", help="int8: linear layers' weights in one byte")
    parser.add_argument("--subnet", metavar="NAME", help="of a supernet: largest, smallest, pareto-N, or a JSON file")
    parser.add_argument("--opset", type=int, default=17, help="version of ONNX's operators, 17 to 20 (17)")
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    parser.add_argument("--rounds", type=int, default=10, metavar="N", help="timed calls of each form (10)")
    images = parser.add_argument_group("images to check on, and to evaluate on where a source is given")
    images.add_argument("--data", metavar="SOURCE", help="local path or dataset id (generated scenes: check only)")
    images.add_argument("--eval_split", default="validation", metavar="SPLIT", help="split of the source (validation)")
    images.add_argument("--num_images", type=int, default=20, metavar="N", help="the first so many (20)")
    images.add_argument("--crop_eval", type=int, metavar="PX", help="SAM: side of the central square crop")
    images.add_argument("--min_area", type=int, default=25, metavar="PX", help="SAM: smallest object (25)")
    images.add_argument("--box_padding", type=int, default=20, metavar="PX", help="SAM: most that a box grows (20)")
    images.add_argument("--label_mapping", metavar="FILE", help="classifier: JSON of the data's names to its labels")
    return parser


def main(argv: list[str]) -> int:
    """Exports; returns the exit code."""
    args = parser().parse_args(argv)
    from ..deploy.deploy import check_options, deploy
    from ..deploy.samples import SampleArguments
    from ..deploy.source import load_model

    try:
        folder = Path(args.output_dir)
        check_options(args.format, args.quantize, args.opset, folder)
        samples = SampleArguments(
            source=args.data,
            eval_split=args.eval_split,
            num_images=args.num_images,
            crop_eval=args.crop_eval,
            min_area=args.min_area,
            box_padding=args.box_padding,
            label_mapping=args.label_mapping,
        )
        model, processor = load_model(args.model, args.subnet, args.revision)
        options = {"format": args.format, "quantize": args.quantize, "opset": args.opset, "rounds": args.rounds}
        print(deploy(model, processor, folder, samples=samples, **options))
    except (ValueError, OSError) as error:
        print(f"supersam-hf export: {error}", file=sys.stderr)
        return 2
    files = ", ".join(sorted(path.name for path in folder.iterdir() if path.suffix in (".onnx", ".safetensors")))
    print(f"wrote {folder}: {files}")
    return 0
