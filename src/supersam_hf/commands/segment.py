"""`supersam-hf segment`: a ViT, or what OFB found in one, fine-tuned for semantic segmentation with a SETR head."""

import sys

from ..cli import RecipeParser


def parser() -> RecipeParser:
    """Every value of a [`SegmenterRecipe`]."""
    from ..segmenter_recipe import SegmenterRecipe

    parser = RecipeParser(
        prog="supersam-hf segment",
        description=__doc__,
        allow_abbrev=False,
        default_env=False,
        recipe_type=SegmenterRecipe,
    )
    parser.add_argument("--config", action="config", help="recipe (YAML); later options override it")
    parser.add_argument("--dry_run", action="store_true", help="tell sizes, images and steps, and stop")
    parser.add_class_arguments(SegmenterRecipe)
    return parser


def main(argv: list[str]) -> int:
    """Trains, evaluates and times; returns the exit code."""
    from ..fields import build
    from ..segmenter_recipe import SegmenterRecipe
    from ..training.errors import TrainingError, explained

    own = parser()
    values = own.parse(argv)
    try:
        parsed = values.as_dict()
        parsed.pop("config", None)
        dry_run = parsed.pop("dry_run")
        recipe: SegmenterRecipe = build(SegmenterRecipe, parsed)
        from ..pipeline.segmenter import run_segmenter, tell_plan

        with explained():
            (tell_plan if dry_run else run_segmenter)(recipe)
    except (ValueError, OSError, TrainingError) as error:
        print(f"supersam-hf segment: {error}", file=sys.stderr)
        return 2
    return 0
