"""Work on several processes: the same results as on one, errors on all of them, a search that comes back."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import fresh
import pytest
from test_search import ENGINES, make

from supersam_hf.search import run_search


SCRIPT = Path(__file__).parent / "spread_script.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--master_port", "0", "--rdzv_backend", "c10d"]
TORCHRUN += ["--rdzv_endpoint", "localhost:0"]
TRIALS = 21


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """The folder of a launch, and what each of its processes saw."""
    folder = tmp_path_factory.mktemp(f"processes_{request.param}")
    fresh.launch(request.param, SCRIPT, folder, env=ENVIRONMENT, check=True)
    return folder, [json.loads((folder / f"seen-{rank}.json").read_text()) for rank in range(request.param)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The logs and results of the same searches in this process."""
    folder = tmp_path_factory.mktemp("alone")
    for name in ENGINES:
        result = run_search(*make(engine=name, trials=TRIALS), folder / f"{name}.jsonl", progress=False)
        result.save(folder / f"{name}.result")
    return folder


def test_each_item_is_done_once_and_all_processes_know_all_results(together: tuple[Path, list[Any]]) -> None:
    _, seen = together
    for rank, one in enumerate(seen):
        assert one["spread"] == [item**2 for item in range(7)]
        assert one["ran"] == list(range(rank, 7, len(seen)))
        assert one["empty"] == []
        assert one["main"] == 0


def test_items_that_are_done_together_come_back_in_order(together: tuple[Path, list[Any]]) -> None:
    """Two a process and round."""
    _, seen = together
    world = len(seen)
    rounds = [range(start, min(start + 2 * world, 11)) for start in range(0, 11, 2 * world)]
    expected = [[[item, *one[(item - one[0]) % world :: world]] for item in one] for one in rounds]
    assert all(one["groups"] == expected for one in seen)


def test_what_one_process_raises_is_raised_on_all(together: tuple[Path, list[Any]]) -> None:
    """Of several failing items the first; an exception that cannot be made again elsewhere as its text."""
    _, seen = together
    assert {one["error"] for one in seen} == {"ValueError: bad item 4"}
    assert {one["main_error"] for one in seen} == {"OSError: bad item 0"}
    assert {one["unportable"] for one in seen} == {"RuntimeError: Unportable: bad item 4"}


def test_processes_that_disagree_are_told(together: tuple[Path, list[Any]]) -> None:
    _, seen = together
    last = len(seen) - 1
    for one in seen:
        assert one["agree"] == "nothing"
        assert f"disagree about the numbers: [{last}] of {len(seen)}" in one["disagree"]
        assert "disagree about the subnets" in one["other_seeds"]


def test_an_output_folder_that_is_not_shared_is_refused(together: tuple[Path, list[Any]]) -> None:
    folder, seen = together
    for one in seen:
        assert f"of processes [{len(seen) - 1}] is another folder" in one["elsewhere"]
    assert not list(folder.glob(".shared-*"))


def test_a_journal_is_written_once_and_known_to_all(together: tuple[Path, list[Any]]) -> None:
    folder, seen = together
    expected = {"a": 0, "b": 4, "c": 9, "d": 9, "e": 16, "f": 25, "g": 36}
    assert all(one["journal"] == expected for one in seen)
    assert all("another `seed`" in one["other_context"] for one in seen)
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    assert [line["key"] for line in lines[1:]] == list("bcadefg")


@pytest.mark.parametrize("name", ENGINES)
def test_a_search_is_the_same_on_any_number_of_processes(
    name: str, together: tuple[Path, list[Any]], alone: Path
) -> None:
    folder, seen = together
    assert (folder / f"{name}.jsonl").read_bytes() == (alone / f"{name}.jsonl").read_bytes()
    for rank in range(len(seen)):
        assert (folder / f"{name}-{rank}.result").read_bytes() == (alone / f"{name}.result").read_bytes()
    ran = [subnet for one in seen for subnet in one["trials"][name]]
    assert len(ran) == len(set(ran)) == TRIALS
    assert all(one["trials"][name] for one in seen)


def test_latency_is_measured_on_the_main_process_alone(together: tuple[Path, list[Any]]) -> None:
    folder, seen = together
    asks = [json.loads(line) for line in (folder / "random-timed.jsonl").read_text().splitlines()][1:]
    slow = [ask for ask in asks if ask["exceeded"] == "max_latency_ms"]
    timed = [ask for ask in asks if ask["latency_ms"] is not None and not ask["cached"]]
    assert 0 < len(slow) < len(timed)
    # and the smallest once before
    assert seen[0]["measured"] == [0] * (len(timed) + 1)
    assert all(one["measured"] == [] for one in seen[1:])


@pytest.mark.slow
def test_a_search_whose_process_is_killed_comes_back_by_itself(tmp_path: Path, alone: Path) -> None:
    """SIGKILL of the last process in the middle of a batch; torchrun starts both anew."""
    command = [*TORCHRUN, "--nproc_per_node", "2", "--max_restarts", "1", str(SCRIPT), str(tmp_path), "3"]
    subprocess.run(command, check=True, capture_output=True, env=ENVIRONMENT)
    for name in ENGINES:
        assert (tmp_path / f"{name}.jsonl").read_bytes() == (alone / f"{name}.jsonl").read_bytes()


STOP = Path(__file__).parent / "stop_script.py"


def stopped(how: str, launches: int) -> list[str]:
    """How both processes of each launch exit."""
    return fresh.run(STOP, how, launches, env=ENVIRONMENT, check=True).stdout.splitlines()


@pytest.mark.parametrize("how", ["within", "between"])
def test_one_process_that_is_asked_to_stop_stops_all(how: str) -> None:
    """Each exits with the code of the signal, wherever it came."""
    assert stopped(how, 1) == ["143 143"]


@pytest.mark.slow
def test_processes_that_are_asked_to_stop_at_any_time_stop_together() -> None:
    assert stopped("any", 20) == ["143 143"] * 20
