"""Files of a run's folder that are damaged, or were changed by hand: named, whoever reads them."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from supersam_hf.files import file_aside, read_json, write_json
from supersam_hf.measure.cost import read_sittings
from supersam_hf.pipeline.costs import stage_costs
from supersam_hf_cli import main


SITTING = {"seconds": 1.0, "iterations": 2, "images": 3, "samples": 4, "energy_kwh": None, "emissions_kg": None}
SITTING |= {"kg_per_kwh": None, "country": None, "method": None, "hardware": None}


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": "\xde"}', b"\x00" * 8, b"[" * 10_000])
def test_what_is_no_json_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "some.json").write_bytes(content)
    with pytest.raises(ValueError, match="some.json is damaged"):
        read_json(tmp_path / "some.json")


def test_the_costs_of_a_stage_are_read(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(json.dumps({"sittings": [SITTING]}))
    assert read_sittings(tmp_path / "train.json") == [SITTING]


@pytest.mark.parametrize(
    "data",
    [
        *([], {}, {"sittings": False}, {"sittings": "2"}, {"sittings": [1]}),
        *({"sittings": [{**SITTING, name: value}]} for name in SITTING for value in ([1], {"a": 1}, True, -1)),
        *({"sittings": [{**SITTING, "images": value}]} for value in ("7", None, float("nan"), float("inf"))),
    ],
)
def test_costs_that_are_none_are_named(tmp_path: Path, data: Any) -> None:
    (tmp_path / "train.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match="train.json does not hold the costs of a stage"):
        read_sittings(tmp_path / "train.json")


def test_what_a_killed_write_leaves_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "costs").mkdir()
    write_json(tmp_path / "costs" / "train.json", {"sittings": [SITTING]})
    child = os.fork()
    if not child:
        with file_aside(tmp_path / "costs" / "train.json") as aside:
            aside.touch()
            os._exit(9)  # as by kill -9: nothing is tidied up
    os.waitpid(child, 0)
    assert len(list((tmp_path / "costs").iterdir())) == 2
    assert list(stage_costs(tmp_path)) == ["train"]


@pytest.mark.parametrize("name", ["costs/train.json", "stages/reorder.json", "results.json"])
def test_a_damaged_file_of_a_run_is_named_by_what_reads_it(
    supersam_run: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(supersam_run, tmp_path / "run")
    text = (run / name).read_text()
    (run / name).write_text(text[: len(text) // 2])
    assert main(["push", str(run), "me/model", "--dry_run"]) == 2
    assert f"{name} is damaged" in capsys.readouterr().err
