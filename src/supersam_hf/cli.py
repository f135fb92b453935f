"""The verbs of `supersam-hf`: a recipe is parsed, a stage is run."""

import argparse
import logging
import sys

from jsonargparse import ArgumentParser, set_parsing_settings

from .recipe import Recipe


# Which sections each verb reads; the others are accepted (a recipe has them all) but not listed in its help.
COMMON = ("config", "output_dir", "model", "data")
SECTIONS = {
    "pretrain": ("data", "pretrain"),
    "rank-layers": (*COMMON, "holdout_images", "space", "rank_layers"),
    "reorder": (*COMMON, "holdout_images", "space", "reorder"),
    "train": (*COMMON, "holdout_images", "space", "train"),
    "finetune": (*COMMON, "holdout_images", "finetune"),
    "evaluate": (*COMMON, "space", "evaluate"),
    "search": (*COMMON, "holdout_images", "space", "search", "measure"),
    "extract": ("config", "output_dir", "model", "subnet"),
    "measure": (*COMMON, "space", "measure", "subnet"),
}


def recipe_parser(verb: str) -> ArgumentParser:
    """A parser of every value of a [`Recipe`], whose help lists those that the verb reads."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog=f"supersam-hf {verb}", description=_description(verb), allow_abbrev=False, default_env=False
    )
    parser.add_argument("--config", action="config", help="recipe (YAML); later options override it")
    parser.add_class_arguments(Recipe)
    if verb == "run":
        help_text = "run this stage and those after it again, though their output is there"
        parser.add_argument("--redo", type=str, default=None, help=help_text)
    if verb in ("extract", "measure"):
        what = "JSON file of a subnet, or `largest`, `smallest`, `found` (what search chose)"
        parser.add_argument("--subnet", type=str, default="found" if verb == "extract" else "largest", help=what)
    if verb == "pretrain":
        parser.set_defaults({"pretrain.enabled": True})
    _hide_others(parser, SECTIONS.get(verb))
    return parser


def _description(verb: str) -> str:
    from supersam_hf_cli import VERBS

    return VERBS[verb][0].upper() + VERBS[verb][1:] + "."


def _hide_others(parser: ArgumentParser, sections: tuple[str, ...] | None) -> None:
    if sections is None:
        return
    for action in parser._actions:
        if action.dest.split(".")[0] not in (*sections, "help", "print_config", "config", "output_dir"):
            action.help = argparse.SUPPRESS
    for group in parser._action_groups:
        if all(action.help == argparse.SUPPRESS for action in group._group_actions):
            group.title = group.description = None


def run_verb(verb: str, argv: list[str]) -> int:
    """Parses `argv` and runs the verb. Bad values end with a message that names them and exit code 2."""
    from transformers.utils import logging as transformers_logging

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if verb == "convert":
        return _convert(argv)
    from .pipeline import run_verb as run_stage
    from .training.engine import LaunchError

    parser = recipe_parser(verb)
    values = parser.parse_args(argv)
    try:
        parsed = vars(parser.instantiate(values))
        extra = {key: parsed.pop(key) for key in ("redo", "subnet") if key in parsed}
        parsed.pop("config", None)
        recipe = Recipe(**parsed)
        run_stage(verb, recipe, **extra)
    except (ValueError, OSError, LaunchError) as error:
        # What the user can mend: no traceback.
        print(f"supersam-hf {verb}: {error}", file=sys.stderr)
        return 2
    return 0


def _convert(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="supersam-hf convert", description=_description("convert"))
    parser.add_argument("checkpoint", help="original SAM checkpoint (sam_vit_b_01ec64.pth, ...)")
    parser.add_argument("output_dir", help="folder to write")
    args = parser.parse_args(argv)
    from .models.supersam import SuperSamModel, SuperSamProcessor
    from .models.supersam.convert_meta import load_meta_checkpoint

    try:
        config, state = load_meta_checkpoint(args.checkpoint)
    except (ValueError, FileNotFoundError) as error:
        print(f"supersam-hf convert: {error}", file=sys.stderr)
        return 2
    model = SuperSamModel(config)
    model.load_state_dict(state)
    model.save_pretrained(args.output_dir)
    SuperSamProcessor.for_config(config).save_pretrained(args.output_dir)
    print(f"wrote {args.output_dir}")
    return 0
