"""Model cards from plain facts: what is known is there once, in one format; what is not known is nowhere."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard, metadata_load
from huggingface_hub.repocard_data import eval_results_to_model_index

from supersam_hf.hub import tables
from supersam_hf.hub.card import model_card
from supersam_hf.hub.facts import CardFacts, Kind, Layer, Limit, Row, Source, StageCost


if TYPE_CHECKING:
    from hub_server import HubServer

ROOT = Path(__file__).parents[1]
TIMED = {
    "latency": {"median_ms": 57.14, "p10_ms": 50.0, "p90_ms": 60.0, "min_ms": 49.0, "repeats": 20},
    "ratio": 0.53,
    "batch_size": 1,
}


def facts(kind: Kind = "supersam_subnet", **known: Any) -> CardFacts:
    return CardFacts(kind=kind, repo="org/x", revision="v1", title="x", origin="the network that was found", **known)


def full(kind: Kind = "supersam_subnet") -> CardFacts:
    return facts(
        kind,
        base=Source("facebook/sam-vit-base", "facebook/sam-vit-base", "apache-2.0"),
        data=Source("org/cells", "org/cells"),
        data_lines=["Trained on cells."],
        rows=[
            Row("original", 10_270_000, 1_724_000_000, {"mIoU": 0.78412, "best of 3 masks": 0.9}, TIMED),
            Row("this model", 6_058_000, 538_000_000, {"mIoU": 0.76304}, TIMED, this=True),
        ],
        budget=[Limit("parameters", 6_162_000.6, 6_058_000, 10_270_000)],
        layers=[Layer(0, {"MLP": 768}, {"MLP": 192}, 0.4), Layer(1, {"MLP": 768}, None, 0.7)],
        search_lines=["Searched."],
        limits=["One run."],
        costs=[
            StageCost("train", 1800.0, 400, 1600, 0.012, 0.004, "estimated"),
            StageCost("search", 60.0, energy_kwh=0.001, emissions_kg=0.0004),
        ],
        hardware={"device": "Some CPU", "threads": 2, "torch": "2.13.0"},
        versions={"torch": "2.13.0"},
        eval_split="validation",
        extra={"prompt": "box"},
    )


@pytest.mark.parametrize("kind", get_args(Kind))
def test_what_is_not_known_is_left_out(kind: Kind) -> None:
    """Metadata, headline, how to use it, limits and citation: nothing else, and no sign of what is missing."""
    bare = facts(kind, base=Source("sam-tiny"), extra={"size": 2}, limits=["One run."])
    text = model_card(bare)
    for sign in ("None", "unknown", "More Information", "[]", "{}", "N/A", "nan", "TODO", "\n\n\n"):
        assert sign not in text, sign
    headlines = re.findall(r"^## (.*)$", text, re.M)
    assert "Cost" not in headlines
    assert "Size, quality and speed" not in headlines
    sections = re.split(r"^## .*$", text, flags=re.M)
    assert all(section.strip() for section in sections)
    assert set(ModelCard(text).data.to_dict()) == {"library_name", "pipeline_tag", "tags"}


def test_metadata_is_what_the_hub_reads(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(model_card(full()))
    card, metadata = ModelCard.load(path), metadata_load(path)
    assert (card.data.base_model, card.data.to_dict()["base_model_relation"]) == ("facebook/sam-vit-base", "finetune")
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "mask-generation")
    assert (card.data.license, card.data.datasets, card.data.metrics) == ("apache-2.0", ["org/cells"], ["mean_iou"])
    assert metadata["co2_eq_emissions"] == {"emissions": 4.4, "source": "codecarbon", "hardware_used": "Some CPU"}
    (result,) = card.data.eval_results
    assert (result.metric_value, result.dataset_type, result.dataset_split) == (0.763, "org/cells", "validation")
    assert metadata["model-index"] == eval_results_to_model_index("x", card.data.eval_results)
    assert isinstance(result, EvalResult)


def test_an_adapter_says_so() -> None:
    data = ModelCard(model_card(full("adapter"))).data
    assert (data.library_name, data.to_dict()["base_model_relation"]) == ("peft", "adapter")


def test_local_sources_are_no_ids() -> None:
    """A name on a disk is prose, not an id for the Hub to look up."""
    known = vars(full()) | {"base": Source("sam-tiny"), "data": Source("my cells")}
    text = model_card(CardFacts(**known))
    data = ModelCard(text).data
    assert data.base_model is None
    assert data.datasets is None
    assert data.eval_results[0].dataset_type == "my-cells"
    assert "`sam-tiny`" in text


@pytest.mark.parametrize("kind", get_args(Kind))
def test_the_hub_accepts_every_card(hub: "HubServer", kind: Kind) -> None:
    ModelCard(model_card(full(kind))).validate()


def test_results_drop_columns_that_say_nothing() -> None:
    known = vars(full())
    table = tables.results(CardFacts(**known)).splitlines()
    heads = ["model", "parameters", "of the original", "GMACs (image encoder)", "mIoU", "best of 3 masks", "latency"]
    assert table[0] == f"| {' | '.join([*heads, 'speed'])} |"
    assert table[3] == (
        "| **this model** | 6,058,000 | 59.0% | 0.538 | 0.7630 |  | 57.1 ms (50.0 to 60.0) | 1.89× as fast |"
    )
    untimed = [Row(row.name, row.params, row.macs, {"mIoU": 0.5}, this=row.this) for row in known["rows"]]
    bare = CardFacts(**known | {"rows": untimed})
    assert "latency" not in tables.results(bare)
    assert tables.measured_on(bare) == ""
    assert "Some CPU" in tables.measured_on(CardFacts(**known))


def test_shares_are_of_another_model() -> None:
    """Alone in its table, a model is not 100 % of an original."""
    alone = facts(rows=[Row("this model", 10, 20, this=True)])
    assert "of the original" not in tables.results(alone)
    assert "%" not in model_card(alone)


@pytest.mark.parametrize(
    ("limit", "sentence"),
    [
        (
            Limit("parameters", 206_290.8, 197_784, 229_212),
            "Asked for at most 206,290 parameters (90.0%); met with 197,784 parameters (86.3%).",
        ),
        (Limit("milliseconds", 40.0, 41.25), "Asked for at most 40.0 ms; not met with 41.2 ms."),
        (
            Limit("mIoU", 0.8, 0.81),
            "Asked for mIoU of at least 0.8000 on the images of the search; met with 0.8100.",
        ),
        (
            Limit("mIoU", 0.8, 0.79),
            "Asked for mIoU of at least 0.8000 on the images of the search; not met with 0.7900.",
        ),
        (Limit("multiply-accumulates", 1e9), "Asked for at most 1,000,000,000 multiply-accumulates."),
    ],
)
def test_a_limit_is_asked_and_met(limit: Limit, sentence: str) -> None:
    assert tables.budget([limit]) == [sentence]


def test_layers_say_what_is_left_and_what_they_were_worth() -> None:
    assert tables.layers(full().layers).splitlines()[2:] == ["| 0 | 192 of 768 | 0.4000 |", "| 1 | removed | 0.7000 |"]


def test_costs_are_summed_where_all_are_known() -> None:
    assert tables.costs(full().costs).splitlines()[-1] == "| total | 31 min 00 s | 400 | 1,600 | 13 Wh | 4.4 g |"
    half = [StageCost("train", 10.0, energy_kwh=0.012), StageCost("search", 5.0)]
    assert tables.costs(half).splitlines()[-1] == "| total | 15 s |  |"


def test_energy_and_carbon_have_a_unit_that_fits() -> None:
    assert [tables.energy(kwh) for kwh in (0.00001234, 0.437, 1.0, 1234.5)] == [
        *("0.0123 Wh", "437 Wh", "1 kWh", "1.23e+03 kWh")
    ]
    assert [tables.carbon(kg) for kg in (0.0042, 12.3)] == ["4.2 g", "12.3 kg"]


def test_a_revision_is_pinned_in_every_snippet() -> None:
    for kind in get_args(Kind):
        (snippet,) = re.findall(r"```python\n(.*?)```", model_card(full(kind)), re.S)[:1]
        assert 'revision="v1"' in snippet
        assert len([line for line in snippet.splitlines() if line and "import" not in line]) <= 5
    text = model_card(CardFacts(**vars(full()) | {"revision": "main"}))
    assert "in place of `main`" in text


def test_a_stock_model_needs_no_remote_code() -> None:
    text = model_card(CardFacts(**vars(full()) | {"stock": True}))
    assert "SamModel.from_pretrained" in text
    assert "trust_remote_code" not in text


def test_both_papers_are_cited_as_the_citation_file_has_them() -> None:
    text = model_card(full())
    for paper in yaml.safe_load((ROOT / "CITATION.cff").read_text())["references"]:
        assert paper["title"] in text
        assert paper["url"] in text
        assert all(author["family-names"] in text for author in paper["authors"])
