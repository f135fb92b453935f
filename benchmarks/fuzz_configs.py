"""Cases of the fuzzer: configs and spaces made in Python, and recipes given to `--dry_run`."""

import contextlib
import dataclasses
import io
import json
import random
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from fuzz_values import JUNK, Mutation, Outcome, admits, mutated, names_it


SPACE = {
    "num_hidden_layers": 6,
    "num_attention_heads": 3,
    "mlp_dim": 192,
    "head_dim": 16,
    "protected_layers": [0],
    "prunable_layers": [2, 4],
    "prune_probability": [0.5, 0.25],
    "mlp_windows": [48, 96],
    "attention_windows": [24, 48],
}
SUBNET = {"layers": [0, 1, 3, 5], "mlp_dim": [192, 48, 96, 96], "head_dim": [16, 8, 16, 8]}
POINT = {"name": "pareto-0", "subnet": SUBNET, "params": 900, "macs": 4000, "holdout_miou": 0.5}
OTHER = {"name": "pareto-1", "subnet": SUBNET, "params": 950, "macs": 4500, "holdout_miou": 0.6}
FRONT = {"format_version": 1, "largest": {"params": 1000, "macs": 5000}, "points": [POINT, OTHER]}
VISION = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "mlp_dim": 96, "image_size": 64}
VISION |= {"window_size": 3, "global_attn_indexes": [1], "output_channels": 32, "num_pos_feats": 16}
VISION |= {"patch_size": 16, "num_channels": 3, "scale": 1.0, "initializer_range": 0.02, "layer_norm_eps": 1e-6}
VIT = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96, "num_labels": 5}
VIT |= {"image_size": 32, "patch_size": 8, "num_channels": 3, "layer_norm_eps": 1e-12, "hidden_act": "gelu"}
VIT |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.02, "qkv_bias": True}
SWIN = {"image_size": 32, "patch_size": 4, "num_channels": 3, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4]}
SWIN |= {"window_size": 4, "mlp_ratio": 4.0, "num_labels": 5, "layer_norm_eps": 1e-5, "drop_path_rate": 0.1}
# Numbers that mean a size, and the least that they may be.
AT_LEAST = dict.fromkeys(("hidden_size", "num_hidden_layers", "num_attention_heads", "mlp_dim", "head_dim"), 1)
AT_LEAST |= dict.fromkeys(("intermediate_size", "image_size", "patch_size", "num_channels", "embed_dim"), 1)
AT_LEAST |= {"window_size": 0, "output_channels": 1, "num_pos_feats": 1, "mlp_ratio": 0, "layer_norm_eps": 0}
# What a message may name in place of a field: what no longer fits it, and the file.
RELATED = {
    "mlp_dim": ("mlp_windows",),
    "num_attention_heads": ("attention_windows",),
    "head_dim": ("attention_windows",),
    "mlp_ratio": ("block_intermediate_sizes",),
    "embed_dim": ("block_head_dims",),
    "largest": ("pareto.json",),
    "points": ("pareto.json",),
}
# Beyond these a model is not built.
LARGE = 10_000


@dataclass(frozen=True)
class Case:
    """What is done to what, and the function that does it."""

    what: str
    run: Callable[[], Outcome]


class ConfigCases:
    """One field of a good space, subnet, Pareto front, model config or section of arguments is changed."""

    def __init__(self) -> None:
        self.kinds: list[tuple[str, dict[str, Any], Callable[[Any], Any], Callable[[Any, Mutation], str]]] = [
            ("Subnet", SUBNET, _subnet, _use_data),
            ("ElasticSpace", SPACE, _space, _use_space),
            ("ParetoFront", FRONT, _front, _use_front),
            ("SuperSamConfig", VISION, _sam, _use_model),
            ("OfbViTConfig", VIT, _vit, _use_model),
            ("OfbSwinConfig", SWIN, _swin, _use_model),
        ]
        self.sections = _sections()

    def make(self, rng: random.Random, scratch: Path) -> Case:
        number = rng.randrange(len(self.kinds) + 3)
        if number >= len(self.kinds):
            return self._section(rng)
        name, good, build, use = self.kinds[number]
        pure = number < 3
        hows = ("set",) * 6 + (("delete", "add", "repeat") if pure else ("delete", "repeat"))
        data, mutation = mutated(good, rng, hows)
        return Case(
            f"{name}: {mutation}", lambda: _tried(lambda: build(data), lambda made: use(made, mutation), mutation)
        )

    def _section(self, rng: random.Random) -> Case:
        """A section of a recipe, made in Python with one field set."""
        kind = rng.choice(self.sections)
        field = rng.choice([field for field in dataclasses.fields(kind) if field.init])
        value = rng.choice(JUNK)
        hint = typing.get_type_hints(kind, include_extras=True)[field.name]
        mutation = Mutation((field.name,), "set", value)

        def wrong(_: Any) -> str:
            return "" if admits(hint, value) else f"{value!r} taken for {hint}"

        return Case(
            f"{kind.__name__}: {mutation}", lambda: _tried(lambda: kind(**{field.name: value}), wrong, mutation)
        )


def _sections() -> list[Any]:
    """Every dataclass of arguments that the recipes are made of."""
    from supersam_hf.ofb_recipe import OfbRecipe
    from supersam_hf.recipe import Recipe
    from supersam_hf.segmenter_recipe import SegmenterRecipe

    found: dict[str, Any] = {}

    def collect(kind: Any) -> None:
        for hint in typing.get_type_hints(kind).values():
            if dataclasses.is_dataclass(hint) and f"{hint}" not in found:
                found[f"{hint}"] = hint
                collect(hint)

    for recipe in (Recipe, OfbRecipe, SegmenterRecipe):
        collect(recipe)
    return list(found.values())


def _tried(build: Callable[[], Any], wrong: Callable[[Any], str], mutation: Mutation) -> Outcome:
    """Builds, then uses what was built."""
    try:
        made = build()
    except Exception as error:
        return refused(error, mutation)
    try:
        fault = wrong(made)
    except Exception as error:
        return Outcome("traceback", f"only on use: {type(error).__name__}: {error}")
    return Outcome("silent nonsense", fault) if fault else Outcome("right")


def refused(error: Exception, mutation: Mutation) -> Outcome:
    """How good an error is."""
    good = isinstance(error, (ValueError, TypeError)) or "Strict" in type(error).__name__
    said = f"{type(error).__name__}: {error}"
    names = [part for part in mutation.path if isinstance(part, str)]
    known = [*names[-2:], *(other for name in names for other in RELATED.get(name, ()))]
    known += ["unknown"] if mutation.how == "add" else []
    return Outcome("clear error" if good and names_it(str(error), *known) else "traceback", said)


def _subnet(data: Any) -> Any:
    from supersam_hf import Subnet

    return Subnet.from_dict(data)


def _space(data: Any) -> Any:
    from supersam_hf import ElasticSpace

    return ElasticSpace.from_dict(data)


def _front(data: Any) -> Any:
    from supersam_hf.models.supersam.pareto_supersam import ParetoFront

    return ParetoFront.from_dict(data, "pareto.json")


def _sam(data: dict[str, Any]) -> Any:
    from supersam_hf import SuperSamConfig

    side = data.get("image_size", 64)
    return SuperSamConfig(
        vision_config=data,
        prompt_encoder_config={"image_size": side, "hidden_size": 32, "patch_size": data.get("patch_size", 16)},
        mask_decoder_config={"hidden_size": 32, "mlp_dim": 64, "iou_head_hidden_dim": 32},
    )


def _vit(data: dict[str, Any]) -> Any:
    from supersam_hf import OfbViTConfig

    return OfbViTConfig(**data)


def _swin(data: dict[str, Any]) -> Any:
    from supersam_hf import OfbSwinConfig

    return OfbSwinConfig(**data)


def _types(made: Any) -> str:
    for name, hint in typing.get_type_hints(type(made)).items():
        if hasattr(made, name) and not admits(hint, getattr(made, name)):
            return f"`{name}` holds {getattr(made, name)!r:.80}, no {hint}"
    return ""


def _use_data(made: Any, _: Mutation) -> str:
    again = type(made).from_json(json.dumps(made.to_dict(), allow_nan=False))
    return _types(made) or ("" if again == made else "JSON gives another")


def _use_space(made: Any, mutation: Mutation) -> str:
    for subnet in (made.smallest(), made.largest(), made.sample(torch.Generator().manual_seed(0))):
        made.validate(subnet)
    return _use_data(made, mutation) or ("" if made.size > 0 else f"size {made.size}")


def _use_front(made: Any, _: Mutation) -> str:
    best = made.best()
    made.best(max_params=1.0)
    faults = [_types(part) for part in (made, *made.points)]
    return next(filter(None, faults), "" if 0 <= best.holdout_miou <= 1 else f"best mIoU {best.holdout_miou}")


def _use_model(made: Any, mutation: Mutation) -> str:
    """A config's types and sizes; its model, run on one image, where it is small."""
    from supersam_hf import OfbSwinForImageClassification, OfbViTForImageClassification, SuperSamModel

    inner = made.vision_config if made.model_type == "supersam" else made
    value = mutation.value
    if mutation.how == "set" and len(mutation.path) == 1:
        hint = _hint_of(type(inner), mutation.field)
        if not admits(hint, value) and not (isinstance(value, list) and admits(hint, tuple(value))):
            return f"{value!r:.80} taken for {hint}"
        if isinstance(value, (int, float)) and value < AT_LEAST.get(mutation.field, float("-inf")):
            return f"a size of {value}"
        if isinstance(value, (int, float)) and abs(value) > LARGE:
            return ""
    json.dumps(inner.to_dict(), allow_nan=False)
    kinds: dict[str, Any] = {"supersam": SuperSamModel, "ofb_vit": OfbViTForImageClassification}
    model = kinds.get(made.model_type, OfbSwinForImageClassification)(made).eval()
    pixels = torch.zeros(1, inner.num_channels, *_sides(inner.image_size))
    more = {"input_boxes": torch.tensor([[[1.0, 1.0, 9.0, 9.0]]])} if made.model_type == "supersam" else {}
    with torch.no_grad():
        model(pixel_values=pixels, **more)
    return ""


def _hint_of(kind: type, name: str) -> Any:
    """The type of a field; the annotations of transformers' configs cannot all be resolved."""
    annotation = next(
        (c.__annotations__[name] for c in kind.__mro__ if name in c.__dict__.get("__annotations__", {})), Any
    )
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, {**vars(typing), "torch": torch})  # of our own and transformers' sources
    except NameError:
        return Any


def _sides(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


class RecipeCases:
    """One field of a recipe is changed, in YAML; the recipe is given to `run --dry_run` (or `segment`)."""

    def __init__(self, scratch: Path) -> None:
        from survival_jobs import JOBS

        from supersam_hf.ofb_recipe import OfbRecipe
        from supersam_hf.recipe import Recipe

        self.kinds = [
            (("run",), nested(JOBS["supersam"]), fields_of(Recipe)),
            (("ofb", "run"), nested(JOBS["ofb"]), fields_of(OfbRecipe)),
        ]

    def make(self, rng: random.Random, scratch: Path) -> Case:
        words, base, fields = rng.choice(self.kinds)
        name, hint = rng.choice(list(fields.items()))
        value: Any = rng.choice(JUNK)
        if rng.random() < 0.1:
            name, hint = name + rng.choice("sx_"), None
        path = tuple(name.split("."))
        recipe = json.loads(json.dumps(base))
        target = recipe
        for part in path[:-1]:
            target = target.setdefault(part, {})
        target[path[-1]] = value
        mutation = Mutation(path, "set", value)
        return Case(f"{' '.join(words)}: {mutation}", lambda: _dry_run(words, recipe, mutation, hint, scratch))


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested data; "true" as YAML reads it."""
    data: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, last = name.split(".")
        target = data
        for part in parents:
            target = target.setdefault(part, {})
        target[last] = yaml.safe_load(value) if isinstance(value, str) else value
    return data


def fields_of(kind: Any, prefix: str = "") -> dict[str, Any]:
    """Types of all fields of a recipe, by dotted name."""
    found: dict[str, Any] = {}
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            found |= fields_of(hint, f"{prefix}{field.name}.")
        else:
            found[prefix + field.name] = hint
    return found


def called(words: list[str]) -> tuple[int, str, str]:
    """Exit code, standard output and error of the command line, called in this process."""
    from supersam_hf_cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
    return code, out.getvalue(), err.getvalue()


def _dry_run(words: tuple[str, ...], recipe: Any, mutation: Mutation, hint: Any, scratch: Path) -> Outcome:
    file = scratch / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")
    more = [] if mutation.path == ("output_dir",) else ["--output_dir", str(scratch / "run")]
    code, out, err = called([*words, "--config", str(file), *more, "--dry_run"])
    if code:
        last = err.strip().splitlines()[-1:] or out.strip().splitlines()[-1:] or [""]
        named = names_it(err + out, mutation.field, ".".join(mutation.path))
        return Outcome("clear error" if code == 2 and named else "traceback", f"{code}: {last[0]}")
    if hint is None:
        return Outcome("silent nonsense", "an unknown field is taken")
    value = mutation.value
    if isinstance(value, str) and not admits(hint, value):
        value = _number(value)  # YAML says that it is text, the command line would not
    if isinstance(value, float) and value.is_integer() and not admits(hint, value):
        value = int(value)  # 4.0 in YAML is 4 where a whole number is wanted
    return Outcome("right") if admits(hint, value) else Outcome("silent nonsense", f"{value!r:.80} taken for {hint}")


def _number(text: str) -> Any:
    try:
        return int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            return text
