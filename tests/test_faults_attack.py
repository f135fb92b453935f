"""The quick ways in of `benchmarks/attack.py`, within this process; the script tries all of them, with bounds."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest


sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from attack import attempt, table
from attack_place import GotIn, Place
from attack_ways import QUICK, WAYS


if TYPE_CHECKING:
    from hub_server import HubServer


@pytest.mark.parametrize("name", QUICK)
def test_it_does_not_get_in(name: str, hub: "HubServer", tmp_path: Path) -> None:
    found = attempt(name, WAYS[name], tmp_path / name, in_process=True, hub=hub)
    assert found.ok == "yes", found.outcome
    assert "traceback" not in found.outcome


def executes(place: Place) -> None:
    """runs code"""
    place.arm()
    place.canary.touch()


def changes(place: Place) -> None:
    """changes a file"""
    place.arm()
    (place.outside / "thesis" / "chapter.txt").unlink()


def leaks(place: Place) -> None:
    """copies a file"""
    place.arm()
    (place.work / "copy.png").write_bytes(place.secret.read_bytes())


def tells(place: Place) -> None:
    """sees something"""
    raise GotIn("a script is in the page")


def breaks(place: Place) -> None:
    """breaks"""
    raise KeyError("a")


@pytest.mark.parametrize(
    ("way", "ok", "outcome"),
    [
        (executes, "NO", "GOT IN: code was run"),
        (changes, "NO", "GOT IN: changed or deleted: outside/thesis/chapter.txt"),
        (leaks, "NO", "GOT IN: read into copy.png"),
        (tells, "NO", "GOT IN: a script is in the page"),
        (breaks, "?", "the script failed: KeyError: 'a'"),
    ],
)
def test_what_got_in_is_seen(way: object, ok: str, outcome: str, tmp_path: Path) -> None:
    found = attempt("way", way, tmp_path)
    assert (found.ok, found.outcome) == (ok, outcome)
    assert f"| {ok} |" in table([found])
