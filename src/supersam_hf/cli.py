"""The verbs of `supersam-hf`: a recipe is parsed, a stage is run."""

import argparse
import importlib
import logging
import os
import re
import sys
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from jsonargparse import ArgumentParser

from supersam_hf_cli.options import known_keys, unknown_word, verb_named
from supersam_hf_cli.recipes import RecipeError, check_keys, check_word, given_options, read_recipe, read_yaml

from .fields import FieldError, build, hint_of, section, words
from .interruption import Interrupted, interruptible


Method = Literal["supersam", "ofb"]

OWN_RECIPES = (
    "Recipes of SAMs go to `supersam-hf VERB`, of classifiers to `supersam-hf ofb`, of segmenters to `segment`."
)
# Verbs with arguments of their own instead of a recipe: a module each in `commands/`.
COMMANDS = ("convert", "experiment", "export", "prepare", "preview", "push", "report", "segment")
# Which sections each verb reads; the others are accepted (a recipe has them all) but not listed in its help.
COMMON = ("config", "output_dir", "model", "data")
ALWAYS = ("help", "print_config", "config", "output_dir", "dry_run", "seed", "deterministic", "energy")
SECTIONS = {
    "preview": ("config", "data"),
    "pretrain": ("data", "pretrain"),
    "rank-layers": (*COMMON, "holdout_images", "cache_gb", "space", "rank_layers"),
    "reorder": (*COMMON, "holdout_images", "space", "reorder"),
    "train": (*COMMON, "holdout_images", "space", "train"),
    "recover": (*COMMON, "holdout_images", "recover"),
    "finetune": (*COMMON, "holdout_images", "finetune"),
    "adapt": (*COMMON, "holdout_images", "cache_gb", "adapt"),
    "bimask": (*COMMON, "holdout_images", "bimask"),
    "prune": (*COMMON, "holdout_images", "prune"),
    "evaluate": (*COMMON, "cache_gb", "space", "evaluate"),
    "search": (*COMMON, "holdout_images", "cache_gb", "space", "search", "measure"),
    "extract": ("config", "output_dir", "model", "subnet"),
    "measure": (*COMMON, "space", "measure", "subnet"),
}
OFB_SECTIONS = {
    "pretrain": ("data", "holdout_images", "pretrain"),
    "search": (*COMMON, "holdout_images", "space", "search"),
    "train-whole": (*COMMON, "holdout_images", "whole", "finetune"),
    "prune": (*COMMON, "holdout_images", "prune"),
    "extract": ("config", "output_dir", "model"),
    "finetune": (*COMMON, "holdout_images", "finetune"),
    "evaluate": (*COMMON, "evaluate"),
    "measure": (*COMMON, "measure"),
}


def recipe_class(method: Method) -> Any:
    """`Recipe` or `OfbRecipe`; imported when asked for, since each brings its method along."""
    if method == "ofb":
        from .ofb_recipe import OfbRecipe

        return OfbRecipe
    from .recipe import Recipe

    return Recipe


class RecipeParser(ArgumentParser):
    """Says what is wrong without the usage, whose hundreds of options would hide it.

    Args:
        recipe_type (`type`): The dataclass of the recipe.
    """

    recipe: str | None = None

    def __init__(self, *args: Any, recipe_type: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.recipe_type = recipe_type
        self.given: list[tuple[str, str]] = []  # options of the command line, and their values

    def parse(self, argv: list[str]) -> Any:
        """`parse_args` of words and recipes that are looked through before; its errors name recipe and field."""
        self.given = list(given_options(argv))
        verb = verb_named(self.prog.removeprefix("supersam-hf "))
        known, wrong = known_keys(verb.recipe), unknown_word(verb, argv)
        if wrong is not None:
            self.error(wrong)
        try:
            for name, value in self.given:
                if name == "config":
                    self.recipe = value
                    check_keys(read_recipe(value), known)
            self.recipe = None
            for name, value in self.given:
                check_word(name, value, known)
        except RecipeError as error:
            self.error(str(error))
        self.recipe = next((value for name, value in self.given if name == "config"), None)
        return self.parse_args(argv)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        said = self._in_words(message)
        if not self.exit_on_error:
            raise RecipeError(f"recipe {self.recipe} {said}" if self.recipe else said)
        told = [f"{self.prog}{f', recipe {self.recipe}' if self.recipe else ''}: {said}"]
        if self.recipe and "has no use for" in message:
            told.append(OWN_RECIPES)
        told.append(f"`{self.prog} --help` lists the options that matter, `--help all` every one.")
        print(*told, sep="\n", file=sys.stderr)
        self.exit(2)

    def _in_words(self, message: str) -> str:
        """What a field accepts, in place of the names of its types."""
        found = re.match(r'Parser key "([\w.]+)":', message)
        hint = None if found is None else hint_of(self.recipe_type, found[1])
        if found is None or hint is None:
            return message
        given = next((value for name, value in reversed(self.given) if name == found[1]), None)
        if is_dataclass(hint) and given is not None:
            return refusal(found[1], hint, read_yaml(given)) or message
        got = (
            f"; {' '.join(message[found.end() :].split())}" if given is None else f", got {given[:80] or repr(given)}"
        )
        return f"`{found[1]}` must be {words(hint)}{got}."


def refusal(name: str, hint: Any, values: Any) -> str | None:
    """Why a section does not take these values; None if it does."""
    try:
        with section(name):
            build(hint, values)
    except FieldError as error:
        return str(error)
    return None


def recipe_parser(verb: str, method: Method = "supersam") -> RecipeParser:
    """A parser of every value of a method's recipe, whose help lists those that the verb reads."""
    parser = RecipeParser(
        prog=_prog(verb, method),
        description=_description(verb, method),
        allow_abbrev=False,
        default_env=False,
        recipe_type=recipe_class(method),
    )
    parser.add_argument("--config", action="config", help="recipe (YAML); later options override it")
    parser.add_class_arguments(recipe_class(method))
    if verb == "run":
        help_text = "run this stage and those that build on it again, though their output is there"
        parser.add_argument("--redo", type=str, default=None, help=help_text)
    parser.add_argument(
        "--dry_run", "--dry-run", action="store_true", help="tell what would be done, what it takes, and stop"
    )
    if method == "supersam" and verb in ("extract", "measure"):
        what = "JSON file of a subnet, or `largest`, `smallest`, `pareto-N`, `found` (what search chose)"
        parser.add_argument("--subnet", type=str, default="found" if verb == "extract" else "largest", help=what)
    if verb == "pretrain":
        parser.set_defaults({"pretrain.enabled": True})
    _leave_open(parser, method)
    _hide_others(parser, (OFB_SECTIONS if method == "ofb" else SECTIONS).get(verb))
    return parser


def _leave_open(parser: ArgumentParser, method: Method) -> None:
    """What a preset and `max_steps` decide: the default instance has it filled in already."""
    from .training.bimask_arguments import open_fields

    searched = "search" if method == "ofb" else "bimask"
    args = recipe_class(method).__dataclass_fields__[searched].type
    parser.set_defaults({f"{searched}.{name}": None for name in open_fields(args)})


def _prog(verb: str, method: Method) -> str:
    return f"supersam-hf ofb {verb}" if method == "ofb" else f"supersam-hf {verb}"


def _description(verb: str, method: Method = "supersam") -> str:
    from supersam_hf_cli import OFB_VERBS, VERBS

    text = (OFB_VERBS if method == "ofb" else VERBS)[verb]
    return text[0].upper() + text[1:] + "."


def _hide_others(parser: ArgumentParser, sections: tuple[str, ...] | None) -> None:
    if sections is None:
        return
    for action in parser._actions:
        if action.dest.split(".")[0] not in (*sections, *ALWAYS):
            action.help = argparse.SUPPRESS
    for group in parser._action_groups:
        if all(action.help == argparse.SUPPRESS for action in group._group_actions):
            group.title = group.description = None


def run_verb(verb: str, argv: list[str], method: Method = "supersam") -> int:
    """Parses `argv` and runs the verb. Bad values, and what a machine lacks, end with a message and exit code 2;
    SIGTERM and SIGINT with what was saved and 143 and 130: the same command goes on, what waits for it does not."""
    from transformers.utils import logging as transformers_logging

    main = os.environ.get("RANK", "0") == "0"  # as launchers say it; of several processes one tells how it goes
    logging.basicConfig(level=logging.INFO if main else logging.WARNING, format="%(message)s", stream=sys.stderr)
    for library in ("httpx", "httpx2", "accelerate"):  # every request, every file of a checkpoint
        logging.getLogger(library).setLevel(logging.WARNING)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with interruptible():
            if method == "supersam" and verb in COMMANDS:
                return importlib.import_module(f".commands.{verb}", __package__).main(argv)
            return _run_recipe(verb, argv, method)
    except Interrupted as stop:
        if main:
            print(f"{_prog(verb, method)}: {stop}", file=sys.stderr)
        return stop.exit_code


def _run_recipe(verb: str, argv: list[str], method: Method) -> int:
    from .pipeline.folder import RECIPE_FILE
    from .training.errors import TrainingError, explained

    parser = recipe_parser(verb, method)
    values = parser.parse(argv)
    kept = Path(os.path.expanduser(values.output_dir or "")) / RECIPE_FILE
    try:
        parsed = values.as_dict()
        extra = {key: parsed.pop(key) for key in ("redo", "subnet") if key in parsed}
        dry_run = parsed.pop("dry_run")
        parsed.pop("config", None)
        recipe: Any = build(recipe_class(method), parsed)
        with explained():
            if dry_run:
                _tell_plan(verb, method, recipe, extra.get("redo"))
            else:
                _run_stage(verb, method, recipe, {**extra, "given": begun_with(values, method)})
    except (ValueError, OSError, TrainingError) as error:
        # What the user can mend: no traceback.
        print(f"{_prog(verb, method)}: {error}", file=sys.stderr)
        if not values.config and kept.exists():
            print(f"The values that this run was begun with: --config {kept}", file=sys.stderr)
        return 2
    return 0


def begun_with(values: Any, method: Method) -> str:
    """What a run was given, as YAML for its folder: a recipe without what is as by default, or means one sitting."""
    given = values.clone()
    for key in ("config", "dry_run", "redo", "subnet"):
        given.pop(key, None)
    for key in [key for key in given.keys() if key.endswith(".resume_from_checkpoint")]:
        del given[key]
    return recipe_parser("run", method).dump(given, skip_default=True, skip_unset=False)


def _run_stage(verb: str, method: Method, recipe: Any, extra: dict[str, Any]) -> None:
    if method == "ofb":
        from .pipeline import ofb

        ofb.run_verb(verb, recipe, **extra)
    else:
        from .pipeline import supersam

        supersam.run_verb(verb, recipe, **extra)


def _tell_plan(verb: str, method: Method, recipe: Any, redo: str | None) -> None:
    if method == "ofb":
        from .pipeline.ofb_dry_run import tell_ofb_plan

        tell_ofb_plan(verb, recipe, redo)
    else:
        from .pipeline.dry_run import tell_plan

        tell_plan(verb, recipe, redo)
