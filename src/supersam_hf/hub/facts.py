"""What a model card says, as plain data: read from a run's files, rendered by `hub.card`; None is left out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..escape import code, hub_link, prose


Kind = Literal["supersam_subnet", "supersam_supernet", "ofb_subnet", "segmenter", "adapter"]


@dataclass(frozen=True)
class Source:
    """A model or a dataset that something came from.

    Args:
        name (`str`): How prose calls it; of what lies on a disk, the folder's name alone.
        hub_id (`str`, *optional*): Its repository on the Hub, if it came from there.
        license (`str`, *optional*): As its own card states it.
    """

    name: str
    hub_id: str | None = None
    license: str | None = None

    def link(self, kind: str = "") -> str:
        """Markdown: a repository as a link, a folder by its name. `kind` is "datasets/" for a dataset."""
        if self.hub_id is not None:
            return hub_link(self.hub_id, kind)
        return prose(self.name) if " " in self.name else code(self.name)


@dataclass(frozen=True)
class Row:
    """One line of the table of results.

    Args:
        name (`str`): What it is called.
        params, macs (`int`, *optional*): Parameters, multiply-accumulates.
        quality (`dict[str, float]`): By metric, each in [0, 1].
        latency, throughput (`dict`, *optional*): As `results.json` has them: `latency` in ms, `ratio` to the original,
            `batch_size`, and of a throughput `images_per_second`.
        this (`bool`): It is the model that the card is about.
    """

    name: str
    params: int | None = None
    macs: int | None = None
    quality: Mapping[str, float] = field(default_factory=dict)
    latency: Mapping[str, Any] | None = None
    throughput: Mapping[str, Any] | None = None
    this: bool = False


@dataclass(frozen=True)
class Limit:
    """One limit of the budget, asked and met.

    Args:
        what (`str`): "parameters", "multiply-accumulates", "milliseconds" or "mIoU".
        asked (`float`): In its unit.
        reached (`float`, *optional*): The model's value.
        of (`int`, *optional*): What a share is taken of: the largest subnet's, or the original's.
    """

    what: str
    asked: float
    reached: float | None = None
    of: int | None = None

    @property
    def met(self) -> bool | None:
        if self.reached is None:
            return None
        return self.reached >= self.asked if self.what == "mIoU" else self.reached <= self.asked


@dataclass(frozen=True)
class Layer:
    """A layer of the original, and what is left of it.

    Args:
        index (`int`): In the original.
        full (`dict[str, int]`): Its widths there, by name.
        kept (`dict[str, int]`, *optional*): What the model has of each; None: the layer is gone.
        miou_without (`float`, *optional*): mIoU of the original with this layer alone removed: why it may go.
    """

    index: int
    full: Mapping[str, int]
    kept: Mapping[str, int] | None
    miou_without: float | None = None


@dataclass(frozen=True)
class StageCost:
    """What a stage took, over all its sittings.

    Args:
        name (`str`): The stage.
        seconds (`float`): Wall time.
        iterations, images (`int`): Of a training: steps, and images of these steps.
        energy_kwh, emissions_kg (`float`, *optional*): Electricity in kWh and CO2 equivalent in kg, where they were
            measured or estimated.
        method (`str`, *optional*): How.
        kg_per_kwh (`float`, *optional*): Emissions factor.
        country (`str`, *optional*): Whose mean electricity the factor is of: a three-letter ISO code; None: given.
        sittings (`int`): How often it was begun or went on.
    """

    name: str
    seconds: float
    iterations: int = 0
    images: int = 0
    energy_kwh: float | None = None
    emissions_kg: float | None = None
    method: str | None = None
    kg_per_kwh: float | None = None
    country: str | None = None
    sittings: int = 1


@dataclass(frozen=True)
class CardFacts:
    """Everything that a card may say.

    Args:
        kind (`str`): Its template: "supersam_subnet", "supersam_supernet", "ofb_subnet", "segmenter" or
            "adapter".
        repo (`str`): Repository, or ".", the folder that the card lies in.
        revision (`str`): What the snippets load: a branch, a tag or a commit.
        title (`str`): Headline and name in the model-index.
        origin (`str`): How it came to be: "found by the search", "point `pareto-2` of the search's front".
        base ([`Source`], *optional*): The model that the run started from; None: trained in the run itself.
        data ([`Source`], *optional*): The dataset that it was trained on.
        evaluated ([`Source`], *optional*): The dataset of `rows`, if it is another.
        data_lines (`list[str]`): What is known of the data, a sentence each.
        rows (`list[Row]`): Original, stages before, the model itself.
        budget (`list[Limit]`): What was asked for.
        layers (`list[Layer]`): Of the original, in order.
        embedding (`tuple[str, str]`, *optional*): Width of the embedding, or of all stages, of the original and of the
            model.
        search_lines, training_lines, limits (`list[str]`): A sentence each.
        costs (`list[StageCost]`): In the order of the run.
        costs_whole (`bool`): They are all that the model took; a sum of some of them says nothing.
        cost_note (`str`): Where they arose, and how energy was measured.
        hardware (`dict`, *optional*): What it was timed on.
        versions (`dict[str, str]`): Of the libraries.
        figures (`dict[str, str]`): Caption by file name.
        eval_split (`str`, *optional*): Of the dataset: what `rows` were evaluated on.
        extra (`dict`): What one template alone needs.
        stock (`bool`): A plain `transformers.SamModel`, without code of its own.
        cut (`bool`): It is smaller than what it came from, or was picked from a supernet; False: only trained.
    """

    kind: Kind
    repo: str
    revision: str
    title: str
    origin: str
    base: Source | None = None
    data: Source | None = None
    evaluated: Source | None = None
    data_lines: Sequence[str] = ()
    rows: Sequence[Row] = ()
    budget: Sequence[Limit] = ()
    layers: Sequence[Layer] = ()
    embedding: tuple[str, str] | None = None
    search_lines: Sequence[str] = ()
    training_lines: Sequence[str] = ()
    limits: Sequence[str] = ()
    costs: Sequence[StageCost] = ()
    costs_whole: bool = True
    cost_note: str = ""
    hardware: Mapping[str, Any] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, str] = field(default_factory=dict)
    eval_split: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    stock: bool = False
    cut: bool = True

    @property
    def row(self) -> Row | None:
        """The model's own line."""
        return next((row for row in self.rows if row.this), None)


__all__ = ["CardFacts", "Kind", "Layer", "Limit", "Row", "Source", "StageCost"]
