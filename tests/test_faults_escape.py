"""Names that others chose, in all that is written about a run: read as they are, nothing comes from them."""

import ast
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import datasets
import numpy as np
import pytest
from markdown_reader import Rendered, rendered
from transformers import AutoImageProcessor

from supersam_hf import OfbViTForImageClassification, SuperSamModel
from supersam_hf.data.dataset_card import dataset_card, renamed
from supersam_hf.escape import code, one_line, prose, python, shell, table_row
from supersam_hf.hub import export, tables
from supersam_hf.hub.card import model_card
from supersam_hf.hub.facts import CardFacts, Kind, Layer, Limit, Row, Source, StageCost
from supersam_hf.hub.readme import addressed, plain_readme, signed
from supersam_hf.pipeline.cards import supersam
from supersam_hf.pipeline.cards.records import RunRecords
from supersam_hf.pipeline.page import write_page
from supersam_hf.plots.segmentation import plot_segmentation


EVIL = "https://evil.example"
NAMES = {
    "table": "a|b || c |",
    "link": f"[click]({EVIL})",
    "autolink": f"{EVIL} www.evil.example a@evil.example",
    "picture": f"![x]({EVIL}/x.png)",
    "html": f'<img src="{EVIL}" onerror=alert(1)><script>alert(1)</script><!-- x',
    "entity": "&lt;b&gt; &#60;",
    "code": "`code` ``more``` `",
    "emphasis": "*a* **b** __c__ _d_ ~~e~~ $f$",
    "lines": "a\n\n# Headline\n\n---\nlicense: evil\n---\n```\n| x |\n\r\nend",
    "yaml": "a: b\nlicense: evil # {[&*!|>'\"%@`",
    "quotes": "\"'); import os; os.system('id'); (\"' $(id) `id` ; rm -rf / \\",
    "signs": "\x00\x1b[31m\u202eabc\u2028\x85\udcff",
    "backslash": "\\| \\\\| \\` \\[x](y)",
    "plain": "snake_case name, 6,058,000",
}
EVERYTHING = " ".join(NAMES.values())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("escaped", [prose, code])
def test_a_name_is_read_as_it_is(escaped: Any, name: str) -> None:
    text, wanted = escaped(NAMES[name]), one_line(NAMES[name])
    found = rendered(f"# {text}\n\nA {text} b.\n\n{table_row(['1', '2'])}\n|---|---|\n{table_row([text, text])}\n")
    assert found.headings == [wanted]
    assert f"A {wanted} b." in found.text
    assert found.links == []
    assert found.html == []
    assert found.tables == [[2, 2]]
    assert EVIL not in found.bare
    if name != "backslash":  # what a table needs before a `|` in code is seen in code
        assert found.text.endswith(f"\n{wanted}\n{wanted}\n")


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_one_word_of_code(name: str) -> None:
    assert ast.literal_eval(python(NAMES[name])) == NAMES[name]
    assert "\n" not in python(NAMES[name])
    assert shlex.split(shell(NAMES[name])) == [one_line(NAMES[name])]


def test_plain_names_stay_as_they_are() -> None:
    """Who reads the file itself sees no escapes where none is needed."""
    for name in ("sam-vit-base", "my_cells 2", "AMD EPYC 7763 (64 cores), 2.4 GHz", "a.b/c_d"):
        assert prose(name) == name
        assert code(name) == f"`{name}`"
        assert python(name) == f'"{name}"'


def hostile_facts(kind: Kind, text: str) -> CardFacts:
    name, timed = Source(text), {"latency": {"median_ms": 1, "p10_ms": 1, "p90_ms": 1, "repeats": 1}}
    timed |= {"ratio": 1.0, "batch_size": 1}
    extra = {"prompt": "box", "size": 2, "classes": [(text, 0.5), ("b", None)], "tags": [text]}
    return CardFacts(
        kind=kind,
        repo="org/x",
        revision=text,
        title=text,
        origin="the network that was found",
        base=name,
        data=name,
        data_lines=[f"Trained on {name.link()}."],
        rows=[Row("original", 2, 2, {"mIoU": 0.5}, timed), Row("this model", 1, 1, {"mIoU": 0.5}, timed, this=True)],
        budget=[Limit("parameters", 1, 1, 1)],
        layers=[Layer(0, {"MLP": 8}, {"MLP": 4}, 0.4)],
        costs=[StageCost("train", 1.0, energy_kwh=1.0, emissions_kg=1.0, method=text, country=text)],
        hardware={"device": text, "threads": 1, "torch": text, "cores": 1},
        versions={"torch": text},
        eval_split=text,
        extra=extra,
    )


def assert_unharmed(found: Rendered, plain: Rendered) -> None:
    """Nothing but the words differs from the card of harmless names."""
    assert set(found.front) == set(plain.front)
    assert found.links == plain.links
    assert found.html == plain.html == []
    assert found.tables == plain.tables
    assert len(found.headings) == len(plain.headings)
    assert found.code.keys() == plain.code.keys()
    assert EVIL not in found.bare


def strings(blocks: list[str]) -> set[str]:
    """Every string in Python code."""
    nodes = [node for block in blocks for node in ast.walk(ast.parse(block))]
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def calls(blocks: list[str]) -> set[str]:
    nodes = [node for block in blocks for node in ast.walk(ast.parse(block))]
    return {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}


@pytest.mark.parametrize("name", [*NAMES, "everything"])
@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_card_says_names_and_nothing_comes_from_them(kind: Kind, name: str) -> None:
    text = NAMES.get(name, EVERYTHING)
    found, plain = (rendered(model_card(hostile_facts(kind, each))) for each in (text, "plain"))
    assert_unharmed(found, plain)
    assert found.headings[0] == one_line(text)
    assert one_line(text) in found.text
    assert text in strings(found.code["python"])
    assert calls(found.code["python"]) == calls(plain.code["python"])
    assert text in found.front["tags"]


@pytest.mark.parametrize("name", NAMES)
def test_a_plain_card_loads_a_revision_of_any_name(name: str, stock_folder: Path) -> None:
    model = SuperSamModel.from_pretrained(stock_folder)
    for card in (
        plain_readme(model, "org/x", NAMES[name]),
        addressed(signed(plain_readme(model)), "org/x", NAMES[name]),
    ):
        assert NAMES[name] in strings(rendered(card).code["python"])
        assert calls(rendered(card).code["python"]) == calls(rendered(plain_readme(model)).code["python"])


def test_only_code_of_a_card_is_readdressed() -> None:
    card = signed('# A\n\nThe class `("."`.\n\n```python\nmodel = Auto.from_pretrained(".")\n```\n')
    assert 'The class `("."`.' in addressed(card, "org/x")
    assert 'from_pretrained("org/x")' in addressed(card, "org/x")


def datasets_of(text: str) -> Iterator[tuple[str, datasets.DatasetDict]]:
    labels = datasets.Features({"label": datasets.ClassLabel(names=[text, "b"])})
    rows = datasets.Dataset.from_dict({"label": [0, 1]}, features=labels)
    yield "classification", datasets.DatasetDict({"train": rows, "test": rows})
    objects = datasets.Dataset.from_dict({"objects": [{"area": [1, 2]}]})
    yield "segmentation", datasets.DatasetDict({"train": objects})


@pytest.mark.parametrize("name", [name for name in NAMES if name != "signs"])
def test_a_dataset_card_says_names_and_nothing_comes_from_them(name: str) -> None:
    text = NAMES[name]
    for (task, found_rows), (_, plain_rows) in zip(datasets_of(text), datasets_of("plain")):
        cards = []
        for each, rows in ((text, found_rows), ("plain", plain_rows)):
            known: dict[str, Any] = {"sizes": dict.fromkeys(rows, 1), "files_size": 1, "recipe": "0", "made": "Made."}
            cards.append(dataset_card(rows, task, name=each, license_id=each, **known))  # type: ignore[arg-type]
            cards.append(renamed(cards[-1], each + each))
        for card, plain, called in zip(cards[:2], cards[2:], (text, text + text)):
            found = rendered(card)
            assert_unharmed(found, rendered(plain))
            assert found.front["license"] == text
            assert called in strings(found.code["python"])
            commands = shlex.split("\n".join(found.code["bash"]))
            assert one_line(called) in commands
            assert len(commands) == len(shlex.split("\n".join(rendered(plain).code["bash"])))


def leaves(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value; of a list, to those of its first entry."""
    if isinstance(data, dict) and data:
        for key, value in data.items():
            yield from leaves(value, (*path, key))
    elif isinstance(data, list) and data:
        yield from leaves(data[0], (*path, 0))
    else:
        yield path


def with_value(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    copy = json.loads(json.dumps(data))
    place = copy
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return copy


SAID = {
    "results.json": (("recipe", "data"), ("hardware",), ("versions",), ("data",)),
    "stages/train.json": (("values", "data"), ("values", "train")),
    "search.json": (("counts",), ("engine",), ("goal",), ("seed",), ("context",)),
    "start.json": ((),),
}


def test_whatever_a_runs_files_say_nothing_comes_from_it(supersam_run: Path, tmp_path: Path) -> None:
    """A file of a run that came from elsewhere: each value in turn is a text that would be more than a text."""
    run = shutil.copytree(supersam_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint-*", "*.png"))
    model, text, shown = SuperSamModel.from_pretrained(run / "supernet"), f"zz|q [x]({EVIL}) <b> `\n\n# H", 0

    def card() -> str:
        return model_card(supersam.supernet_facts(RunRecords(run), model, repo="org/x", revision="v1"))

    plain = rendered(card())
    for file, sections in SAID.items():
        original = (run / file).read_text()
        data = json.loads(original)
        for path in (path for path in leaves(data) if any(path[: len(section)] == section for section in sections)):
            (run / file).write_text(json.dumps(with_value(data, path, text)))
            try:
                made = card()
            except (ValueError, TypeError, KeyError):  # it is no text that is wanted there
                continue
            found = rendered(made)
            assert_unharmed(found, plain)
            shown += "zz" in found.text
        (run / file).write_text(original)
    assert shown > 5


class Page(HTMLParser):
    """How often each tag is opened, and all attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data: str) -> None:
        self.words += data


def test_a_page_says_names_and_nothing_comes_from_them(supersam_run: Path, tmp_path: Path) -> None:
    text = EVERYTHING.replace("/", "").replace("\x00", "").replace("\n", " ").encode("utf-8", "replace").decode()
    run = shutil.copytree(supersam_run, tmp_path / text[:200], ignore=shutil.ignore_patterns("checkpoint-*"))
    plain = Page(write_page(run, tmp_path / "plain.html").read_text(encoding="utf-8"))
    record = json.loads((run / "run.json").read_text())
    record["hardware"]["device"] = record["sittings"][-1]["command"] = EVERYTHING
    record["recipe"]["data"]["source"] = record["versions"]["torch"] = EVERYTHING
    (run / "run.json").write_text(json.dumps(record))
    found = Page(write_page(run, tmp_path / "page.html").read_text(encoding="utf-8"))
    assert found.tags == plain.tags
    assert found.attributes == plain.attributes
    assert found.words.count(NAMES["html"]) >= 3
    assert "\x1b" not in found.words


@pytest.mark.parametrize("name", ["$\\frac{$", "_hidden", "a\nb", "$$", "\\"])
def test_a_class_of_any_name_is_drawn(name: str, tmp_path: Path) -> None:
    labels = np.zeros((8, 8), dtype=int)
    sample = {"image": np.zeros((8, 8, 3), np.uint8), "labels": labels, "predicted": labels}
    plot_segmentation([sample], [name, "b"], tmp_path / "figure.png")
    assert (tmp_path / "figure.png").is_file()


def test_results_tables_keep_their_columns() -> None:
    found = rendered(tables.classes([(text, 0.5) for text in NAMES.values()]))
    assert found.tables == [[2] * (1 + len(NAMES))]


def test_an_export_of_hostile_classes_has_a_harmless_card(classifier_folders: dict[str, Path], tmp_path: Path) -> None:
    model = OfbViTForImageClassification.from_pretrained(classifier_folders["vit"])
    model.config.id2label = {i: EVERYTHING + str(i) for i in range(model.config.num_labels)}
    processor = AutoImageProcessor.from_pretrained(classifier_folders["vit"])
    card = (export(model, tmp_path / "model", processor=processor) / "README.md").read_text(encoding="utf-8")
    assert not re.search("evil", card)
