"""Every request of a push fails in every way: it ends complete or with nothing half published, and can be repeated."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hub_server import Fault, HubServer
from huggingface_hub import CommitOperationAdd, HfApi, constants

from supersam_hf import Subnet, SuperSamModel
from supersam_hf.hub import PushError, export, push


REPO = "loopback/sam"
ACTIONS = ["drop", "drop_after", "truncate", "truncate_answer", "500", "429", "401"]
README = b"---\nlicense: mit\n---\nMine.\n"
OLD = {"README.md": README, "pareto.json": b"{}", "model-00001-of-00002.safetensors": b"old", "mine.txt": b"mine"}


@pytest.fixture(scope="module")
def folder(stock_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two large files and some small ones."""
    root = tmp_path_factory.mktemp("exported")
    (root / "drawn.png").write_bytes(b"a figure")
    model = SuperSamModel.from_pretrained(stock_folder).extract(Subnet((0, 1), (96, 48), (16, 16)))
    return export(model, root / "sam", repo_id=REPO, search={"seed": 0}, figures={"drawn.png": root / "drawn.png"})


def fresh() -> None:
    """A repository that is not there yet."""


def existing() -> None:
    """One with an older push, words and a file of its owner."""
    HfApi().create_repo(REPO)
    operations = [CommitOperationAdd(name, data) for name, data in OLD.items()]
    HfApi().create_commit(REPO, operations, commit_message="Earlier")


SCENARIOS: dict[str, tuple[Callable[[], None], dict]] = {
    "new": (fresh, {}),
    "existing": (existing, {}),
    "branch": (existing, {"revision": "v1"}),
    "pull request": (existing, {"create_pr": True}),
    "in parts": (fresh, {}),
}
State = dict[str, bytes]


class Trial:
    """Pushes of one kind, each to an empty Hub, from a computer that has cached nothing."""

    def __init__(self, scenario: str, folder: Path, hub: HubServer) -> None:
        self.before, self.options = SCENARIOS[scenario]
        self.folder, self.hub = folder, hub
        if scenario == "in parts":  # large files, in this Hub's eyes
            hub.part_bytes = 200_000
        self.pull_request = self.options.get("create_pr", False)

    def start(self) -> dict[str, list[State]]:
        self.hub.repos.clear()
        self.hub.faults.clear()
        shutil.rmtree(constants.HF_HUB_CACHE, ignore_errors=True)
        self.before()
        self.hub.requests.clear()
        return self.states()

    def push(self) -> PushError | None:
        try:
            push(self.folder, REPO, **self.options)
        except PushError as error:
            return error
        return None

    def states(self) -> dict[str, list[State]]:
        """The files of all commits, the newest first, by branch and pull request."""
        repo = self.hub.repos.get(("models", REPO))
        refs = [] if repo is None else [*repo.branches, *repo.pulls]
        return {ref: [{n: f.data for n, f in c.files.items()} for c in repo.history(ref)] for ref in refs}

    def newest(self, states: dict[str, list[State]]) -> State:
        """Where the push was to go."""
        ref = max((ref for ref in states if ref.startswith("refs/pr/")), default="") if self.pull_request else None
        return states[ref or self.options.get("revision", "main")][0]


def requests_of(trial: Trial) -> tuple[list[tuple[str, str, int]], State]:
    """Every request of a push without faults, with how many alike came before; and what it leaves."""
    trial.start()
    assert trial.push() is None
    seen = list(trial.hub.requests)
    return [(*seen[i], seen[:i].count(seen[i])) for i in range(len(seen))], trial.newest(trial.states())


def assert_nothing_half(states: dict[str, list[State]], start: dict[str, list[State]], whole: State) -> None:
    """Beside what was there before, every commit of every branch is the whole push."""
    known = [whole, *(state for history in start.values() for state in history)]
    for history in states.values():
        for state in history:
            assert state in known or set(state) == {".gitattributes"}  # a new repository


def complete(trial: Trial, fault: Fault, whole: State) -> bool:
    """Whether a push comes to its end under the fault; checks what it leaves, and that the next push completes it."""
    start = trial.start()
    trial.hub.faults.append(fault)
    error = trial.push()
    assert fault.used
    assert_nothing_half(trial.states(), start, whole)
    if error is None:
        assert trial.newest(trial.states()) == whole
    else:
        assert REPO in str(error)
        assert ("run again" in str(error)) == (fault.action != "401")
        assert error.__cause__ is not None
    trial.hub.faults.clear()
    assert trial.push() is None
    states = trial.states()
    assert_nothing_half(states, start, whole)
    assert trial.newest(states) == whole
    if not trial.pull_request:  # and once only
        commits = states[trial.options.get("revision", "main")]
        assert len(commits) == 1 + len(start.get("main", [{}]))
    return error is None


@pytest.mark.parametrize(
    ("scenario", "times"), [*((name, 1) for name in SCENARIOS), ("new", None), ("existing", None)]
)
def test_a_push_is_whole_or_not_there(scenario: str, times: int | None, folder: Path, hub: HubServer) -> None:
    trial = Trial(scenario, folder, hub)
    requests, whole = requests_of(trial)
    assert any("/commit/" in path for _, path, _ in requests)
    done = [
        complete(trial, Fault(method, f"^{re.escape(path)}$", action, times, after), whole)
        for method, path, after in requests
        for action in ACTIONS
    ]
    told = "once" if times else "from then on"
    print(f"{scenario}, {told}: {len(requests)} requests, {len(done)} cases, {sum(done)} complete")
