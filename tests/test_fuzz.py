"""A slice of the fuzzer's cases, of kinds that take milliseconds: nothing crashes, hangs, or is silently wrong."""

import logging
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def logger_as_it_was() -> Iterator[None]:
    """The fuzzer listens to what is left out."""
    logger = logging.getLogger("supersam_hf")
    level, handlers = logger.level, list(logger.handlers)
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers


@pytest.mark.parametrize(("kind", "cases"), [("configs", 400), ("images", 40), ("annotations", 60)])
def test_changed_inputs_are_taken_rightly_or_refused_clearly(
    kind: str, cases: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    from fuzz import maker_of

    maker, faults = maker_of(kind, tmp_path), []
    for number in range(cases):
        case = maker.make(random.Random(f"0 {kind} {number}"), tmp_path)
        outcome = case.run()
        if outcome.verdict not in ("right", "clear error"):
            faults.append(f"{number}, {case.what}: {outcome.verdict}, {outcome.detail}")
    assert not faults
