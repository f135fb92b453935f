"""The elastic space of a SuperSAM and its points, as pure data (SuperSAM, section III)."""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch


# SuperSAM, section IV: the layers of SAM ViT-B whose removal costs least (Fig. 3), for 12-layer encoders.
VIT_B_DEPTH = 12
VIT_B_PRUNABLE_LAYERS = (1, 2, 5, 6, 9)
# 768, 1020, 1536 and 2304 of 3072: these ratios, rounded down to a multiple of 12.
MLP_WINDOW_RATIOS = (1 / 4, 1 / 3, 1 / 2, 3 / 4)
MLP_WINDOW_MULTIPLE = 12
# No encoder has so many layers or channels: what is beyond is a slip, and would fill the memory.
MOST_LAYERS, MOST_CHANNELS = 1000, 2**20


@dataclass(frozen=True)
class Subnet:
    """One point of an elastic space: which layers are kept, and each kept layer's widths.

    Args:
        layers (`tuple[int, ...]`): Indices of the kept layers in the supernet, ascending.
        mlp_dim (`tuple[int, ...]`): MLP window of each kept layer, in hidden units.
        head_dim (`tuple[int, ...]`): Attention window of each kept layer, in channels **a head**.

    Raises:
        ValueError: If one of the three is no tuple of whole numbers, they do not have one entry per kept layer, or
            `layers` is empty or not ascending.
    """

    layers: tuple[int, ...]
    mlp_dim: tuple[int, ...]
    head_dim: tuple[int, ...]

    def __post_init__(self) -> None:
        check_whole("layers", self.layers, 0, MOST_LAYERS - 1)
        check_whole("mlp_dim", self.mlp_dim)
        check_whole("head_dim", self.head_dim)
        if not self.layers or any(b <= a for a, b in zip(self.layers, self.layers[1:])):
            raise ValueError(f"`layers` must name at least one layer, in ascending order, got {list(self.layers)}.")
        if not len(self.layers) == len(self.mlp_dim) == len(self.head_dim):
            raise ValueError(
                "`layers`, `mlp_dim` and `head_dim` must have one entry a kept layer, "
                f"got {len(self.layers)}, {len(self.mlp_dim)} and {len(self.head_dim)}."
            )

    def to_dict(self) -> dict[str, list[int]]:
        return {key: list(value) for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Subnet":
        """From JSON data; `ValueError`, naming the field, for any other."""
        return cls(**_fields_of(cls, data))

    def to_json(self) -> str:
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> "Subnet":
        return cls.from_dict(_parsed(cls, text))

    def check(self, num_hidden_layers: int, mlp_dim: list[int], head_dim: list[int]) -> None:
        """Raises `ValueError` unless a model of these per-layer widths can run this subnet."""
        unknown = [i for i in self.layers if not 0 <= i < num_hidden_layers]
        if unknown:
            raise ValueError(
                f"`layers` of the subnet names {unknown}; the model has layers 0 to {num_hidden_layers - 1}."
            )
        for name, windows, full in (("mlp_dim", self.mlp_dim, mlp_dim), ("head_dim", self.head_dim, head_dim)):
            for layer, window in zip(self.layers, windows):
                if not 1 <= window <= full[layer]:
                    raise ValueError(f"`{name}` of layer {layer} is {window}; the model has 1 to {full[layer]} there.")


@dataclass(frozen=True)
class ElasticSpace:
    """What may vary between the subnets of one supernet. Pure data; JSON in `config.json`.

    Args:
        num_hidden_layers (`int`): Depth of the supernet.
        num_attention_heads (`int`): Heads of every layer; not elastic.
        mlp_dim (`int`): Full MLP width of every layer.
        head_dim (`int`): Full width of a head, in channels.
        protected_layers (`tuple[int, ...]`): Layers that are neither removed nor narrowed.
        prunable_layers (`tuple[int, ...]`): Layers that a subnet may leave out.
        prune_probability (`tuple[float, ...]`): θ of each prunable layer, in [0, 1]: how often `sample` removes it.
        mlp_windows (`tuple[int, ...]`): MLP windows that are sampled. The full width is always valid besides.
        attention_windows (`tuple[int, ...]`): Attention windows that are sampled, as a width over all heads
            (512 of 768 means 42 channels in each of 12 heads). Empty: attention is not elastic.

    Raises:
        ValueError: If a number is not whole or out of its range, a layer does not exist or is both protected and
            prunable, or a window is wider than the model.
    """

    num_hidden_layers: int
    num_attention_heads: int
    mlp_dim: int
    head_dim: int
    protected_layers: tuple[int, ...]
    prunable_layers: tuple[int, ...]
    prune_probability: tuple[float, ...]
    mlp_windows: tuple[int, ...]
    attention_windows: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_whole("num_hidden_layers", (self.num_hidden_layers,), 1, MOST_LAYERS)
        for name in ("num_attention_heads", "mlp_dim", "head_dim"):
            check_whole(name, (getattr(self, name),))
        self._check_layers()
        check_probabilities("prune_probability", self.prune_probability)
        if len(self.prune_probability) != len(self.prunable_layers):
            raise ValueError(
                f"`prune_probability` has {len(self.prune_probability)} entries for "
                f"{len(self.prunable_layers)} `prunable_layers`; give one per layer."
            )
        for name in ("mlp_windows", "attention_windows"):
            check_whole(name, getattr(self, name))
        if not self.mlp_windows:
            raise ValueError("`mlp_windows` is empty; give at least one window (the full width switches it off).")
        self._check_windows("mlp_windows", self.mlp_windows, 1, self.mlp_dim)
        heads = self.num_attention_heads
        self._check_windows("attention_windows", self.attention_windows, heads, heads * self.head_dim)
        if len(set(self.head_windows)) < len(self.head_windows):
            raise ValueError(
                f"`attention_windows` {list(self.attention_windows)} gives the same channels a head twice "
                f"({list(self.head_windows)} over {heads} heads); space them at least {heads} apart."
            )

    def _check_layers(self) -> None:
        for name in ("protected_layers", "prunable_layers"):
            layers = getattr(self, name)
            check_whole(name, layers, 0, MOST_LAYERS - 1)
            unknown = [i for i in layers if not 0 <= i < self.num_hidden_layers]
            if unknown:
                raise ValueError(
                    f"`{name}` names layers {unknown}; the model has layers 0 to {self.num_hidden_layers - 1}."
                )
            if len(set(layers)) != len(layers):
                raise ValueError(f"`{name}` names a layer twice: {list(layers)}.")
        both = sorted(set(self.protected_layers) & set(self.prunable_layers))
        if both:
            raise ValueError(
                f"Layers {both} are in both `protected_layers` and `prunable_layers`; take them out of one."
            )
        if len(self.prunable_layers) == self.num_hidden_layers:
            raise ValueError("`prunable_layers` names every layer; at least one must always stay.")

    @staticmethod
    def _check_windows(name: str, windows: tuple[int, ...], least: int, full: int) -> None:
        wrong = [w for w in windows if not least <= w <= full]
        if wrong:
            raise ValueError(f"`{name}` has {wrong}; the model's width allows {least} to {full}.")
        if list(windows) != sorted(set(windows)):
            raise ValueError(f"`{name}` must be ascending without repeats, got {list(windows)}.")

    @classmethod
    def for_config(
        cls,
        config: Any,
        *,
        protected_layers: tuple[int, ...] = (0,),
        prunable_layers: tuple[int, ...] | None = None,
        prune_probability: float | tuple[float, ...] = 0.5,
        mlp_windows: tuple[int, ...] | None = None,
        attention_windows: tuple[int, ...] = (),
    ) -> "ElasticSpace":
        """The space of the paper for this model (section IV), or one with other numbers.

        Args:
            config (`SamConfig` or `SamVisionConfig`): Of a uniform model. If it carries an `elastic_space` and no
                other argument is given, that one is returned.
            prunable_layers (`tuple[int, ...]`, *optional*): Defaults to 1, 2, 5, 6, 9 for 12 layers and to none for
                other depths (rank the layers to find them).
            mlp_windows (`tuple[int, ...]`, *optional*): Defaults to 1/4, 1/3, 1/2 and 3/4 of the full width, rounded
                down to a multiple of 12.

        Raises:
            ValueError: If the model's layers already differ in width, or a number does not fit the model.
        """
        stored = config.to_dict().get("elastic_space")
        given = (protected_layers, prunable_layers, prune_probability, mlp_windows, attention_windows)
        if stored is not None and given == ((0,), None, 0.5, None, ()):
            return cls.from_dict(stored)
        vision = config.vision_config if config.to_dict().get("vision_config") else config
        if vision.is_heterogeneous:
            raise ValueError(
                "The model's layers differ in width (`per_layer_config`): it is an extracted subnet. "
                "Make the space from the supernet it came from."
            )
        depth, heads = vision.num_hidden_layers, vision.num_attention_heads
        if prunable_layers is None:
            prunable_layers = VIT_B_PRUNABLE_LAYERS if depth == VIT_B_DEPTH else ()
            check_whole("protected_layers", _as_tuple(protected_layers), 0, MOST_LAYERS - 1)
            prunable_layers = tuple(i for i in prunable_layers if i not in protected_layers)
        check_whole("prunable_layers", _as_tuple(prunable_layers), 0, MOST_LAYERS - 1)
        if isinstance(prune_probability, (int, float)):
            check_probabilities("prune_probability", (prune_probability,))
            prune_probability = (float(prune_probability),) * len(prunable_layers)
        return cls(
            num_hidden_layers=depth,
            num_attention_heads=heads,
            mlp_dim=vision.mlp_dim,
            # a stock config has no such field
            head_dim=vision.to_dict().get("head_dim") or vision.hidden_size // heads,
            protected_layers=_as_tuple(protected_layers),
            prunable_layers=_as_tuple(prunable_layers),
            prune_probability=_as_tuple(prune_probability),
            mlp_windows=_default_windows(vision.mlp_dim) if mlp_windows is None else _as_tuple(mlp_windows),
            attention_windows=_as_tuple(attention_windows),
        )

    def with_full_width(self) -> "ElasticSpace":
        """The same space whose full widths are sampled as well; of attention only where that is elastic."""
        mlp = tuple(sorted({*self.mlp_windows, self.mlp_dim}))
        heads = self.num_attention_heads
        if not self.attention_windows or self.head_dim in self.head_windows:
            return replace(self, mlp_windows=mlp)
        return replace(self, mlp_windows=mlp, attention_windows=(*self.attention_windows, heads * self.head_dim))

    @property
    def elastic_layers(self) -> tuple[int, ...]:
        """Layers whose widths may vary: all but the protected ones."""
        return tuple(i for i in range(self.num_hidden_layers) if i not in self.protected_layers)

    @property
    def head_windows(self) -> tuple[int, ...]:
        """Sampled attention windows in channels a head; the full head where attention is not elastic."""
        windows = tuple(w // self.num_attention_heads for w in self.attention_windows)
        return windows or (self.head_dim,)

    @property
    def size(self) -> int:
        """How many different subnets `sample` can draw."""
        choices = len(self.mlp_windows) * len(self.head_windows)
        prunable = len(self.prunable_layers)
        return choices ** (len(self.elastic_layers) - prunable) * (choices + 1) ** prunable

    def subnet(
        self,
        removed: tuple[int, ...] = (),
        mlp_dim: dict[int, int] | int | None = None,
        head_dim: dict[int, int] | int | None = None,
    ) -> Subnet:
        """The subnet without the `removed` layers and with these windows (one number: of every elastic layer)."""

        def widths(given: dict[int, int] | int | None, full: int) -> list[int]:
            if given is None or isinstance(given, int):
                given = dict.fromkeys(self.elastic_layers, full if given is None else given)
            return [given.get(i, full) for i in range(self.num_hidden_layers)]

        mlp, head = widths(mlp_dim, self.mlp_dim), widths(head_dim, self.head_dim)
        layers = tuple(i for i in range(self.num_hidden_layers) if i not in removed)
        return Subnet(layers, tuple(mlp[i] for i in layers), tuple(head[i] for i in layers))

    def largest(self) -> Subnet:
        """The supernet itself."""
        return self.subnet()

    def smallest(self) -> Subnet:
        """Every prunable layer removed, the narrowest window everywhere else."""
        return self.subnet(self.prunable_layers, min(self.mlp_windows), min(self.head_windows))

    def sample(self, generator: torch.Generator | None = None) -> Subnet:
        """Draws a subnet: each prunable layer leaves with its θ, each kept elastic layer draws its windows."""
        removed, mlp, head = [], {}, {}
        probability = dict(zip(self.prunable_layers, self.prune_probability))
        for layer in self.elastic_layers:
            # Drawn for every layer, kept or not, so that the stream does not depend on what was drawn before.
            uniform, mlp_draw, head_draw = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
            if uniform < probability.get(layer, 0.0):
                removed.append(layer)
            mlp[layer] = self.mlp_windows[int(mlp_draw * len(self.mlp_windows))]
            head[layer] = self.head_windows[int(head_draw * len(self.head_windows))]
        return self.subnet(tuple(removed), mlp, head)

    def validate(self, subnet: Subnet) -> None:
        """Raises `ValueError`, naming the field, unless `subnet` is a point of this space."""
        depth = self.num_hidden_layers
        subnet.check(depth, [self.mlp_dim] * depth, [self.head_dim] * depth)
        missing = sorted(set(range(depth)) - set(subnet.layers) - set(self.prunable_layers))
        if missing:
            raise ValueError(
                f"`layers` of the subnet leaves out {missing}; only `prunable_layers` "
                f"{list(self.prunable_layers)} may go."
            )
        fields = (
            ("mlp_dim", subnet.mlp_dim, self.mlp_windows, self.mlp_dim),
            ("head_dim", subnet.head_dim, self.head_windows, self.head_dim),
        )
        for name, windows, choices, full in fields:
            for layer, window in zip(subnet.layers, windows):
                allowed = {full} if layer in self.protected_layers else {*choices, full}
                if window not in allowed:
                    raise ValueError(f"`{name}` of layer {layer} is {window}; this space allows {sorted(allowed)}.")

    def to_dict(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "ElasticSpace":
        """From JSON data; `ValueError`, naming the field, for any other."""
        return cls(**_fields_of(cls, data))

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> "ElasticSpace":
        return cls.from_dict(_parsed(cls, text))


def shared_depth(subnets: Iterable[Subnet], num_hidden_layers: int) -> int:
    """How many leading layers of the supernet all of the subnets treat alike: keep at the same widths, or leave out.

    What comes out of these layers is the same for all, and need be computed only once.
    """
    treated = [{layer: rest for layer, *rest in zip(s.layers, s.mlp_dim, s.head_dim)} for s in subnets]
    for layer in range(num_hidden_layers):
        if any(layers.get(layer) != treated[0].get(layer) for layers in treated):
            return layer
    return num_hidden_layers


def _default_windows(mlp_dim: int) -> tuple[int, ...]:
    multiple = MLP_WINDOW_MULTIPLE
    windows = {math.floor(mlp_dim * ratio + 1e-6) // multiple * multiple for ratio in MLP_WINDOW_RATIOS} - {0}
    if len(windows) < len(MLP_WINDOW_RATIOS):
        raise ValueError(f"`mlp_dim` of {mlp_dim} is too narrow for the default windows; give `mlp_windows`.")
    return tuple(sorted(windows))


def check_whole(name: str, values: Any, least: int = 1, most: int = MOST_CHANNELS) -> None:
    """Raises `ValueError` unless `values` is a tuple of whole numbers (no booleans) in [least, most]."""
    if not isinstance(values, tuple):
        raise ValueError(f"`{name}` must be a tuple of whole numbers, got {values!r}.")
    for value in values:
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"`{name}` must hold whole numbers from {least} to {most}, got {value!r}.")


def check_probabilities(name: str, values: Any) -> None:
    """Raises `ValueError` unless `values` is a tuple of numbers (no booleans) in [0, 1]."""
    if not isinstance(values, tuple):
        raise ValueError(f"`{name}` must be a tuple of numbers in [0, 1], got {values!r}.")
    for value in values:
        if type(value) not in (int, float) or not 0 <= value <= 1:
            raise ValueError(f"`{name}` must lie in [0, 1], got {value!r}.")


def _as_tuple(values: Any) -> Any:
    """Lists as tuples; anything else as it is, for the checks to refuse by name."""
    return tuple(values) if isinstance(values, list) else values


def _parsed(cls: type, text: Any) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{cls.__name__} is read from JSON, which this is not: {error}.") from None


def _fields_of(cls: Any, data: Any) -> dict[str, Any]:
    """The fields of a dataclass from JSON data, lists as tuples."""
    fields = cls.__dataclass_fields__
    if not isinstance(data, dict):
        raise ValueError(f"{cls.__name__} is a dict with the fields {list(fields)}, got {data!r}.")
    optional = {"attention_windows"}
    unknown, missing = sorted(map(str, set(data) - set(fields))), sorted(set(fields) - set(data) - optional)
    if unknown or missing:
        raise ValueError(f"{cls.__name__} has the fields {list(fields)}; unknown {unknown}, missing {missing}.")
    return {key: _as_tuple(value) for key, value in data.items()}


__all__ = ["ElasticSpace", "Subnet", "shared_depth"]
