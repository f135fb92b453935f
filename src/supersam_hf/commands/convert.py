"""`supersam-hf convert`: Meta's original SAM checkpoints."""

import sys
from pathlib import Path

from ..fields import place
from .parser import CommandParser


def parser() -> CommandParser:
    """Its arguments."""
    parser = CommandParser(
        prog="supersam-hf convert",
        description="Turn an original SAM .pth checkpoint into a folder that from_pretrained loads.",
    )
    parser.add_argument("checkpoint", type=place, help="original SAM checkpoint (sam_vit_b_01ec64.pth, ...)")
    parser.add_argument("output_dir", type=place, help="folder to write, new or empty")
    return parser


def main(argv: list[str]) -> int:
    """Converts a `.pth` file to a folder that `from_pretrained` loads; returns the exit code."""
    args = parser().parse_args(argv)
    from ..files import check_empty, written_aside
    from ..models.supersam import SuperSamModel, SuperSamProcessor
    from ..models.supersam.convert_meta import load_meta_checkpoint

    folder = Path(args.output_dir)
    try:
        check_empty(folder)
        config, state = load_meta_checkpoint(args.checkpoint)
        model = SuperSamModel(config)
        model.load_state_dict(state)
        with written_aside(folder) as aside:
            model.save_pretrained(aside)
            SuperSamProcessor.for_config(config).save_pretrained(aside)
            check_empty(folder)  # still
    except (ValueError, OSError, RuntimeError) as error:  # RuntimeError: tensors whose shapes do not fit together
        print(f"supersam-hf convert: {error}", file=sys.stderr)
        return 2
    print(f"wrote {args.output_dir}")
    return 0
