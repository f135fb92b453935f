"""The Pareto front of a supernet: its points by name, or the best of them within limits."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from .configuration_supersam import SuperSamConfig
from .elastic_supersam import ElasticSpace, Subnet, check_probabilities


FRONT_FILE = "pareto.json"
FORMAT_VERSION = 1
# What `from_pretrained` and `cached_file` both take.
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


@dataclass(frozen=True)
class ParetoPoint:
    """One subnet that no other one found beats in both parameters and quality.

    Args:
        name (`str`): `"pareto-0"` has the fewest parameters.
        subnet ([`Subnet`]): Which it is.
        params (`int`): Its parameters.
        macs (`int`): Multiply-accumulates of its image encoder for one image.
        holdout_miou (`float`): mIoU on the images that were searched on, in [0, 1].

    Raises:
        ValueError: If a field is of another type or out of its range, by name.
    """

    name: str
    subnet: Subnet
    params: int
    macs: int
    holdout_miou: float

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"`name` of a Pareto point must be a text, got {self.name!r}.")
        if not isinstance(self.subnet, Subnet):
            raise ValueError(f"`subnet` of {self.name} must be a Subnet, got {self.subnet!r}.")
        _check_count(f"`params` of {self.name}", self.params)
        _check_count(f"`macs` of {self.name}", self.macs)
        check_probabilities("holdout_miou", (self.holdout_miou,))


@dataclass(frozen=True)
class ParetoFront:
    """What `pareto.json` in a supernet's folder or repository says.

    Args:
        points (`tuple[ParetoPoint, ...]`): By ascending parameters.
        largest_params (`int`): Parameters of the largest subnet; fractions are of these.
        largest_macs (`int`): Its multiply-accumulates, likewise.
        source (`str`): Where it was read, for messages.

    Raises:
        ValueError: If a number is not whole and positive, or the points are not named apart, by ascending parameters
            and no larger than the largest subnet.
    """

    points: tuple[ParetoPoint, ...]
    largest_params: int
    largest_macs: int
    source: str

    def __post_init__(self) -> None:
        if not isinstance(self.points, tuple) or not all(isinstance(point, ParetoPoint) for point in self.points):
            raise ValueError(f"`points` of {self.source} must be a tuple of ParetoPoint, got {self.points!r}.")
        _check_count(f"`largest.params` of {self.source}", self.largest_params)
        _check_count(f"`largest.macs` of {self.source}", self.largest_macs)
        names, params = [point.name for point in self.points], [point.params for point in self.points]
        if len(set(names)) < len(names):
            raise ValueError(f"`points` of {self.source} has a `name` twice: {names}.")
        if params != sorted(params):
            raise ValueError(f"`points` of {self.source} must be by ascending `params`, got {params}.")
        for point in self.points:
            if point.params > self.largest_params or point.macs > self.largest_macs:
                raise ValueError(f"{point.name} in {self.source} has more `params` or `macs` than `largest`.")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **hub: Any) -> "ParetoFront":
        """Reads the front of a supernet on the Hub or in a folder.

        Args:
            hub: `revision`, `token`, `cache_dir`, `local_files_only`, `subfolder` and the like, as `from_pretrained`
                of a model takes them.

        Raises:
            ValueError: If there is no `pareto.json`, or it is of a newer format or incomplete.
        """
        source = str(pretrained_model_name_or_path)
        path = cached_file(source, FRONT_FILE, _raise_exceptions_for_missing_entries=False, **hub)
        if path is None:
            raise ValueError(
                f"`{source}` holds no {FRONT_FILE}: it has no points by name and none to choose by `max_params` or "
                "`max_macs`. Give `subnet` as 'largest', 'smallest' or a Subnet; or load a supernet that was "
                "pushed with its front (`supersam-hf push RUN REPO_ID --name supernet`)."
            )
        return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")), f"{FRONT_FILE} of {source}")

    @classmethod
    def from_dict(cls, data: dict[str, Any], source: str) -> "ParetoFront":
        """From the data of `pareto.json`; `ValueError` if it is of a newer format or incomplete."""
        version = data.get("format_version", FORMAT_VERSION) if isinstance(data, dict) else None
        if type(version) is not int or version < 1:
            raise ValueError(f"{source} is no Pareto front: it needs `format_version`, `largest` and `points`.")
        if version > FORMAT_VERSION:
            raise ValueError(
                f"`format_version` of {source} is {version}, this code reads up to {FORMAT_VERSION}: upgrade "
                "supersam_hf."
            )
        points = tuple(_point(point, source) for point in _entry(data, "points", list, source))
        largest = _entry(data, "largest", dict, source)
        params, macs = (_entry(largest, name, object, source) for name in ("params", "macs"))
        return cls(points, params, macs, source)

    def point(self, name: str) -> ParetoPoint:
        """The point of this name; `ValueError` that lists those there are, if it is none of them."""
        for point in self.points:
            if point.name == name:
                return point
        listed = ", ".join(f"{point.name} ({point.params:,} parameters)" for point in self.points)
        raise ValueError(f"`subnet` is {name!r}; {self.source} has {listed or 'no points'}.")

    def best(self, max_params: float | None = None, max_macs: float | None = None) -> ParetoPoint:
        """The point of the highest holdout mIoU within both limits, the smaller of equals.

        Args:
            max_params (`float`, *optional*): Most parameters; up to 1, a fraction of the largest subnet's.
            max_macs (`float`, *optional*): Most multiply-accumulates of the image encoder; up to 1, a fraction.

        Raises:
            ValueError: If a limit is no positive number, or no point keeps both: says which is the smallest.
        """
        if not self.points:
            raise ValueError(f"{self.source} has no points.")
        params = _limit("max_params", max_params, self.largest_params)
        macs = _limit("max_macs", max_macs, self.largest_macs)
        within = [point for point in self.points if point.params <= params and point.macs <= macs]
        if within:
            return max(within, key=lambda point: (point.holdout_miou, -point.params))
        least = min(self.points, key=lambda point: point.macs if max_params is None else point.params)
        limits = {"max_params": params, "max_macs": macs}
        asked = " and ".join(f"`{name}` {limit:,.0f}" for name, limit in limits.items() if limit < math.inf)
        raise ValueError(
            f"No point in {self.source} keeps {asked}; the smallest is {least.name} with {least.params:,} parameters "
            f"and {least.macs:,} multiply-accumulates."
        )


def choose_subnet(
    source: Any,
    config: SuperSamConfig,
    subnet: Subnet | Mapping[str, Any] | str | None,
    max_params: float | None,
    max_macs: float | None,
    hub: dict[str, Any],
) -> tuple[Subnet, str | None]:
    """The subnet that `SuperSamModel.from_pretrained` was asked for, and its name; reads no weights.

    Args:
        source (`str` or `Path`): The supernet: a repository or folder.
        config ([`SuperSamConfig`]): Its config.
        subnet, max_params, max_macs: As given to `from_pretrained`.
        hub (`dict`): `revision`, `token` and the like.

    Raises:
        ValueError: If there is no such subnet, or it does not fit the supernet.
    """
    if subnet is not None and (max_params is not None or max_macs is not None):
        raise ValueError("Give `subnet` or limits (`max_params`, `max_macs`), not both: each picks the subnet.")
    name = None
    if subnet is None:
        best = ParetoFront.from_pretrained(source, **hub).best(max_params, max_macs)
        chosen, name = best.subnet, best.name
    elif isinstance(subnet, str):
        chosen, name = _named(source, config, subnet, hub), subnet
    else:
        chosen = subnet if isinstance(subnet, Subnet) else Subnet.from_dict(dict(subnet))
    mlp_dims, head_dims = config.vision_config.layer_widths
    chosen.check(len(mlp_dims), mlp_dims, head_dims)
    return chosen, name


def _named(source: Any, config: SuperSamConfig, name: str, hub: dict[str, Any]) -> Subnet:
    if name not in ("largest", "smallest"):
        return ParetoFront.from_pretrained(source, **hub).point(name).subnet
    if config.subnet is not None:
        raise ValueError(f"`subnet` is {name!r}, but `{source}` is itself a subnet that was extracted: leave it out.")
    space = ElasticSpace.for_config(config)
    return space.largest() if name == "largest" else space.smallest()


def _point(data: Any, source: str) -> ParetoPoint:
    if not isinstance(data, dict):
        raise ValueError(f"`points` of {source} must be a list of dicts, got {data!r} in it.")
    names = ("name", "subnet", "params", "macs", "holdout_miou")
    name, subnet, *numbers = (_entry(data, name, object, source) for name in names)
    try:
        return ParetoPoint(name, Subnet.from_dict(subnet), *numbers)
    except ValueError as error:
        raise ValueError(f"{source} is no Pareto front: {error}") from None


def _entry(data: dict[str, Any], name: str, kind: type, source: str) -> Any:
    if name not in data:
        raise ValueError(f"{source} lacks '{name}', which a Pareto front has.")
    if not isinstance(data[name], kind):
        raise ValueError(f"`{name}` of {source} must be a {kind.__name__}, got {data[name]!r}.")
    return data[name]


def _check_count(what: str, value: Any) -> None:
    if type(value) is not int or value < 1:
        raise ValueError(f"{what} must be a whole number of 1 or more, got {value!r}.")


def _limit(name: str, value: float | None, largest: int) -> float:
    if value is None:
        return math.inf
    if type(value) not in (int, float) or not (math.isfinite(value) and value > 0):
        raise ValueError(
            f"`{name}` is {value!r}; give a number above 0, or a fraction of the largest subnet's in (0, 1]."
        )
    return value if value > 1 else value * largest


__all__ = ["ParetoFront", "ParetoPoint"]
