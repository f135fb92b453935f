"""The page of a run: one file that needs nothing else, whose numbers are the run's, of whatever there is."""

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from test_pipeline import argv

from supersam_hf.hub.tables import duration
from supersam_hf.pipeline.page import write_page
from supersam_hf.pipeline.page_facts import page_facts
from supersam_hf_cli import main


class Page(HTMLParser):
    """Its words, its tags with their attributes, and whether every tag is closed."""

    VOID = ("meta", "img", "br")

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(file.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def images(self) -> list[str]:
        return [str(attrs["src"]) for tag, attrs in self.tags if tag == "img"]


@pytest.fixture
def copied(supersam_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(supersam_run, tmp_path / "tiny")


def test_a_run_ends_with_a_page_that_needs_nothing_else(supersam_run: Path) -> None:
    file = supersam_run / "report.html"
    page = Page(file)
    assert not re.search(r"https?://|url\(|@import|<script|<link|src=\"(?!data:)", file.read_text())
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in [a for _, a in page.tags]
    assert "prefers-color-scheme: dark" in file.read_text()
    left = ["pareto.png", "overlays.png", "subnet.png", "training.png", "ranking.png", "search.png"]
    shown = [base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in page.images]
    assert shown == [(supersam_run / name).read_bytes() for name in left]


def test_its_numbers_are_the_runs(supersam_run: Path) -> None:
    text = Page(supersam_run / "report.html").text
    rows = {row["name"]: row for row in json.loads((supersam_run / "results.json").read_text())["rows"]}
    found, original = rows["found + recovery"], rows["original"]
    assert (
        f"{found['params'] / original['params']:.0%} of the parameters and {found['macs'] / original['macs']:.0%} of "
        f"the multiply-accumulates of the original; mIoU {found['miou']:.3f} (original {original['miou']:.3f})"
    ) in text
    for name in ("original", "largest", "smallest", "found", "found + recovery"):
        assert f"{name} {rows[name]['params'] / 1e3:.3g} K" in text
    assert "2 sampled" in text
    costs = json.loads((supersam_run / "costs" / "train.json").read_text())["sittings"]
    assert f"train {duration(sum(sitting['seconds'] for sitting in costs))} 4 " in text
    assert "10 train images, 6 eval images" in text
    assert "finished" in text
    assert "To go on" not in text
    assert "torch 2" in text.replace("\xa0", " ")


def test_of_a_killed_run_there_is_what_there_is(copied: Path, capsys: pytest.CaptureFixture) -> None:
    """As it is left in the midst of its training: no results, no figure of the training yet."""
    for name in ("results.json", "training.png", "pareto.png", "overlays.png", "search.png", "subnet.png"):
        (copied / name).unlink()
    for name in ("train", "search", "extract", "report"):
        (copied / "stages" / f"{name}.json").unlink()
    for name in ("search", "extract", "report"):
        (copied / "costs" / f"{name}.json").unlink()
    log = copied / "train" / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    log.write_text("".join(json.dumps({**line, "step": 2}) + "\n" for line in lines[1:]) + '{"step": 3, "lo')
    record = json.loads((copied / "run.json").read_text())
    record["sittings"][-1] |= {"ended": None, "outcome": None, "command": "supersam-hf run --config a&b.yaml"}
    (copied / "run.json").write_text(json.dumps(record))

    output = copied.parent / "elsewhere" / "page.html"
    assert main(["report", str(copied), "--output", str(output)]) == 0
    assert str(output) in capsys.readouterr().out
    page = Page(output)
    assert "Under way: train, step 2 of 4." in page.text
    assert "train: begun, step 2 of 4 search: to come" in page.text
    assert "To go on supersam-hf run --config a&b.yaml" in page.text
    assert "not ended" in page.text
    training, ranking = page.images
    assert ranking.endswith(base64.b64encode((copied / "ranking.png").read_bytes()).decode())
    drawn = Image.open(io.BytesIO(base64.b64decode(training.split(",")[1])))
    assert min(drawn.size) > 300
    assert not (copied / "training.png").exists(), "it writes nothing into the run but its page"

    log.write_text('{"step": 2, "miou_largest": 0.5}\n')  # evaluated, but nothing of the losses logged yet
    assert Page(write_page(copied)).images == [ranking]


def test_a_milestone_is_told(copied: Path) -> None:
    record = json.loads((copied / "run.json").read_text())
    record["recipe"]["train"]["milestone"] = {"subnet": "smallest", "miou": 0.9, "stop": False}
    (copied / "run.json").write_text(json.dumps(record))
    assert page_facts(copied).notes[0] == "The smallest subnet has not reached the milestone, a mIoU of 0.9."


def test_names_are_escaped(copied: Path) -> None:
    record = json.loads((copied / "run.json").read_text())
    record["recipe"]["data"]["source"] = "<script>alert(1)</script>"
    (copied / "run.json").write_text(json.dumps(record))
    assert "<script>" not in write_page(copied).read_text()
    assert "<script>alert(1)</script>" in Page(copied / "report.html").text


def test_a_classifiers_page(ofb_run: Path) -> None:
    page = Page(ofb_run / "report.html")
    rows = {row["name"]: row for row in json.loads((ofb_run / "results.json").read_text())["rows"]}
    assert f"top-1 accuracy {rows['finetuned']['top1']:.1%} (original {rows['original']['top1']:.1%})" in page.text
    assert "Once for Both" in page.text
    assert len(page.images) == 4
    assert "To go on" not in page.text


def test_what_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "is no run's folder: it has no run.json" in capsys.readouterr().err


def outcome(folder: Path, **changed: object) -> None:
    """Of the last sitting."""
    record = json.loads((folder / "run.json").read_text())
    record["sittings"][-1] |= changed
    (folder / "run.json").write_text(json.dumps(record))


def killed_at(folder: Path, *stages: str) -> None:
    """As if the run had been killed in the first of these."""
    (folder / "results.json").unlink()
    for name in stages:
        (folder / "stages" / f"{name}.json").unlink()
    for name in stages[1:]:
        (folder / "costs" / f"{name}.json").unlink()
    outcome(folder, ended=None, outcome=None)


def test_a_killed_search_shows_how_far_it_is(copied: Path) -> None:
    killed_at(copied, "search", "extract", "report")
    log = copied / "search" / "trials.jsonl"
    header, *asks = log.read_text().splitlines()
    kept = next(i for i in range(len(asks)) if sum(json.loads(ask)["trial"] is not None for ask in asks[:i]) == 3)
    log.write_text("\n".join([header, *asks[:kept]]) + '\n{"ask": 9, "tri')
    assert page_facts(copied).headline == "Under way: search, trial 3 of 5."


def test_a_killed_ranking_shows_how_far_it_is(copied: Path) -> None:
    killed_at(copied, "rank-layers", "reorder", "evaluate-before", "train", "search", "extract", "report")
    journal = copied / "ranking" / "evaluations.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:3]))
    assert page_facts(copied).headline == "Under way: rank-layers, 2 evaluations."


def test_how_the_last_sitting_ended_decides_what_to_do(copied: Path) -> None:
    outcome(copied, outcome="failed")
    assert not page_facts(copied).finished
    killed_at(copied, "train", "search", "extract", "report")
    for ended, begins in (("failed", "Failed: train, step 4 of 4."), ("interrupted", "Interrupted: train, step 4")):
        outcome(copied, outcome=ended)
        facts = page_facts(copied)
        assert facts.headline.startswith(begins)
        assert not facts.finished


def test_the_work_of_single_verbs_is_shown_as_done(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for verb in ("pretrain", "reorder"):
        assert main(argv(folder, verb)) == 0
    facts = page_facts(folder)
    assert [stage["name"] for stage in facts.stages if stage["state"] == "done"] == ["pretrain", "reorder"]
    assert facts.headline == "Done: pretrain, reorder. No model has been reported on yet."
    assert facts.finished
    record = json.loads((folder / "stages" / "reorder.json").read_text())
    assert record["cost"]["seconds"] > 0
    # A verb always runs, with other values too; what it leaves is then made with these.
    assert main(argv(folder, "reorder", reorder__num_images=2)) == 0
    assert json.loads((folder / "stages" / "reorder.json").read_text())["values"]["reorder"]["num_images"] == 2


def test_a_subnet_of_ones_own_is_not_the_pipelines(copied: Path) -> None:
    assert main(argv(copied, "extract", subnet="largest")) == 0
    assert not (copied / "stages" / "extract.json").exists()
    assert main(argv(copied, "extract")) == 0
    assert (copied / "stages" / "extract.json").exists()


def test_a_fine_tuning_says_what_it_is(tmp_path: Path, stock_folder: Path) -> None:
    words = argv(tmp_path, "finetune", finetune__max_steps=1, model__name=stock_folder, pretrain__enabled="false")
    assert main(words) == 0
    facts = page_facts(tmp_path)
    assert [(stage["name"], stage["state"]) for stage in facts.stages] == [("finetune", "done")]
    assert facts.headline.startswith("Done: finetune.")


def test_an_adapter_says_what_it_is(copied: Path) -> None:
    (copied / "results.json").unlink()
    facts = {"method": "lora", "elastic": True, "r": 4, "adapter_bytes": 250_000}
    facts |= {"before": {"miou": 0.5}, "after": {"miou": 0.625}}
    (copied / "adapt.json").write_text(json.dumps(facts))
    assert page_facts(copied).headline == (
        "An adapter of 0.25 MB, Elastic LoRA of rank 4: mIoU 0.625 (without it 0.500)."
    )


def test_a_folder_is_no_file_to_write(copied: Path, capsys: pytest.CaptureFixture) -> None:
    folder = copied.parent / "pages"
    folder.mkdir()
    assert main(["report", str(copied), "--output", str(folder)]) == 2
    assert "is a folder; give the file to write" in capsys.readouterr().err
    assert sorted(path.name for path in copied.parent.iterdir()) == ["pages", "tiny"]
    assert not list(folder.iterdir())


@pytest.mark.parametrize("name", ["run.json", "results.json"])
def test_a_broken_file_is_named(copied: Path, capsys: pytest.CaptureFixture, name: str) -> None:
    (copied / name).write_text('{"recipe": ')
    assert main(["report", str(copied)]) == 2
    assert f"{copied / name} is not JSON" in capsys.readouterr().err


def test_the_report_knows_its_own_cost(supersam_run: Path, ofb_run: Path) -> None:
    for folder in (supersam_run, ofb_run):
        costs = json.loads((folder / "results.json").read_text())["costs"]
        assert costs["report"]["seconds"] > 0
        assert list(costs)[-2:] == ["report", "total"]
