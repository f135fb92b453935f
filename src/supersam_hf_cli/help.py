"""Help of a verb: the options that matter in one screen, or all of them."""

import json
import re
import shutil
import textwrap
from fnmatch import fnmatchcase

from .options import Option, Verb


MOST_LINES = 40
INDENT = 30  # where help begins, behind the name
# By verb, in the order of the help. What is left out is in `--help all`.
START = ("config", "output_dir", "dry_run", "model.name", "seed")
DATA = ("data.source", "data.format", "data.train_split", "data.eval_split")
IMAGES = ("data.source", "data.train_split", "data.eval_split", "data.label_column")
TRAINING = ("max_steps", "learning_rate", "mixed_precision", "eval_steps")
BUDGET = ("search.max_params", "search.max_macs", "search.max_latency_ms", "search.min_quality")


def _of(section: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{section}.{name}" for name in names)


SHORT: dict[str, tuple[str, ...]] = {
    "run": (
        *("config", "output_dir", "dry_run", "redo", "seed", "model.name", *DATA),
        *("pretrain.enabled", "method", "train.max_steps", "train.learning_rate"),
        *("train.mixed_precision", *BUDGET[:3], "search.trials"),
    ),
    "pretrain": (
        *("config", "output_dir", "dry_run", "seed", *DATA, "data.batch_size", "pretrain.encoder"),
        *_of("pretrain", *("image_size", "patch_size", "hidden_size", "num_hidden_layers"), *TRAINING),
    ),
    "rank-layers": (*START, *DATA, "holdout_images", "cache_gb", "rank_layers.*", "space.protected_layers"),
    "reorder": (*START, *DATA[:3], "reorder.*", "space.protected_layers"),
    "train": (
        *(*START, *DATA, "data.batch_size"),
        *_of("train", "num_sampled", *TRAINING),
        *_of("space", "protected_layers", "prunable_layers", "mlp_windows", "attention_windows"),
    ),
    "recover": (*START, *DATA, "data.batch_size", *_of("recover", *TRAINING, "layer_decay", "ema_decay")),
    "finetune": (*START, *DATA, "data.batch_size", *_of("finetune", *TRAINING, "layer_decay", "ema_decay")),
    "evaluate": (*START, *DATA[:2], "data.eval_split", "data.max_eval_images", "cache_gb", "evaluate.*"),
    "search": (*START, *DATA[:3], "holdout_images", *BUDGET, *_of("search", "goal", "trials", "engine"), "cache_gb"),
    "extract": ("config", "output_dir", "dry_run", "model.name", "model.revision", "subnet"),
    "measure": (*START[:4], "subnet", "measure.*", "model.image_size"),
    "bimask": (*START, *DATA, "data.batch_size", *_of("bimask", "max_macs", "max_params", "preset", *TRAINING)),
    "prune": (
        *(*START, *DATA, "data.batch_size"),
        *_of("prune", "max_params", "max_macs", "method", "scope", "attention", "drop_layers", "reconstruct"),
    ),
    "adapt": (*START, *DATA, "data.batch_size", *_of("adapt", "method", "r", "alpha", "subnet", "merge", *TRAINING)),
    "preview": ("config", "output", "num_images", "split", "image_size", *DATA, "data.patch_size", "data.prompt"),
    "segment": (
        *("config", "output_dir", "dry_run", "model.name", "model.image_size", "model.segmentation_head"),
        *(*DATA, "data.label_names", "data.batch_size", "data.on_error", "stride", *_of("train", *TRAINING)),
    ),
    "export": (
        *("output_dir", "format", "quantize", "subnet", "opset", "revision", "rounds", "data.source"),
        *("data.eval_split", "data.max_eval_images", "data.crop_eval", "data.label_mapping"),
    ),
    "ofb run": (
        *("config", "output_dir", "dry_run", "redo", "seed", "model.name", "model.new_labels", *IMAGES),
        *("pretrain.enabled", "method", "search.max_macs", "search.max_params", "search.preset"),
        *("search.max_steps", "finetune.max_steps"),
    ),
    "ofb pretrain": (
        *("config", "output_dir", "dry_run", "seed", *IMAGES, "data.batch_size"),
        *_of("pretrain", "image_size", "patch_size", "hidden_size", "num_hidden_layers", "depths", *TRAINING),
    ),
    "ofb search": (*START, *IMAGES, "data.batch_size", *_of("search", "max_macs", "max_params", "preset", *TRAINING)),
    "ofb train-whole": (*START, *IMAGES, "data.batch_size", "whole.*", *_of("finetune", *TRAINING)),
    "ofb prune": (
        *(*START, *IMAGES, "data.batch_size"),
        *_of("prune", "max_macs", "max_params", "method", "scope", "attention", "embedding", "drop_layers"),
    ),
    "ofb extract": ("config", "output_dir", "dry_run", "model.name", "model.revision"),
    "ofb finetune": (*START, "model.new_labels", *IMAGES, "data.batch_size", *_of("finetune", *TRAINING, "teacher")),
    "ofb evaluate": (*START, "data.source", "data.eval_split", "data.label_mapping", "evaluate.original"),
    "ofb measure": (*START[:4], "measure.*", "model.image_size"),
}


def help_of(name: str, description: str, verb: Verb, wanted: str | None = None) -> str:
    """Help of a verb.

    Args:
        name (`str`): `run`, `ofb run`, ...
        description (`str`): What it does.
        verb ([`Verb`]): Its options.
        wanted (`str`, *optional*): `all`, or a section (`train`); None: the options that matter.
    """
    width = min(119, max(60, shutil.get_terminal_size((100, 40)).columns))
    needed = "".join(f" {positional}" for positional, _ in verb.positionals)
    lines = [f"supersam-hf {name}{needed} [--option VALUE ...]", *textwrap.wrap(description, width), ""]
    lines += [line for name, text in verb.positionals for line in _entry(name, text, width)]
    if wanted is not None:
        options = [one for one in verb.read if wanted == "all" or one.name.split(".")[0] == wanted]
        return "\n".join([*lines, *(part for option in options for part in _whole(option, width))]) + "\n"
    options = matters(name, verb)
    lines += [line for option in options for line in _entry(f"--{option.name}", _short(option), width)]
    if len(options) < len(verb.read):
        sections = sorted({option.name.split(".")[0] for option in verb.read if "." in option.name})
        more = f"`--help all` lists all {len(verb.read)}, `--help SECTION` those of {', '.join(sections)}."
        lines += ["", *textwrap.wrap(more, width)]
    return "\n".join(lines) + "\n"


def matters(name: str, verb: Verb) -> list[Option]:
    """The options of the short help; of a verb that has few, all."""
    patterns = SHORT.get(name, ("*",))
    found = {one.name: one for pattern in patterns for one in verb.read if fnmatchcase(one.name, pattern)}
    return list(found.values())


def _short(option: Option) -> str:
    """The first sentence, and the default."""
    first = re.split(r"(?<=[^.]\.) ", option.help, maxsplit=1)[0].rstrip(".")
    default = _default(option)
    return first if first.endswith(default) else f"{first}{default}"


def _default(option: Option) -> str:
    if option.default in (None, False, [], "") or not option.accepts:
        return ""
    return f" ({option.default if isinstance(option.default, str) else json.dumps(option.default)})"


def _entry(name: str, text: str, width: int) -> list[str]:
    """At most two lines."""
    lines = textwrap.wrap(text, width - INDENT, max_lines=2, placeholder=" ...")
    return [f"{f'  {name}' if line == lines[0] else '':<{INDENT - 1}} {line}" for line in lines]


def _whole(option: Option, width: int) -> list[str]:
    default = "" if not option.accepts else f" Default: {json.dumps(option.default, ensure_ascii=False)}."
    accepts = f" Takes {option.accepts}." if option.accepts else ""
    text = f"{option.help.rstrip('.')}.{accepts}{default}"
    return [f"  --{option.name}", *textwrap.wrap(text, width, initial_indent=" " * 6, subsequent_indent=" " * 6)]


__all__ = ["MOST_LINES", "SHORT", "help_of", "matters"]
