"""`supersam-hf export`: a model as ONNX files, or with int8 weights, checked against PyTorch and timed beside it."""

import sys
from pathlib import Path

from ..fields import place, section
from .parser import CommandParser, section_of


def parser() -> CommandParser:
    """Its arguments."""
    parser = CommandParser(
        prog="supersam-hf export",
        description="Write a SAM (stock, supernet or subnet; image encoder and mask decoder apart) or a ViT or DeiT "
        "classifier as ONNX, or with int8 weights; check it against PyTorch on images, and time both.",
    )
    parser.add_argument("model", type=place, metavar="MODEL", help="folder of a model, or its id on the Hub")
    parser.add_argument("--output_dir", type=place, required=True, metavar="DIR", help="folder to write, new or empty")
    parser.add_argument("--format", default="onnx", help="onnx, or safetensors for from_pretrained (onnx)")
    parser.add_argument("--quantize", metavar="int8", help="int8: linear layers' weights in one byte")
    parser.add_argument("--subnet", type=place, metavar="NAME", help="largest, smallest, pareto-N, or a JSON file")
    parser.add_argument("--opset", type=int, default=17, help="version of ONNX's operators, 17 to 20 (17)")
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    parser.add_argument("--rounds", type=int, default=10, metavar="N", help="timed calls of each form (10)")
    images = parser.add_argument_group("images to check on, and to evaluate on where a source is given")
    images.add_argument("--data.source", type=place, metavar="SOURCE", help="path or dataset id (generated scenes)")
    images.add_argument("--data.eval_split", metavar="SPLIT", help="split of the source (validation)")
    images.add_argument("--data.max_eval_images", type=int, metavar="N", help="the first so many (20)")
    images.add_argument("--data.crop_eval", type=int, metavar="PX", help="SAM: side of the central square crop")
    images.add_argument("--data.min_area", type=int, metavar="PX", help="SAM: smallest object (25)")
    images.add_argument("--data.box_padding", type=int, metavar="PX", help="SAM: most that a box grows (20)")
    images.add_argument(
        "--data.label_mapping", type=place, metavar="FILE", help="classifier: JSON of the data's names to its labels"
    )
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
        with section("data"):
            samples = SampleArguments(**section_of(vars(args), "data"))
        model, processor = load_model(args.model, args.subnet, args.revision)
        options = {"format": args.format, "quantize": args.quantize, "opset": args.opset, "rounds": args.rounds}
        print(deploy(model, processor, folder, samples=samples, **options))
    except (ValueError, OSError) as error:
        print(f"supersam-hf export: {error}", file=sys.stderr)
        return 2
    files = ", ".join(sorted(path.name for path in folder.iterdir() if path.suffix in (".onnx", ".safetensors")))
    print(f"wrote {folder}: {files}")
    return 0
