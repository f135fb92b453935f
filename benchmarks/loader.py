"""Samples per second of the training loader by source and workers, against what a sandwich step consumes.

    python benchmarks/loader.py MODEL SOURCE [--workers 0 1 2 4] [--rounds 3] [--output loader.json]

MODEL is a folder or id of a SAM for 256 px, SOURCE a folder of parquet files of nuclei (columns `image`, `instances`).
The same images are read as a map-style dataset, as a stream of the parquet files, and as a stream of SA-1B tars that
are made of them first. Everything runs in interleaved rounds of one process; a row's number is the median over the
rounds. Loaders and step are timed one at a time: in a training they share the processor. Prints a Markdown table.
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

import torch
from torch.utils.data import DataLoader

from supersam_hf import ElasticSpace, SuperSamModel, SuperSamProcessor
from supersam_hf.data import DataArguments, PromptDataset, PromptStream, build_loader, load_source, open_source
from supersam_hf.measure import hardware
from supersam_hf.training.losses import dice_loss


BATCH = 4
TAR_EXAMPLES = 64
# As recipes/supersam/nuclei.yaml has them.
SETTINGS = {"box_padding": 5, "max_objects": 8, "min_area": 71, "crop_train": [112, 224], "flip": True}


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder or id of a SAM for 256 px")
    parser.add_argument("source", help="folder of parquet files of nuclei")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 4], help="loader workers to try")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds")
    parser.add_argument("--batches", type=int, default=60, help="batches of 4 that are timed in a round")
    parser.add_argument("--steps", type=int, default=3, help="sandwich steps that are timed in a round")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    processor = SuperSamProcessor.from_pretrained(args.model).image_processor
    model = SuperSamModel.from_pretrained(args.model).to(device).train()
    rates: dict[Any, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        tars = write_tars(load_source(DataArguments(args.source), "train"), Path(folder))
        compared = loaders(args.source, tars, processor, args.workers)
        step = sandwich(model, next(iter(compared["map-style", args.workers[0]])), device)
        step()
        for _ in range(args.rounds):
            rates["sandwich step"].append(consuming_rate(step, args.steps))
            for key, loader in compared.items():
                rates[key].append(loading_rate(loader, args.batches))
    report(rates, args, device)


def report(rates: dict[Any, list[float]], args: argparse.Namespace, device: str) -> None:
    consumed = statistics.median(rates.pop("sandwich step"))
    machine = hardware(device)
    print(f"A sandwich step of batch {BATCH} consumes {consumed:.1f} images/s ({json.dumps(machine)}).\n")
    print(f"| samples/s (times what the step consumes) | {' | '.join(f'{n} workers' for n in args.workers)} |")
    print(f"|---|{'---|' * len(args.workers)}")
    for source in dict.fromkeys(name for name, _ in rates):
        medians = [statistics.median(rates[source, count]) for count in args.workers]
        print(f"| {source} | {' | '.join(f'{rate:.0f} ({rate / consumed:.0f}x)' for rate in medians)} |")
    if args.output is not None:
        rows = [{"source": name, "workers": count, "samples_per_s": each} for (name, count), each in rates.items()]
        values = {"sandwich_images_per_s": consumed, "batch_size": BATCH, "rounds": args.rounds, "rows": rows}
        args.output.write_text(json.dumps({**values, "hardware": machine}, indent=2) + "\n")


if __name__ == "__main__":
    main()
