"""What is published of a run: every number of its card is in the run's files, and no path of this machine is."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

from supersam_hf import ElasticSpace, OfbViTForImageClassification, Subnet, SuperSamModel
from supersam_hf.elastic.cost import count_macs, count_parameters
from supersam_hf.hub import export, push
from supersam_hf.hub.tables import duration
from supersam_hf.pipeline.cards.records import source
from supersam_hf.pipeline.publish import Publication, publication


if TYPE_CHECKING:
    from hub_server import HubServer


@pytest.fixture
def copied(supersam_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(supersam_run, tmp_path / "copied")


def numbers(folder: Path) -> set[float]:
    """Every number in the run's JSON files, lists and all."""

    def within(data: Any) -> Iterator[float]:
        if isinstance(data, dict):
            data = list(data.values())
        if isinstance(data, list):
            for value in data:
                yield from within(value)
        elif isinstance(data, (int, float)) and not isinstance(data, bool):
            yield float(data)

    found: set[float] = set()
    for path in folder.rglob("*.json"):
        found |= set(within(json.loads(path.read_text())))
    first_line = folder / "search" / "history.jsonl"
    return found | (set(within(json.loads(first_line.open().readline()))) if first_line.exists() else set())


def cells(card: str) -> list[tuple[str, str, str]]:
    """(first cell of the row, headline, cell) of every table cell of a card."""
    found, head = [], []
    for line in card.splitlines():
        words = [word.strip() for word in line.strip("|").split("|")] if line.startswith("|") else []
        if not words:
            head = []
        elif not head:
            head = words
        elif words[0] != "---":
            found += [(words[0], name, word) for name, word in zip(head[1:], words[1:], strict=True)]
    return found


def written(value: float) -> set[str]:
    """The ways in which a card may write a number of a file."""
    ways = {f"{value:.4f}", f"{value:.2f}", f"{value:,.1f}", f"{value / 1e9:.4g}", f"{value * 1e3:.3g}"}
    return ways | ({f"{int(value):,}", str(int(value))} if value == int(value) else set())


@pytest.mark.parametrize(
    ("run", "name"),
    [("supersam_run", "subnet"), ("supersam_run", "supernet"), ("supersam_run", "pareto-0"), ("ofb_run", "finetuned")],
)
def test_every_number_of_the_tables_is_in_the_runs_files(run: str, name: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(run)
    known = {way for value in numbers(folder) for way in written(value)}
    times = {duration(value) for value in numbers(folder)}
    params = {row["params"] for row in json.loads((folder / "results.json").read_text())["rows"]}
    shares = {f"{a / b:.1%}" for a in params for b in params}
    speeds = {f"{1 / value:.2f}" for value in numbers(folder) if value}
    may_be = {"of the original": shares, "speed": speeds}
    table = cells(publication(folder, name).card)
    assert len(table) > 30
    for row, head, cell in table:
        if row == "total":
            continue
        if head == "time":
            assert cell in times, (row, cell)
            continue
        tokens = re.findall(r"\d[\d,.]*%?(?:e-?\d+)?", cell)
        wrong = [token for token in tokens if token not in may_be.get(head, known)]
        assert not wrong, (row, head, cell)


def test_a_subnets_card_tells_its_own_story(supersam_run: Path) -> None:
    results = json.loads((supersam_run / "results.json").read_text())
    rows = {row["name"]: row for row in results["rows"]}
    before = {row["name"]: row for row in results["before"]}
    table = {(row, head): cell for row, head, cell in cells(publication(supersam_run, "found").card)}
    found = rows["found"]
    assert table["**this model**", "parameters"] == f"{found['params']:,}"
    assert table["**this model**", "of the original"] == f"{found['params'] / rows['original']['params']:.1%}"
    assert table["**this model**", "mIoU"] == f"{found['miou']:.4f}"
    assert table["the same before training", "mIoU"] == f"{before['found']['miou']:.4f}"
    assert table["original", "mIoU"] == f"{rows['original']['miou']:.4f}"
    assert table["**this model**", "speed"] == f"{1 / found['latency']['ratio']:.2f}× as fast"
    files = [path for path in (supersam_run / "stages").glob("*.json") if path.stem != "recover"]
    stages = [json.loads(path.read_text())["cost"] for path in files]  # recovery made another model
    assert table["total", "time"] == duration(sum(stage["seconds"] for stage in stages))
    assert table["train", "iterations"] == "4"
    assert table["total", "images"] == str(sum(stage["images"] for stage in stages))


def test_a_subnets_card_says_what_was_cut(supersam_run: Path) -> None:
    subnet = json.loads((supersam_run / "subnet" / "config.json").read_text())["subnet"]
    ranking = json.loads((supersam_run / "ranking.json").read_text())
    card = publication(supersam_run, "smallest").card
    table = {(row, head): cell for row, head, cell in cells(card)}
    space = ElasticSpace.from_dict(json.loads((supersam_run / "search.json").read_text())["space"])
    smallest = space.smallest()
    for layer in range(space.num_hidden_layers):
        kept = dict(zip(smallest.layers, smallest.mlp_dim)).get(layer)
        expected = "removed" if kept is None else f"{kept} of {space.mlp_dim}"
        assert table[str(layer), "MLP"] == expected
        assert table[str(layer), "mIoU without this layer"] == f"{ranking['single'][layer]['quality']:.4f}"
    assert "Asked for" not in card  # the smallest was not what the search was asked for
    found = publication(supersam_run, "subnet")
    assert found.search is not None
    assert found.search["subnet"] == subnet
    budget = json.loads((supersam_run / "search.json").read_text())["limits"]["max_params"]
    assert f"Asked for at most {int(budget):,} parameters (90.0%); met with" in found.card


def test_a_classifiers_card_says_what_was_cut(ofb_run: Path) -> None:
    report = json.loads((ofb_run / "search.json").read_text())
    rows = {row["name"]: row for row in json.loads((ofb_run / "results.json").read_text())["rows"]}
    model = OfbViTForImageClassification.from_pretrained(ofb_run / "finetuned")
    card = publication(ofb_run, "finetuned").card
    table = {(row, head): cell for row, head, cell in cells(card)}
    for layer, sizes in enumerate(zip(*model.config.layer_widths)):
        for head, size, full in zip(("heads", "channels a head", "MLP"), sizes, (2, 16, 128)):
            assert table[str(layer), head] == f"{size} of {full}"
    assert f"keeps {model.config.hidden_size} of 32 channels" in card
    assert f"Asked for at most {report['budget']:,} multiply-accumulates (60.0%); met with {report['macs']:,}" in card
    assert table["**this model**", "top-1 accuracy"] == f"{rows['finetuned']['top1']:.4f}"
    assert table["found, before retraining", "top-1 accuracy"] == f"{rows['searched']['top1']:.4f}"
    assert {result.metric_name: result.metric_value for result in ModelCard(card).data.eval_results} == {
        "top-1 accuracy": round(rows["finetuned"]["top1"], 4),
        "top-5 accuracy": round(rows["finetuned"]["top5"], 4),
    }
    assert "finetune" not in {row for row, _, _ in cells(publication(ofb_run, "searched").card)}


def test_a_supernet_comes_with_its_front(supersam_run: Path) -> None:
    found = publication(supersam_run, "supernet")
    assert found.pareto is not None
    assert found.pareto["format_version"] == 1
    points, supernet = found.pareto["points"], SuperSamModel.from_pretrained(supersam_run / "supernet")
    assert found.pareto["largest"] == {
        "params": count_parameters(supernet.config),
        "macs": count_macs(supernet.config),
    }
    assert [point["name"] for point in points] == [f"pareto-{i}" for i in range(len(points))]
    for point in points:
        extracted = supernet.extract(Subnet.from_dict(point["subnet"]))
        assert (point["params"], point["macs"]) == (extracted.num_parameters(), count_macs(extracted.config))
        assert 0 <= point["holdout_miou"] <= 1
        assert {"miou", "latency_ms"} <= set(point)
    assert [point["params"] for point in points] == sorted(point["params"] for point in points)
    assert "![mIoU over parameters of the subnets, with their Pareto front](pareto.png)" in found.card
    assert set(found.figures) == {"pareto.png"}


def test_points_are_the_supernets_subnets(supersam_run: Path) -> None:
    """`pareto-1`, extracted here, is what the front says and gives the supernet's own outputs."""
    found = publication(supersam_run, "pareto-1")
    point = publication(supersam_run, "supernet").pareto["points"][1]  # type: ignore[index]
    assert (found.model.config.subnet, found.model.config.subnet_name) == (point["subnet"], "pareto-1")
    supernet = SuperSamModel.from_pretrained(supersam_run / "supernet").eval()
    inputs = {"pixel_values": torch.randn(1, 3, 64, 64), "input_boxes": torch.tensor([[[4.0, 4.0, 50.0, 40.0]]])}
    with torch.no_grad():
        whole = supernet(**inputs, subnet=Subnet.from_dict(point["subnet"])).pred_masks
        assert torch.equal(found.model(**inputs).pred_masks, whole)
    rows = {row["name"]: row for row in json.loads((supersam_run / "results.json").read_text())["rows"]}
    assert ModelCard(found.card).data.eval_results[0].metric_value == round(rows["pareto-1"]["miou"], 4)


def texts(found: Publication) -> str:
    return found.card + json.dumps(found.search) + json.dumps(found.pareto)


@pytest.mark.parametrize("name", ["subnet", "supernet", "pareto-0"])
def test_no_path_of_this_machine_is_published(copied: Path, name: str) -> None:
    """Model, data and original at paths, as `--model.name /home/…/sam` leaves them in the records."""
    (copied / "start.json").write_text(json.dumps({"name": "/home/someone/secret/sam-tiny", "revision": None}))
    for path in [*(copied / "stages").glob("*.json"), copied / "results.json", copied / "search.json"]:
        path.write_text(path.read_text().replace('"source": "shapes"', '"source": "/home/someone/secret/cells"'))
    found = publication(copied, name)
    assert "/home/" not in texts(found)
    assert str(copied.parent) not in texts(found)
    assert "secret" not in texts(found)
    assert "`sam-tiny`" in found.card
    assert "`cells`" in found.card
    data = ModelCard(found.card).data
    assert data.base_model is None
    assert data.datasets is None
    assert found.search is not None
    assert found.search["data"]["source"] == "cells"


def test_repositories_become_links_and_metadata(copied: Path) -> None:
    (copied / "start.json").write_text(json.dumps({"name": "facebook/sam-vit-base", "revision": None}))
    for path in [*(copied / "stages").glob("*.json"), copied / "results.json", copied / "search.json"]:
        path.write_text(path.read_text().replace('"source": "shapes"', '"source": "org/cells"'))
    card = ModelCard(publication(copied, "subnet").card)
    assert (card.data.base_model, card.data.datasets) == ("facebook/sam-vit-base", ["org/cells"])
    assert "[facebook/sam-vit-base](https://huggingface.co/facebook/sam-vit-base)" in card.text
    assert "[org/cells](https://huggingface.co/datasets/org/cells)" in card.text


def test_a_path_that_reads_like_an_id_is_a_path(tmp_path: Path) -> None:
    """`runs/a` beside the run, whatever the working directory is."""
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "README.md").write_text("---\nlicense: mit\n---\n")
    assert source("runs/a", tmp_path / "runs" / "b").hub_id is None
    assert source("runs/other", tmp_path / "runs" / "b").hub_id == "runs/other"
    for name in ("/x/y", "./x", "../x/y", "~/x", "x", "a/b/c"):
        assert source(name, tmp_path).hub_id is None, name
    known = source(str(tmp_path / "runs" / "a"), tmp_path)
    assert (known.name, known.license) == ("a", "mit")


def test_what_a_run_has_not_done_is_left_out(copied: Path) -> None:
    """No report, no ranking, no stage records: a card of what is left, and nothing invented."""
    for name in ("results.json", "ranking.json", "subnet.png"):
        (copied / name).unlink()
    shutil.rmtree(copied / "stages")
    shutil.rmtree(copied / "costs")
    found = publication(copied, "subnet")
    for sign in ("None", "Latency", "energy", "## Cost", "without this layer", "Evaluated", "!["):
        assert sign not in found.card, sign
    assert "Asked for at most" in found.card  # search.json is there
    assert "4 steps" in found.card  # and the training's checkpoint
    assert ModelCard(found.card).data.eval_results is None
    (copied / "search.json").unlink()
    shutil.rmtree(copied / "train")
    bare = publication(copied, "subnet")
    assert "## What was cut" in bare.card  # by the supernet's own space
    assert "## How it was found" not in bare.card
    assert publication(copied, "supernet").pareto is None


def test_a_report_of_another_subnet_says_nothing(copied: Path) -> None:
    """The folder's subnet was extracted anew after the report: its quality is not known."""
    supernet = SuperSamModel.from_pretrained(copied / "supernet")
    other = supernet.extract(supernet.elastic_space.largest())
    other.save_pretrained(copied / "subnet")
    card = publication(copied, "subnet").card
    assert ModelCard(card).data.eval_results is None
    assert "a network taken out of a supernet" in card
    assert f"| **this model** | {other.num_parameters():,} | 100.0% |" in card


def changed(path: Path, change: Callable[[Any], None]) -> None:
    """A JSON file of a run, changed in place."""
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_a_report_of_other_weights_says_nothing(copied: Path, ofb_run: Path, tmp_path: Path) -> None:
    """Trained anew after the report, with the same widths: size is known, quality is not."""

    def other(results: dict[str, Any]) -> None:
        for row in results["rows"]:
            row["weights"] = "0" * 16

    classifier = shutil.copytree(ofb_run, tmp_path / "classifier")
    for folder, names in ((copied, ("subnet", "supernet", "pareto-0")), (classifier, ("searched", "finetuned"))):
        assert all(ModelCard(publication(folder, name).card).data.eval_results for name in names)
        changed(folder / "results.json", other)
        assert not any(ModelCard(publication(folder, name).card).data.eval_results for name in names)
    front = publication(copied, "supernet").pareto
    assert front is not None
    assert not any({"miou", "latency_ms"} & set(point) for point in front["points"])
    # An older report names no weights.
    changed(copied / "results.json", lambda results: [row.pop("weights") for row in results["rows"]])
    assert ModelCard(publication(copied, "subnet").card).data.eval_results


def test_the_front_says_where_it_was_timed(supersam_run: Path) -> None:
    ran_on = json.loads((supersam_run / "results.json").read_text())["hardware"]
    front = publication(supersam_run, "supernet").pareto
    assert front is not None
    assert front["hardware"] == {"device": ran_on["device"], "threads": ran_on["threads"]}


def test_a_resumed_stage_costs_all_its_sittings(copied: Path) -> None:
    told = {"energy_kwh": 0.01, "emissions_kg": 0.002, "country": "FRA", "kg_per_kwh": 0.2, "method": "guessed"}

    def spend(costs: dict[str, Any]) -> None:
        costs["sittings"] = [{**costs["sittings"][0], **told, "seconds": 10.0}]

    for path in (copied / "costs").glob("*.json"):
        changed(path, spend)
    found = publication(copied, "subnet").card
    assert "Energy: guessed. CO₂ equivalent: by the mean electricity of FRA, 0.2 kg a kWh." in found
    assert "Sittings" not in found
    stages = {row for row, head, _ in cells(found) if head == "time"} - {"total"}
    assert ModelCard(found).data.co2_eq_emissions["emissions"] == 2.0 * len(stages)  # type: ignore[attr-defined]

    def again(costs: dict[str, Any]) -> None:
        costs["sittings"] = [{**costs["sittings"][0], "iterations": 3, "images": 12}] * 2

    changed(copied / "costs" / "train.json", again)
    card = publication(copied, "subnet").card
    table = {(row, head): cell for row, head, cell in cells(card)}
    assert (table["train", "time"], table["train", "iterations"], table["train", "images"]) == ("20 s", "6", "24")
    assert (table["train", "energy"], table["train", "CO₂ equivalent"]) == ("20 Wh", "4 g")
    assert "Sittings: `train` in 2; what was done twice after an interruption is counted." in card
    assert ModelCard(card).data.co2_eq_emissions["emissions"] == 2.0 * (len(stages) + 1)  # type: ignore[attr-defined]


def test_a_training_without_a_record_leaves_no_total(copied: Path) -> None:
    """The other stages are not all that it took."""
    (copied / "costs" / "train.json").unlink()
    stages = {row for row, head, _ in cells(publication(copied, "subnet").card) if head == "time"}
    assert "search" in stages
    assert "total" not in stages


def test_a_milestone_is_told(copied: Path) -> None:
    reached = {"subnet": "smallest", "target": 0.7, "miou": 0.712, "step": 40, "iterations": 52, "images": 208}
    cost = {"samples": 416, "seconds": 33.4, "energy_kwh": 0.0021, "emissions_kg": None}
    (copied / "milestone.json").write_text(json.dumps({**reached, **cost}))
    assert (
        "The smallest subnet first reached a mIoU of 0.7 (with 0.7120) at step 40: after 52 iterations, 208 images, "
        "416 prompted objects, 33 s, 2.1 Wh."
    ) in publication(copied, "supernet").card


def test_the_dataset_of_the_report_may_be_another(copied: Path) -> None:
    def other(results: dict[str, Any]) -> None:
        results["recipe"]["data"] |= {"source": "org/others", "eval_split": "test"}

    changed(copied / "results.json", other)
    found = publication(copied, "subnet")
    assert "Trained on generated shapes: split `train`." in found.card
    assert "Evaluated on [org/others]" in found.card
    data = ModelCard(found.card).data
    assert data.datasets is None
    assert (data.eval_results[0].dataset_type, data.eval_results[0].dataset_split) == ("org/others", "test")
    assert "Trained for generated shapes and box prompts" in found.card


def test_what_was_measured_in_the_search_stays_there(copied: Path) -> None:
    def limited(search: dict[str, Any]) -> None:
        search["limits"]["min_quality"] = 0.01

    changed(copied / "search.json", limited)
    shutil.copytree(copied / "subnet", copied / "finetuned")
    assert "Asked for mIoU of at least 0.0100 on the images of the search; met" in publication(copied, "found").card
    card = publication(copied, "finetuned").card
    assert "Asked for at most" in card
    assert "Asked for mIoU" not in card


def test_a_model_that_was_only_trained_says_so(copied: Path, ofb_run: Path, tmp_path: Path) -> None:
    """Fine-tuned by a verb, in a folder without a search: nothing was made smaller."""
    for run, saved in ((copied, "pretrained"), (ofb_run, "pretrained")):
        folder = tmp_path / f"plain-{run.name}"
        shutil.copytree(run / saved, folder / "finetuned")
        (folder / "start.json").write_text(json.dumps({"name": "org/whole", "revision": None}))
        found = publication(folder, "finetuned")
        assert ", fine-tuned, from [org/whole]" in found.card
        assert not {"pruning", "neural-architecture-search"} & set(ModelCard(found.card).data.tags)
        for sign in ("made smaller", "inside", "Only the image encoder was cut", "What was cut"):
            assert sign not in found.card, sign


def test_relative_speed_is_to_the_original(ofb_run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(ofb_run, tmp_path / "run")
    assert "| speed |" in publication(folder, "finetuned").card
    changed(folder / "results.json", lambda results: results["rows"].pop(0))
    card = publication(folder, "finetuned").card
    assert "latency" in card
    assert "elative" not in card


@pytest.mark.parametrize("left", [(), ("subnet",)])
def test_a_search_in_anothers_supernet(copied: Path, left: tuple[str, ...]) -> None:
    """The run trained no supernet: the message says how to take the point out."""
    for path in copied.glob("*/config.json"):
        if path.parent.name not in left:
            shutil.rmtree(path.parent)
    (copied / "start.json").write_text(json.dumps({"name": "org/supernet", "revision": "v1"}))
    with pytest.raises(ValueError, match="--model.name org/supernet --model.revision v1 .* --subnet pareto-1"):
        publication(copied, "pareto-1")
    with pytest.raises(ValueError, match=r"trained no supernet.*Push that one"):
        publication(copied, "supernet")


def test_a_finetuned_subnet_has_the_quality_before_it(copied: Path) -> None:
    shutil.copytree(copied / "subnet", copied / "finetuned")
    card = publication(copied, "finetuned").card
    row = next(row for row in json.loads((copied / "results.json").read_text())["rows"] if row["name"] == "found")
    table = {(row, head): cell for row, head, cell in cells(card)}
    assert table["the same before fine-tuning", "mIoU"] == f"{row['miou']:.4f}"
    assert table["**this model**", "mIoU"] == ""
    assert ModelCard(card).data.eval_results is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("best", "may be one of .*'subnet'"),
        ("pareto-99", "pareto-0, pareto-1"),
        ("finetuned", "has no finetuned/.* It has .*subnet, supernet"),
        ("adapter", "no finished adapter"),
    ],
)
def test_what_there_is_not_is_refused(supersam_run: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        publication(supersam_run, name)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("ranking.json", lambda data: data["single"][0]["layers"].__setitem__(0, []), r"ranking\.json"),
        ("stages/train.json", lambda data: data["values"].pop("train"), r"KeyError: 'train'.*stages/train\.json"),
        (
            "subnet/config.json",
            lambda data: data.update(tie_word_embeddings=10**30),
            r"config\.json.*tie_word_embeddings",
        ),
        ("subnet/config.json", lambda data: data.update(vision_config=2.7), r"config\.json.*vision_config"),
        (
            "subnet/processor_config.json",
            lambda data: data["image_processor"].update(pad_size={"height": 64}),
            r"processor_config\.json.*pad_size",
        ),
    ],
)
def test_a_record_changed_by_hand_is_named(
    copied: Path, name: str, change: Callable[[Any], Any], message: str
) -> None:
    data = json.loads((copied / name).read_text())
    change(data)
    (copied / name).write_text(json.dumps(data))
    with pytest.raises(ValueError, match=f"(?s){message}"):
        publication(copied, "found")


def test_no_run_is_refused(ofb_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no start\.json"):
        publication(tmp_path, "subnet")
    (tmp_path / "start.json").write_text('{"pretrain": true}')
    with pytest.raises(ValueError, match="has not got so far"):
        publication(tmp_path, "subnet")
    with pytest.raises(ValueError, match="of an OFB run it may be one of"):
        publication(ofb_run, "supernet")
    with pytest.raises(ValueError, match="`stock`"):
        publication(ofb_run, "subnet", stock=True)


def run_snippet(card: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Executes the card's first Python block beside a picture, as someone would who copies it."""
    snippet = re.findall(r"```python\n(.*?)```", card, re.S)[0]
    Image.effect_noise((240, 240), 64).convert("RGB").save(folder / "image.png")
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(snippet, names)
    return names


def test_a_pushed_subnets_snippet_runs(
    supersam_run: Path, hub: "HubServer", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The card that lies on the Hub, at a branch of its own: its five lines give masks."""
    found = publication(supersam_run, "subnet", repo_id="loopback/small", revision="v1")
    push(found.model, "loopback/small", revision="v1", **found.export_arguments())
    card = hub.repos["models", "loopback/small"].files("v1")["README.md"].decode()
    ModelCard(card).validate()
    names = run_snippet(card, tmp_path, monkeypatch)
    assert names["masks"][0].shape[-2:] == (240, 240)
    assert names["model"].num_parameters() == found.model.num_parameters()


def test_a_pushed_supernets_snippet_runs(
    supersam_run: Path, hub: "HubServer", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = publication(supersam_run, "supernet", repo_id="loopback/supernet")
    push(found.model, "loopback/supernet", **found.push_arguments())
    assert found.version is not None
    assert f'revision="{found.version}"' in found.card
    names = run_snippet(found.card, tmp_path, monkeypatch)
    assert names["subnet"].num_parameters() <= names["largest"].num_parameters()
    assert names["within"].num_parameters() == names["subnet"].num_parameters()


@pytest.mark.parametrize("kind", ["ofb", "stock"])
def test_an_exported_folders_snippet_runs(
    kind: str,
    ofb_run: Path,
    supersam_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """Without a repository the card speaks of the folder that it lies in."""
    stock = {"stock": True} if kind == "stock" else {}
    run, name = (ofb_run, "finetuned") if kind == "ofb" else (supersam_run, "largest")
    found = publication(run, name, **stock)  # type: ignore[arg-type]
    folder = export(found.model, tmp_path / "exported", **found.export_arguments(), **stock)
    names = run_snippet(found.card, folder, monkeypatch)
    if kind == "stock":
        assert type(names["model"]).__name__ == "SamModel"
        assert names["masks"][0].shape[-2:] == (240, 240)
    else:
        assert "red" in capsys.readouterr().out


def test_all_cards_are_valid(supersam_run: Path, ofb_run: Path, hub: "HubServer") -> None:
    for run, name in ((supersam_run, "subnet"), (supersam_run, "supernet"), (ofb_run, "finetuned")):
        ModelCard(publication(run, name, repo_id="org/x").card).validate()


@pytest.fixture(scope="module")
def adapted(supersam_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from test_pipeline import argv

    from supersam_hf_cli import main

    folder = tmp_path_factory.mktemp("adapted") / "cells-lora"
    start = {"pretrain__enabled": "false", "model__name": supersam_run / "supernet"}
    options = {"adapt__max_steps": 2, "adapt__r": 2, "adapt__eval_sampled": 1, "adapt__save_steps": 1}
    assert main(argv(folder, "adapt", **start, **options)) == 0
    return folder


def test_an_adapters_card(adapted: Path, hub: "HubServer") -> None:
    adapt = json.loads((adapted / "adapt.json").read_text())
    found = publication(adapted, "adapter", repo_id="loopback/lora")
    assert found.model == adapted / "adapter"
    table = {(row, head): cell for row, head, cell in cells(found.card)}
    assert table["largest, without the adapter", "mIoU"] == f"{adapt['before']['miou']:.4f}"
    assert table["**largest, with it**", "mIoU"] == f"{adapt['after']['miou']:.4f}"
    assert f"{adapt['trainable_params']:,} of {adapt['total_params']:,} parameters" in found.card
    assert f"{adapt['adapter_bytes'] / 1e6:.2f} MB" in found.card
    assert "elastic LoRA" in found.card
    assert str(adapted.parent) not in found.card
    assert "Load the model that it was trained on, `supernet`, as `base`" in found.card
    assert ".from_pretrained(base, " in found.card
    assert "Trained on generated shapes: 10 images, split `train`." in found.card
    assert "Evaluated on generated shapes: split `" in found.card
    card = ModelCard(found.card)
    card.validate()
    assert (card.data.library_name, card.data.base_model) == ("peft", None)
    push(found.model, "loopback/lora", **found.push_arguments())
    assert hub.repos["models", "loopback/lora"].files()["README.md"].decode() == found.card


@pytest.mark.parametrize(
    ("base", "elastic", "line"),
    [
        ("org/supernet", True, 'AutoModelForMaskGeneration.from_pretrained("org/supernet", trust_remote_code=True)'),
        ("facebook/sam-vit-base", False, 'AutoModelForMaskGeneration.from_pretrained("facebook/sam-vit-base")'),
    ],
)
def test_an_adapter_of_a_published_model_loads_it(
    adapted: Path, tmp_path: Path, base: str, elastic: bool, line: str
) -> None:
    folder = shutil.copytree(adapted, tmp_path / "lora")
    after = {"miou": 0.5}
    changed(folder / "adapt.json", lambda adapt: adapt.update(base=base, elastic=elastic, after=after))
    card = publication(folder, "adapter", repo_id="org/lora", revision="v1").card
    snippets = re.findall(r"```python\n(.*?)```", card, re.S)
    assert f"base = {line}\n" in snippets[0]
    for snippet in snippets:
        compile(snippet, "card", "exec")
    if elastic:
        assert "from supersam_hf import SuperSamModel, load_elastic_adapter" in snippets[1]
        assert f'base = SuperSamModel.from_pretrained("{base}")\n' in snippets[1]
    assert len(snippets) == 1 + elastic
    assert ModelCard(card).data.base_model == base
