"""What several processes do together, in processes of its own; each writes down what it saw.

usage: spread_script.py OUTPUT_DIR [KILL_AT_TRIAL]
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from supersam_hf.models.supersam.elastic_supersam import Subnet
from supersam_hf.pipeline.folder import check_shared
from supersam_hf.pipeline.journal import Journal
from supersam_hf.processes import join_processes
from supersam_hf.search import Objective, SearchArguments, run_search
from supersam_hf.spread import check_agreement, on_main, spread, spread_groups


sys.path.insert(0, str(Path(__file__).parent))
from test_search import ENGINES, SPACE, cost, quality


class Unportable(Exception):
    """Can be pickled, but not made again."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what} {why}")


def raised(function: Callable[[], Any]) -> str:
    try:
        function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def fails_from(first: int, kind: type[Exception]) -> Callable[[int], int]:
    def function(item: int) -> int:
        if item < first:
            return item
        raise kind("bad item", str(item)) if kind is Unportable else kind(f"bad item {item}")

    return function


def latency(subnet: Subnet) -> float:
    measured.append(state.process_index)
    return float(len(subnet.layers))


def searched(folder: Path, name: str, kill_at: int = 0, **options: Any) -> list[str]:
    """One search; returns the subnets that this process ran."""
    ran: list[str] = []

    def run(subnet: Subnet) -> float:
        ran.append(subnet.to_json())
        if kill_at and state.process_index == state.num_processes - 1 and len(ran) == kill_at:
            os.kill(os.getpid(), 9)
        return quality(subnet)

    arguments = SearchArguments(**{"engine": name, "trials": 21, "max_params": 0.6, **options})
    objective = Objective(SPACE, arguments.budget, cost, cost, run, latency)
    log = folder / f"{name}{'-timed' if 'max_latency_ms' in options else ''}.jsonl"
    result = run_search(objective, arguments, log, progress=False, state=state)
    result.save(folder / f"{log.stem}-{state.process_index}.result")
    return ran


def journalled(folder: Path) -> dict[str, int]:
    journal = Journal(folder / "journal.jsonl", {"seed": 1}, state)
    journal.get_all({"b": 2, "c": 3}, lambda item: item**2)
    return journal.get_all({key: ord(key) - ord("a") for key in "abcdefg"}, lambda item: item**2)


def elsewhere(folder: Path) -> None:
    """The last process looks at another folder."""
    last = state.process_index == state.num_processes - 1
    check_shared(state, folder / "other" if last else folder)


def main(folder: Path) -> None:
    ran: list[int] = []
    seen: dict[str, Any] = {
        "spread": spread(state, range(7), lambda item: ran.append(item) or item**2),
        "ran": ran,
        "empty": spread(state, [], lambda item: item),
        "main": on_main(state, lambda: state.process_index),
        "error": raised(lambda: spread(state, range(9), fails_from(4, ValueError))),
        "unportable": raised(lambda: spread(state, range(9), fails_from(4, Unportable))),
        "main_error": raised(lambda: on_main(state, lambda: fails_from(0, OSError)(state.process_index))),
        "agree": raised(lambda: check_agreement(state, [1, 2], "the numbers")),
        "disagree": raised(
            lambda: check_agreement(state, state.process_index == state.num_processes - 1, "the numbers")
        ),
        "groups": list(spread_groups(state, range(11), lambda some: [[item, *some] for item in some], 2)),
        "journal": journalled(folder),
        "other_context": raised(lambda: Journal(folder / "journal.jsonl", {"seed": 2}, state)),
        "other_seeds": raised(lambda: searched(folder / "seeds", "random", seed=state.process_index)),
        "elsewhere": raised(lambda: elsewhere(folder)),
        "trials": {name: searched(folder, name) for name in ENGINES},
    }
    searched(folder, "random", max_latency_ms=9.5)
    seen["measured"] = measured
    (folder / f"seen-{state.process_index}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    output = Path(sys.argv[1])
    measured: list[int] = []
    state = join_processes()
    on_main(state, lambda: output.mkdir(parents=True, exist_ok=True))
    if len(sys.argv) > 2:
        first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        for engine in ENGINES:
            searched(output, engine, kill_at=int(sys.argv[2]) if first and engine == ENGINES[-1] else 0)
    else:
        main(output)
