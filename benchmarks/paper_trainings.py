"""What the paper's four trainings would take on one H200, on eight, and on 64 GPUs.

    python benchmarks/paper_trainings.py
    python benchmarks/paper_trainings.py --measured 310 --loader_rate 9.5

Work is counted in closed form: multiply-accumulates of the largest, the smallest and the mean sampled subnet, forward
once and backward twice, the encoder's layers once more where gradients are checkpointed, two operations each. Time is
work over throughput. Unless a measured one is given, that is an ESTIMATE: the H200's dense bf16 peak of 989 TFLOPS
times a utilisation of 0.35. Memory is that of the tensors of a step (as `--dry_run` has it), found without a GPU,
with attention as the CPU computes it. Evaluations, search and start-up are not in it.

The number of images is that of the recipe. With more GPUs than images in the recipe's batch the batch grows to one
image a GPU and steps become fewer; scaling efficiency is assumed. Writes `results/paper_trainings.{md,json}`.
"""

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import SamConfig

from supersam_hf import ElasticSpace, SuperSamConfig, SuperSamProcessor
from supersam_hf.data import PromptDataset, shapes
from supersam_hf.elastic.cost import SamShape, count_macs, layer_macs
from supersam_hf.experiments.runs import read_recipe
from supersam_hf.experiments.statistics import markdown
from supersam_hf.hub.tables import duration
from supersam_hf.measure import hardware
from supersam_hf.models.supersam import Subnet
from supersam_hf.pipeline.estimate import sandwich_memory
from supersam_hf.recipe import Recipe


ROOT = Path(__file__).parents[1]
NAMES = {"sa1b": "SA-1B", "coco": "MS-COCO", "ade20k": "ADE20K", "mitochondria": "Mitochondria"}
H200_PEAK = 989.0  # TFLOPS, dense bf16, by its data sheet
UTILISATION, LOW = 0.35, 0.15
H200_GIB = 131.0  # 141 GB
EFFICIENCY = {1: 1.0, 8: 0.92, 64: 0.80}
SAMPLED = 512
GIB = 2.0**30


@dataclass(frozen=True)
class Need:
    """A training on so many GPUs."""

    training: str
    gpus: int
    images: int
    steps: int
    images_per_step: int
    batch_per_gpu: int
    accumulation: int
    tflop_per_image: float
    memory_gib: float
    seconds: float
    images_per_second: float
    loader_cores: float


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=float, help="TFLOPS a GPU that a sandwich step was measured to sustain")
    parser.add_argument(
        "--utilisation", type=float, default=UTILISATION, help="of the peak, where nothing is measured"
    )
    parser.add_argument("--loader_rate", type=float, help="images a second and core; measured here if left out")
    parser.add_argument("--output_dir", default=str(ROOT / "benchmarks" / "results"), help="folder of the results")
    return parser.parse_args()


def work_per_image(shape: SamShape, space: ElasticSpace, recipe: Recipe) -> float:
    """Operations of an image in a sandwich step: largest, smallest and the sampled subnets, forward and backward."""
    prompts, checkpointed = recipe.data.max_objects, recipe.train.gradient_checkpointing

    def operations(subnet: Subnet) -> float:
        layers = sum(layer_macs(shape, layer) for layer in shape.kept(subnet))
        return 2 * (3 * count_macs(shape, subnet, num_prompts=prompts) + (layers if checkpointed else 0))

    generator = torch.Generator().manual_seed(0)
    sampled = sum(operations(space.sample(generator)) for _ in range(SAMPLED)) / SAMPLED
    return operations(space.largest()) + operations(space.smallest()) + recipe.train.num_sampled * sampled


def split_batch(recipe: Recipe, gpus: int, memory_gib: dict[int, float]) -> tuple[int, int, int]:
    """Images a GPU and micro-batch, micro-batches, and images a step: the recipe's, or one a GPU."""
    step = max(recipe.data.batch_size, gpus)
    each = math.ceil(step / gpus)
    fitting = [size for size in memory_gib if size <= each and memory_gib[size] <= 0.9 * H200_GIB]
    size = max(fitting)
    return size, math.ceil(each / size), step


def memory_by_batch(config: SuperSamConfig, recipe: Recipe) -> dict[int, float]:
    """GiB of the tensors of a step, for the batch sizes that may be used."""
    found, size = {}, recipe.data.batch_size
    while size >= 1:
        recipe.data.batch_size = size
        found[size] = sandwich_memory(config, recipe, torch.device("cpu")).total / GIB
        size //= 2
    recipe.data.batch_size = max(found)
    return found


def loader_rate(recipe: Recipe, seconds: float = 4.0) -> float:
    """Samples a second that one core makes of generated scenes of 1024 px with as many objects as the recipe's."""
    recipe.data.min_area = 25
    scenes = shapes(4, image_size=1024, seed=0)
    processor = SuperSamProcessor.for_config(vit_b())
    dataset: Any = PromptDataset(scenes, processor.image_processor, recipe.data, training=True)
    dataset[0]
    began, made = time.process_time(), 0  # of a core that does nothing else
    while time.process_time() - began < seconds:
        dataset[made % len(dataset)]
        made += 1
    return made / (time.process_time() - began)


def vit_b() -> SuperSamConfig:
    return SuperSamConfig(**SamConfig().to_dict())


def needs(name: str, tflops: float, rate: float | None) -> tuple[list[Need], float]:
    """One training on each number of GPUs, and the loader's rate that was used."""
    recipe = read_recipe(str(ROOT / "recipes" / "supersam" / f"{name}.yaml"), {})
    given = {key: value for key, value in vars(recipe.space).items() if value is not None}
    space = ElasticSpace.for_config(vit_b(), **{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})
    images, shape = recipe.train.max_steps * recipe.data.batch_size, SamShape.from_config(vit_b())
    work, memory = work_per_image(shape, space, recipe), memory_by_batch(vit_b(), recipe)
    rate = loader_rate(recipe) if rate is None else rate
    found = []
    for gpus, efficiency in EFFICIENCY.items():
        size, accumulation, step = split_batch(recipe, gpus, memory)
        seconds = images * work / (gpus * efficiency * tflops * 1e12)
        per_second = images / seconds
        need = Need(
            NAMES[name],
            gpus,
            images,
            math.ceil(images / step),
            step,
            size,
            accumulation,
            work / 1e12,
            memory[size],
            seconds,
            per_second,
            per_second / rate,
        )
        found.append(need)
    return found, rate


def table(found: list[Need]) -> str:
    header = ["training", "GPUs", "steps x images", "TFLOP an image", "time", "GPU hours", "batch a GPU"]
    header += ["memory a GPU", "images/s", "loader cores"]
    rows = []
    for need in found:
        batch = f"{need.batch_per_gpu}" + (f" x {need.accumulation}" if need.accumulation > 1 else "")
        rows.append(
            [
                need.training,
                str(need.gpus),
                f"{need.steps:,} x {need.images_per_step}",
                f"{need.tflop_per_image:.1f}",
                duration(need.seconds),
                f"{need.gpus * need.seconds / 3600:,.1f}",
                batch,
                f"{need.memory_gib:.0f} GiB",
                f"{need.images_per_second:,.1f}",
                f"{need.loader_cores:,.1f}",
            ]
        )
    return markdown(header, rows)


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)  # the loader's rate is that of one core
    tflops = H200_PEAK * args.utilisation if args.measured is None else args.measured
    source = "measured" if args.measured is not None else f"ESTIMATED: {H200_PEAK:g} TFLOPS peak x {args.utilisation}"
    found, rates = [], {}
    for name in NAMES:
        more, rates[name] = needs(name, tflops, args.loader_rate)
        found += more
    said = "given" if args.loader_rate is not None else "measured here on generated scenes of 1024 px"
    shown = ", ".join(f"{NAMES[name]} {rate:.1f}" for name, rate in rates.items())
    text = "What the paper's four trainings would take (`benchmarks/paper_trainings.py`).\n\n" + table(found)
    text += f"\nThroughput a GPU: {tflops:.0f} TFLOPS ({source}). Scaling efficiency, assumed: "
    text += ", ".join(f"{value:.0%} on {gpus}" for gpus, value in EFFICIENCY.items()) + ".\n"
    if args.measured is None:
        text += (
            f"At a utilisation of {LOW} every time is {args.utilisation / LOW:.1f} times as long, and every rate as "
        )
        text += "much lower: the relative positions of SAM's global layers are bound by memory, not by arithmetic.\n"
    text += f"Loader, images a second and core ({said}): {shown}.\n"
    text += "Memory: tensors of a step of the largest subnet, bf16, gradients checkpointed; estimated without a GPU.\n"
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "paper_trainings.md").write_text(text)
    data = {"tflops": tflops, "throughput": source, "efficiency": EFFICIENCY, "loader_rates": rates}
    data |= {"loader": said, "hardware": hardware(), "needs": [asdict(need) for need in found]}
    (folder / "paper_trainings.json").write_text(json.dumps(data, indent=2) + "\n")
    print(text)


if __name__ == "__main__":
    main()
