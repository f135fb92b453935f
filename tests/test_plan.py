"""The order of an epoch over unequal shards: nothing left out, nobody waiting, the same after an interruption."""

import itertools
import tracemalloc

import numpy as np
import pytest

from supersam_hf.data.batches import NeighbouringBatches
from supersam_hf.data.plan import Plan, StreamBatches


# 23 shards of 1 to 60 rows, one of them empty.
COUNTS = [1, 60, 7, 33, 2, 19, 44, 0, 5, 28, 13, 51, 3, 9, 60, 17, 22, 38, 4, 11, 26, 8, 41]
ROWS = sum(COUNTS)
BUFFER = 20


def batches(world: int = 2, workers: int = 2, size: int = 4, seed: int = 0, counts: list[int] = COUNTS) -> list:
    plan = Plan(counts, world * max(1, workers), size, BUFFER, seed)
    return [StreamBatches(plan, rank, world, "contents") for rank in range(world)]


def taken(one: StreamBatches, epoch: int, skip: int = 0) -> list[list[int]]:
    one.begin(epoch, skip)
    keys = list(one)
    assert {e for batch in keys for e, _ in batch} <= {epoch}
    return [[index for _, index in batch] for batch in keys]


@pytest.mark.parametrize(
    ("world", "workers", "size", "counts"),
    [
        (2, 2, 4, COUNTS),
        (1, 0, 7, COUNTS),
        (3, 4, 1, COUNTS),
        (5, 3, 64, COUNTS),
        (2, 2, 2, [1]),
        (4, 2, 3, [0, 2, 3]),
        (1, 1, 1, [1]),
    ],
)
def test_every_row_comes_at_least_once_and_as_many_repeats_as_said(
    world: int, workers: int, size: int, counts: list[int]
) -> None:
    processes = batches(world, workers, size, counts=counts)
    for epoch in (0, 1):
        parts = [taken(one, epoch) for one in processes]
        lengths = {len(part) for part in parts}
        assert lengths == {len(processes[0])}
        assert {len(batch) for part in parts for batch in part} == {size}
        rows = sum(sum(parts, []), [])
        assert set(rows) == set(range(sum(counts)))
        assert len(rows) - sum(counts) == processes[0].plan.repeats


@pytest.mark.parametrize(("world", "workers"), [(2, 2), (1, 3)])
def test_a_pass_from_any_batch_on_is_the_rest_of_the_whole_pass(world: int, workers: int) -> None:
    for one in batches(world, workers):
        whole = taken(one, 3)
        for skip in range(len(one) + 1):
            assert taken(one, 3, skip) == whole[skip:]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    one, again, other = batches()[0], batches()[0], batches(seed=1)[0]
    orders = [taken(one, epoch) for epoch in range(3)]
    assert orders == [taken(again, epoch) for epoch in range(3)]
    assert all(a != b for a, b in itertools.combinations([*orders, taken(other, 0)], 2))


def test_a_worker_reads_few_shards_a_block_at_a_time() -> None:
    """No shard is cut but at the border of two consumers, and rows come from blocks of 20 that lie together."""
    shard_of = np.repeat(np.arange(len(COUNTS)), COUNTS)
    visits = 0
    for one in batches():
        parts = taken(one, 0)
        for worker in range(2):
            rows = np.array(sum(parts[worker::2], []))
            visits += len(set(shard_of[rows]))
            own = rows[: len(dict.fromkeys(rows.tolist()))]  # without the repeats at its end
            shards = [shard_of[block] for block in np.array_split(own, np.arange(BUFFER, len(own), BUFFER))]
            # One after the other: a shard that was left behind does not come again.
            first = {shard: min(i for i, block in enumerate(shards) if shard in block) for shard in set(shard_of[own])}
            last = {shard: max(i for i, block in enumerate(shards) if shard in block) for shard in first}
            assert all(last[s] - first[s] <= COUNTS[s] // BUFFER + 1 for s in first)
    assert visits <= len(COUNTS) + 3


def test_rows_are_shuffled_within_blocks() -> None:
    """One shard alone: the n-th block of an epoch is a permutation of the n-th 20 rows, and not the identity."""
    rows = list(itertools.islice(Plan([100], 1, 4, BUFFER, 0).indices(0, 0), 100))
    for start in range(0, 100, BUFFER):
        block = rows[start : start + BUFFER]
        assert sorted(block) == list(range(start, start + BUFFER))
        assert block != sorted(block)
    assert list(itertools.islice(Plan([30], 1, 4, 1, 0).indices(0, 0), 30)) == list(range(30))


def test_eleven_million_rows_cost_no_memory() -> None:
    counts = [1000] * 11_000
    tracemalloc.start()
    (one,) = batches(world=1, workers=4, counts=counts)
    one.begin(2, len(one) - 3)
    last = [keys for keys in one]  # noqa: C416 (`list` would make room for all of them)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(last) == 3
    assert peak < 2 * 2**20


@pytest.mark.parametrize(
    ("items", "size", "workers", "world"), [(23, 4, 2, 2), (23, 4, 0, 3), (3, 4, 2, 2), (0, 1, 2, 2)]
)
def test_evaluation_takes_every_row_once_and_workers_read_neighbours(
    items: int, size: int, workers: int, world: int
) -> None:
    one = NeighbouringBatches(items, size, workers)
    rows, stretches = [], []
    for rank in range(world):
        one.share(rank, world)
        parts = [[index for _, index in batch] for batch in one]
        assert len(parts) == len(one)
        stretches += [sum(parts[worker :: max(1, workers)], []) for worker in range(max(1, workers))]
        rows += sum(parts, [])
        one.begin(0, 1 if parts else 0)
        assert [[index for _, index in batch] for batch in one] == parts[1:]
        one.begin(0)
    assert sorted(rows) == list(range(items))
    assert all(part == list(range(part[0], part[0] + len(part))) for part in stretches if part)


def test_the_identity_tells_shards_processes_and_workers() -> None:
    identity = batches()[0].identity()
    assert identity == {"images": ROWS, "batch_size": 4, "processes": 2, "num_workers": 2, "shards": "contents"}
