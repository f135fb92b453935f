"""A search whose candidates nearly all miss the budget tries what is near it, and says what became of them."""

import itertools
import logging
from pathlib import Path

import pytest
from test_search import ENGINES, SPACE, TINY, cost, make, quality

from supersam_hf.models.supersam.elastic_supersam import ElasticSpace, Subnet
from supersam_hf.search import Budget, Objective, SearchArguments, SearchResult, feasible_subnets, run_search
from supersam_hf.search.near_budget import PATIENCE


LEAST = cost(SPACE.smallest())


def searched(path: Path, engine: str, max_params: float, trials: int = 6, **settings: object) -> SearchResult:
    objective, arguments = make(engine=engine, max_params=max_params, trials=trials, **settings)
    return run_search(objective, arguments, path, progress=False)


def every_subnet(space: ElasticSpace) -> list[Subnet]:
    """All points that `sample` can draw, by the product of the choices of each layer."""
    choices = []
    for layer in range(space.num_hidden_layers):
        widths = list(itertools.product(space.mlp_windows, space.head_windows))
        if layer in space.protected_layers:
            widths = [(space.mlp_dim, space.head_dim)]
        choices.append([*widths, None] if layer in space.prunable_layers else widths)
    points = []
    for chosen in itertools.product(*choices):
        kept = [i for i, widths in enumerate(chosen) if widths is not None]
        points.append(Subnet(tuple(kept), *(tuple(chosen[i][part] for i in kept) for part in (0, 1))))
    return points


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("more", [0.02, 0.15])
def test_every_engine_gets_its_trials_under_a_tight_budget(engine: str, more: float, tmp_path: Path) -> None:
    limit = LEAST * (1 + more)
    result = searched(tmp_path / "log.jsonl", engine, limit)
    assert (len(result.trials), result.stopped) == (6, "trials")
    assert len({trial.subnet for trial in result.trials}) == 6
    assert all(trial.params <= limit for trial in result.trials)
    for trial in result.trials:
        SPACE.validate(trial.subnet)
    assert len(result.asks) <= 6 + PATIENCE
    assert result.best.params > LEAST


def test_what_is_tried_lies_near_the_budget(tmp_path: Path) -> None:
    limit = LEAST * 1.3
    result = searched(tmp_path / "log.jsonl", "random", limit, trials=20)
    # the smallest comes first; no step is larger than a layer put back
    near = [trial for trial in result.trials[1:] if trial.params > limit - 192 - 256]
    assert len(near) > 15


@pytest.mark.parametrize("engine", ENGINES)
def test_where_fewer_subnets_keep_the_budget_all_of_them_are_tried(
    engine: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # windows of 192 everywhere, or of 252 in one or two of the six elastic layers that cannot leave
    limit, keep = LEAST + 2 * 60, 1 + 6 + 6 * 5 // 2
    with caplog.at_level(logging.WARNING, logger="supersam_hf"):
        result = searched(tmp_path / "log.jsonl", engine, limit, trials=40)
    assert len(result.trials) == len({trial.subnet for trial in result.trials}) == keep
    assert result.stopped == "exhausted"
    assert f"Only {keep} of the {SPACE.size:,} subnets of this space keep the budget, and 40 trials" in caplog.text
    assert "subnets near the budget are tried in their place" in caplog.text


def test_where_only_the_smallest_keeps_the_budget_it_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="supersam_hf"):
        result = searched(tmp_path / "log.jsonl", "random", LEAST)
    assert [trial.subnet for trial in result.trials] == [SPACE.smallest()]
    assert "Only 1 of the" in caplog.text
    assert result.rejected == {"max_params": PATIENCE - 1}
    assert result.summary() == (
        "20 candidates: 1 run on images (1 of them within the budget), 19 rejected by `max_params`; ended early: no "
        "other subnet of this space keeps the budget"
    )


def test_an_easy_budget_is_searched_as_ever_and_without_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="supersam_hf"):
        result = searched(tmp_path / "log.jsonl", "evolution", 0.6, trials=20)
    assert caplog.text == ""
    run = "20 run on images (20 of them within the budget)"
    assert result.summary().startswith(f"{len(result.asks)} candidates: {run}")
    assert "ended" not in result.summary()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_tight_search_cut_off_anywhere_resumes_to_the_same_log(engine: str, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    searched(log, engine, LEAST * 1.1)
    whole = log.read_bytes()
    lines = whole.splitlines(keepends=True)
    for count in (1, PATIENCE - 1, PATIENCE + 2, len(lines) - 1):
        log.write_bytes(b"".join(lines[:count]))
        searched(log, engine, LEAST * 1.1)
        assert log.read_bytes() == whole


@pytest.mark.parametrize("engine", ENGINES)
def test_more_trials_prolong_a_tight_search(engine: str, tmp_path: Path) -> None:
    straight = searched(tmp_path / "straight.jsonl", engine, LEAST * 1.1, trials=12)
    for trials in (4, 8, 12):
        parts = searched(tmp_path / "parts.jsonl", engine, LEAST * 1.1, trials=trials)
    assert parts.asks == straight.asks


def test_limits_on_both_costs_and_subnets_that_are_too_slow(tmp_path: Path) -> None:
    arguments = SearchArguments(engine="random", trials=6, max_params=LEAST * 1.2, max_macs=0.9, max_latency_ms=10.0)
    objective = Objective(
        SPACE,
        arguments.budget,
        cost,
        lambda subnet: 2 * cost(subnet),
        quality=lambda subnet: 0.5,
        latency_ms=lambda subnet: 20.0 if 252 in subnet.mlp_dim else 5.0,
    )
    result = run_search(objective, arguments, tmp_path / "log.jsonl", progress=False)
    assert result.stopped == "trials"
    assert all(252 not in trial.subnet.mlp_dim for trial in result.trials)
    assert "rejected by `max_latency_ms`" in result.summary()
    assert "rejected by `max_params`" in result.summary()


@pytest.mark.parametrize("limit", [None, 130, 150, 180, 200, 232])
def test_the_subnets_within_the_limits_are_all_found(limit: int | None) -> None:
    def thousandfold(subnet: Subnet) -> int:
        return 1000 * cost(subnet)

    budget = Budget(max_params=None if limit is None else 1000 * limit)
    objective = Objective(TINY, budget, thousandfold, thousandfold, quality)
    expected = [subnet for subnet in every_subnet(TINY) if limit is None or cost(subnet) <= limit]
    found = list(feasible_subnets(objective))
    assert found[0] == TINY.smallest()
    assert len(found) == len(set(found)) == len(expected)
    assert set(found) == set(expected)
