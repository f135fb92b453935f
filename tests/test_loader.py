"""Which samples each process gets, against Accelerate's own sharding, and workers that live through signals."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import DataLoader

from supersam_hf.data import shared
from supersam_hf.data.batches import Batches, OrderedBatches, ShuffledBatches


def taken(batches: Batches, epoch: int = 0, skip: int = 0) -> list[list[int]]:
    batches.begin(epoch, skip)
    keys = list(batches)
    assert {e for batch in keys for e, _ in batch} <= {epoch}
    return [[index for _, index in batch] for batch in keys]


def test_order_is_a_permutation_of_seed_and_epoch() -> None:
    batches, same, other = (ShuffledBatches(50, 8, seed) for seed in (1, 1, 2))
    orders = {}
    for epoch in (0, 1):
        parts = taken(batches, epoch)
        assert parts == taken(same, epoch)
        assert [len(part) for part in parts] == [8, 8, 8, 8, 8, 8, 2]
        assert len(batches) == 7
        orders[epoch] = sum(parts, [])
        assert sorted(orders[epoch]) == list(range(50))
    assert orders[0] != orders[1]
    assert orders[0] != sum(taken(other), [])
    assert taken(OrderedBatches(5, 2)) == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize(("items", "size", "world"), [(50, 4, 1), (50, 4, 3), (48, 4, 3), (5, 4, 3), (1, 2, 2)])
def test_processes_get_the_batches_that_accelerate_would_give(items: int, size: int, world: int) -> None:
    order = np.random.default_rng([7, 2]).permutation(items).tolist()
    for rank in range(world):
        batches = ShuffledBatches(items, size, 7, rank, world)
        whole = torch.utils.data.BatchSampler(order, size, drop_last=False)
        wanted = list(BatchSamplerShard(whole, world, rank) if world > 1 else whole)
        assert taken(batches, 2) == wanted
        assert len(batches) == len(wanted)
        assert taken(batches, 2, skip=len(wanted) // 2) == wanted[len(wanted) // 2 :]


def test_an_epoch_cannot_begin_behind_its_end() -> None:
    assert taken(ShuffledBatches(5, 2, 0), skip=3) == []
    with pytest.raises(ValueError, match="Epoch 0 has 3 batches"):
        ShuffledBatches(5, 2, 0).begin(0, 4)


@pytest.mark.parametrize("items", [0, 1, 9, 12, 13])
def test_evaluation_is_shared_out_without_repeats_or_gaps(items: int) -> None:
    batches = OrderedBatches(items, 2)
    whole = taken(batches)
    parts = []
    for rank in range(3):
        batches.share(rank, 3)
        parts.append(taken(batches))
        assert len(batches) == len(parts[-1])
    assert sorted(sum(parts, [])) == sorted(whole)
    assert sorted(sum(sum(parts, []), [])) == list(range(items))


def test_a_shared_loader_is_whole_again_after_an_error(shapes_loader: Callable[..., DataLoader]) -> None:
    loader = shapes_loader(5, 2, training=False)
    with shared(loader, 1, 2) as part:
        assert len(list(part)) == 1
    assert len(list(loader)) == 3
    with pytest.raises(KeyError), shared(loader, 1, 2):
        raise KeyError
    assert len(list(loader)) == 3


SIGNALLED = """
import torch
from supersam_hf.data import build_loader
from supersam_hf.interruption import deferred

class Numbers:
    training = False
    def __len__(self): return 40
    def __getitem__(self, key): return {"number": torch.tensor(key[1])}

with deferred() as request:
    loader = build_loader(Numbers(), 2, num_workers=2)
    assert len(list(loader)) == 20
    print("begun", flush=True)
    while request.received is None:
        assert len(list(loader)) == 20
    assert len(list(loader)) == 20
    request.taken = True
print("batches to the end")
"""


def test_workers_live_through_signals_to_the_whole_group() -> None:
    """As a scheduler sends them, and a terminal: the step that is under way needs its batches still."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", SIGNALLED], start_new_session=True, **pipes) as process:
        assert process.stdout.readline() == "begun\n"
        for number in (signal.SIGTERM, signal.SIGINT):
            os.killpg(process.pid, number)
        try:
            said, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    assert said == "batches to the end\n"
