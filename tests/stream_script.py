"""Passes over a stream in processes of their own, each writing the examples it was given, batch by batch.

usage: stream_script.py SOURCE OUTPUT_DIR KILL_AFTER_BATCH
"""

import json
import os
import sys
from pathlib import Path

import torch.distributed as dist
from conftest import tiny_config
from torch.utils.data import DataLoader

from supersam_hf import SuperSamProcessor
from supersam_hf.data import DataArguments, PromptStream, build_loader, open_source, shared


EPOCHS = 2
SAVE_BATCHES = 5


def loader(source: str, rank: int, world: int, *, training: bool) -> DataLoader:
    args = DataArguments(source, streaming=True, shuffle_buffer=20, max_objects=2, min_area=1, batch_size=4)
    processor = SuperSamProcessor.for_config(tiny_config())
    rows = open_source(args, "train")
    dataset = PromptStream(rows, processor.image_processor, args, training=training)
    return build_loader(dataset, 4, num_workers=2, seed=5, rank=rank, world=world)


def train(source: str, output: Path, kill: int, rank: int, world: int) -> None:
    """Two epochs; every 5 batches a checkpoint, which is but a number. Rank 1 dies after so many batches in all."""
    one = loader(source, rank, world, training=True)
    checkpoint = output / "checkpoint"
    done = int(checkpoint.read_text()) if checkpoint.exists() else 0
    first, skip = divmod(done, len(one))
    for epoch in range(first, EPOCHS):
        one.batch_sampler.begin(epoch, skip if epoch == first else 0)
        for batch in one:
            with (output / f"train-{rank}.jsonl").open("a") as file:
                file.write(json.dumps([epoch, batch["image_index"].tolist()]) + "\n")
            done += 1
            dist.barrier()  # as gradients do, it keeps them in step: one that ended too early would hang the other
            if rank == 1 and done == kill:
                os.kill(os.getpid(), 9)
            if rank == 0 and done % SAVE_BATCHES == 0:
                checkpoint.write_text(str(done))
    (output / f"length-{rank}").write_text(str(len(one)))


def evaluate(source: str, output: Path, rank: int, world: int) -> None:
    with shared(loader(source, rank, world, training=False), rank, world) as one:
        seen = [batch["image_index"].tolist() for batch in one]
    (output / f"eval-{rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    dist.init_process_group("gloo")
    place = dist.get_rank(), dist.get_world_size()
    train(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), *place)
    evaluate(sys.argv[1], Path(sys.argv[2]), *place)
    dist.barrier()
    dist.destroy_process_group()
