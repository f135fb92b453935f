"""What an experiment compares: its variants, as values that differ from a base recipe, and its seeds."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from supersam_hf_cli.recipes import RecipeError, read_recipe, read_yaml

from ..fields import Checked, Place, Seed


Kind = Literal["table1_reordering", "fig3_layers", "fig4_pareto", "fig5_structured_vs_windows"]
NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"


@dataclass
class ExperimentArguments(Checked):
    """An experiment recipe.

    Args:
        kind (`str`): Which table or figure.
        variants (`dict[str, dict]`): By name, the values (`section.key`) in which it differs from the base recipe.
        base (`str`, *optional*): YAML file of the recipe that all runs share; the defaults if left out.
        seeds (`list[int]`): One run of every variant each.
        settings (`dict[str, Any]`): Values that replace the base's in all runs.
        pairs (`list[list[str]]`): Variants whose difference is told, seed by seed.
        labels (`dict[str, str]`): How tables and figures call a variant, where not by its name.

    Raises:
        ValueError: If a value is out of its range, naming the field.
    """

    kind: Kind
    variants: dict[str, dict[str, Any]]
    base: Place | None = None
    seeds: list[Seed] = field(default_factory=lambda: [0, 1, 2])
    settings: dict[str, Any] = field(default_factory=dict)
    pairs: list[list[str]] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.variants:
            raise ValueError("`variants` is empty; name at least one.")
        wrong = [name for name in self.variants if not re.fullmatch(NAME, name)]
        if wrong:
            raise ValueError(f"`variants` become folders: letters, digits, `_`, `.` and `-`, got {wrong}.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"`seeds` must be different numbers from 0 up, at least one, got {self.seeds}.")
        for name in ("pairs", "labels"):
            named = {variant for entry in vars(self)[name] for variant in (entry if name == "pairs" else [entry])}
            if named - set(self.variants):
                raise ValueError(f"`{name}` names {sorted(named - set(self.variants))}; there are {[*self.variants]}.")
        if any(len(pair) != 2 for pair in self.pairs):
            raise ValueError(f"`pairs` must be lists of two variants, got {self.pairs}.")

    def label(self, variant: str) -> str:
        return self.labels.get(variant, variant)

    def use(self, assignments: list[str]) -> None:
        """Takes over `section.key=value`, for all runs, or `variant:section.key=value`; values are YAML.

        Raises:
            ValueError: If one is of another form, or names no variant.
        """
        for text in assignments:
            found = re.fullmatch(rf"(?:({NAME}):)?([a-z0-9_]+(?:\.[a-z0-9_]+)*)=(.*)", text, re.DOTALL)
            if found is None:
                raise ValueError(f"`--set` takes section.key=value or variant:section.key=value, got {text!r}.")
            variant, key, value = found.groups()
            if variant is not None and variant not in self.variants:
                raise ValueError(f"`--set {text}` names no variant; there are {[*self.variants]}.")
            values = self.settings if variant is None else self.variants[variant]
            values[key] = _value(text, value)

    @classmethod
    def read(cls, path: Path | str) -> "ExperimentArguments":
        """An experiment recipe from its YAML file.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If a field is unknown, missing or out of its range.
        """
        try:
            data = read_recipe(path)
        except RecipeError as error:
            raise ValueError(f"{path} {error}.") from error
        unknown, missing = sorted(set(data) - set(cls.__dataclass_fields__)), {"kind", "variants"} - set(data)
        if unknown or missing:
            raise ValueError(
                f"{path} has unknown fields {unknown} and lacks {sorted(missing)}; an experiment recipe has "
                f"{list(cls.__dataclass_fields__)}."
            )
        return cls(**data)


def _value(text: str, value: str) -> Any:
    """YAML, whose numbers may be written as 1e-5 too."""
    if re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)
    try:
        return read_yaml(value)
    except RecipeError as error:
        raise ValueError(f"`--set {text[:80]}` {error}.") from error


__all__ = ["ExperimentArguments", "Kind"]
