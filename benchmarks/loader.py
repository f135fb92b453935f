"""Samples per second of the training loader by source and workers, against what a sandwich step consumes.

    python benchmarks/loader.py [--model MODEL] [--source SOURCE] [--workers 0 1 2 4] [--output loader.json]

MODEL is a folder or id of a SAM for 256 px, by default one of random weights as large as SAM-Tiny; SOURCE a folder of
parquet files of nuclei (columns `image`, `instances`), by default generated shapes. The same images are read as a
map-style dataset, as a stream of the parquet files, and as a stream of SA-1B tars that are made of them first.
Everything runs in interleaved rounds of one process; a row's number is the median over the rounds. Loaders and step
are timed one at a time: in a training they share the processor. `ms` is for one sample; the ratio is to the time that
a sample takes in the step.
"""

import argparse
import io
import json
import statistics
import tarfile
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import main, sam_tiny
from torch.utils.data import DataLoader

from supersam_hf import ElasticSpace, SuperSamModel, SuperSamProcessor
from supersam_hf.data import DataArguments, PromptDataset, PromptStream, build_loader, load_source, open_source, shapes
from supersam_hf.training.losses import dice_loss


BATCH = 4
STEP = "sandwich step"
TAR_EXAMPLES = 64
# As recipes/supersam/nuclei.yaml has them.
SETTINGS = {"box_padding": 5, "max_objects": 8, "min_area": 71, "crop_train": [112, 224], "flip": True}


def write_shapes(folder: Path, num_images: int) -> str:
    """Generated shapes as parquet files, which can be streamed."""
    folder.mkdir()
    shapes(num_images, image_size=256).to_parquet(folder / "train-00000-of-00001.parquet")
    return str(folder)


def write_tars(dataset: Any, folder: Path) -> Path:
    """The dataset as SA-1B comes: tars of a jpg and a JSON each."""
    for number, row in enumerate(dataset):
        with tarfile.open(folder / f"sa_{number // TAR_EXAMPLES:06d}.tar", "a") as tar:
            image = io.BytesIO()
            row["image"].convert("RGB").save(image, "jpeg", quality=95)
            annotations = [{"segmentation": mask} for mask in row["objects"]["segmentation"]]
            content = json.dumps({"annotations": annotations}).encode()
            for suffix, data in (("jpg", image.getvalue()), ("json", content)):
                member = tarfile.TarInfo(f"./sa_{number}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return folder


def loaders(source: str, tars: Path, processor: Any, workers: list[int]) -> dict[tuple[str, int], DataLoader]:
    """A loader for each source and number of workers."""
    args = DataArguments(source, **SETTINGS)
    streams = {"stream of parquet": args, "stream of SA-1B tars": DataArguments(str(tars), format="sa1b", **SETTINGS)}
    made: dict[str, Any] = {"map-style": PromptDataset(load_source(args, "train"), processor, args, training=True)}
    for name, values in streams.items():
        values = DataArguments(**{**vars(values), "streaming": True})
        made[name] = PromptStream(open_source(values, "train"), processor, values, training=True)
    return {(name, count): build_loader(each, BATCH, count) for name, each in made.items() for count in workers}


def endless(loader: DataLoader) -> Iterator[dict[str, torch.Tensor]]:
    epoch = 0
    while True:
        loader.batch_sampler.begin(epoch)
        yield from loader
        epoch += 1


def loading_rate(loader: DataLoader, batches: int) -> float:
    """Samples per second once the workers run."""
    taken = endless(loader)
    for _ in range(4 * max(1, loader.num_workers)):
        next(taken)
    start = time.perf_counter()
    for _ in range(batches):
        next(taken)
    seconds = time.perf_counter() - start
    taken.close()
    loader._iterator = None  # ends its workers: they would go on loading beside the next one
    return batches * BATCH / seconds


def sandwich(model: SuperSamModel, batch: dict[str, torch.Tensor], device: str) -> Callable[[], None]:
    """A step of the sandwich rule, one sampled subnet, on one batch."""
    space, generator = ElasticSpace.for_config(model.config), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    batch = {name: value.to(device) for name, value in batch.items()}

    def step() -> None:
        for subnet in (space.largest(), space.smallest(), space.sample(generator)):
            inputs = {"pixel_values": batch["pixel_values"], "input_boxes": batch["input_boxes"]}
            masks = model(**inputs, subnet=subnet, multimask_output=False).pred_masks[:, :, 0]
            (dice_loss(masks.sigmoid(), batch["low_res_masks"].float()).mean() / 3).backward()
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def consuming_rate(step: Callable[[], None], steps: int) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return steps * BATCH / (time.perf_counter() - start)


def sam_and_processor(args: argparse.Namespace) -> tuple[SuperSamModel, Any]:
    """What `--model` names, or a SAM of random weights."""
    if args.model is not None:
        processor = SuperSamProcessor.from_pretrained(args.model).image_processor
        return SuperSamModel.from_pretrained(args.model), processor
    model = sam_tiny(2, 64) if args.quick else sam_tiny()
    return model, SuperSamProcessor.for_config(model.config).image_processor


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="folder or id of a SAM for 256 px (default: random weights)")
    parser.add_argument("--source", help="folder of parquet files of nuclei (default: generated shapes)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 4], help="loader workers to try")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds")
    parser.add_argument("--batches", type=int, default=60, help="batches of 4 that are timed in a round")
    parser.add_argument("--steps", type=int, default=3, help="sandwich steps that are timed in a round")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    if args.quick:
        args.workers, args.rounds, args.batches, args.steps = [0], 1, 2, 1
    model, processor = sam_and_processor(args)
    model = model.to(args.device).train()
    rates: dict[Any, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        source = args.source or write_shapes(Path(folder, "shapes"), 16 if args.quick else 512)
        tars = write_tars(load_source(DataArguments(source), "train"), Path(folder))
        compared = loaders(source, tars, processor, args.workers)
        step = sandwich(model, next(iter(compared["map-style", args.workers[0]])), args.device)
        step()
        for _ in range(args.rounds):
            rates[STEP].append(consuming_rate(step, args.steps))
            for key, loader in compared.items():
                rates[key].append(loading_rate(loader, args.batches))
    report(rates, args)
    settings = {"batch_size": BATCH, "rounds": args.rounds, "model": args.model, "source": args.source, **SETTINGS}
    return {"rows": [row(key, rates) for key in rates], "settings": settings}


def row(key: Any, rates: dict[Any, list[float]]) -> dict[str, Any]:
    name = key if key == STEP else f"{key[0]}, {key[1]} workers"
    p10, ratio, p90 = np.percentile(np.divide(rates[STEP], rates[key]), [10, 50, 90]).tolist()
    rate = statistics.median(rates[key])
    compared = {"ratio": ratio, "ratio_p10": p10, "ratio_p90": p90}
    return {"name": name, "ms": 1e3 / rate, **compared, "samples_per_s": rate}


def report(rates: dict[Any, list[float]], args: argparse.Namespace) -> None:
    consumed = statistics.median(rates[STEP])
    print(f"A sandwich step of batch {BATCH} consumes {consumed:.1f} images/s.\n")
    print(f"| samples/s (times what the step consumes) | {' | '.join(f'{n} workers' for n in args.workers)} |")
    print(f"|---|{'---|' * len(args.workers)}")
    for source in dict.fromkeys(key[0] for key in rates if key != STEP):
        medians = [statistics.median(rates[source, count]) for count in args.workers]
        print(f"| {source} | {' | '.join(f'{rate:.0f} ({rate / consumed:.0f}x)' for rate in medians)} |")
    print()


if __name__ == "__main__":
    main(__doc__, arguments, measure)
