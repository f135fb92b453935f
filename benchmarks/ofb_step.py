"""What an OFB search step costs against plain fine-tuning of the same ViT: whole, and cut to half of its MACs.

    python benchmarks/ofb_step.py --batch_size 128 --dtype bf16 --output ofb_step.json

Both sides run the library's own engine: the same images (random, already on the device), AdamW, clipping and label
smoothing; no drop path, no mixing, no loader. The search stands at half of its schedules: lambda 0.5, and with PMIM
15 % of the patches masked, decoded and reconstructed, which is work that the method adds (and not in the floor). The
half network is what the budget's rule leaves of fresh masks, with the masks still on it and undecided.

On a GPU, `hours` are those of the paper's 100 epochs on ImageNet (1.28 M images) on one device at this speed: an
estimate from the measured images per second, without validation, for a loader that keeps up. A search becomes smaller
on its way, from the whole row to the half row.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import floor_ms, main, measured_rates
from torch.utils.data import Dataset
from transformers import AutoConfig, AutoModelForImageClassification, ViTConfig

from supersam_hf.bimask.budget import enforce
from supersam_hf.bimask.cost import physical_shape
from supersam_hf.bimask.space import SearchSpace
from supersam_hf.data import build_loader
from supersam_hf.elastic.vit_cost import ViTShape, count_macs, count_parameters
from supersam_hf.measure import compare_latency
from supersam_hf.models.ofb_vit import OfbViTForImageClassification
from supersam_hf.training.bimask import BiMaskTrainer, ClassifierTerms, new_search, parameter_groups
from supersam_hf.training.bimask_arguments import BiMaskArguments
from supersam_hf.training.classify import ClassificationLossArguments, MixArguments, classifier_step
from supersam_hf.training.engine import Engine
from supersam_hf.training.layer_decay import layer_decay_groups


DEIT_SMALL = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "num_labels": 1000}
QUICK = {**DEIT_SMALL, "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "num_attention_heads": 2}
QUICK |= {"image_size": 32, "patch_size": 8, "num_labels": 10}
IMAGENET_EPOCHS, IMAGENET_IMAGES = 100, 1_281_167
STEPS = 10_000  # of the search whose middle is timed; it is never pruned here
Step = Callable[[], Any]


class OneBatch(Dataset):
    """As many random images as a batch has: the engine asks for a loader, which is not timed."""

    training = True

    def __init__(self, config: Any, size: int) -> None:
        self.size, self.label_names = size, [config.id2label[i] for i in range(config.num_labels)]
        self.shape = config.num_channels, config.image_size, config.image_size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, item: tuple[int, int]) -> dict[str, torch.Tensor]:
        image = torch.randn(self.shape, generator=torch.Generator().manual_seed(item[1]))
        return {"pixel_values": image, "labels": torch.tensor(item[1] % len(self.label_names))}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="ViT or DeiT: checkpoint, or the JSON of a config (default: DeiT-S, random)")
    parser.add_argument("--batch_size", type=int, default=16, help="images a step")
    parser.add_argument("--rounds", type=int, default=10, help="interleaved rounds")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    if args.quick:
        args.batch_size, args.rounds = 2, 2
    steps: dict[str, Step] = {}
    shapes: dict[str, ViTShape] = {}
    with tempfile.TemporaryDirectory() as folder:
        stock = stock_model(args)
        stock.save_pretrained(folder)
        steps["plain fine-tuning"], shapes["plain fine-tuning"] = plain_step(stock, Path(folder), args)
        for half in (False, True):
            for pmim in (False, True):
                name = f"search step{' at half the MACs' if half else ''}, {'with' if pmim else 'without'} PMIM"
                steps[name], shapes[name] = search_step(Path(folder), args, pmim=pmim, half=half)
        timed = compare_latency(steps, args.rounds, warmup=2, device=args.device)
    full, rates = count_macs(next(iter(shapes.values()))), measured_rates(args.device, args.dtype)
    rows = []
    for name, timing in timed.items():
        macs, parameters = count_macs(shapes[name]), count_parameters(shapes[name])
        rate = 1e3 * args.batch_size / timing.latency.median_ms
        rows.append(
            {
                "name": name,
                "ms": timing.latency.median_ms,
                "ratio": timing.ratio,
                "ratio_p10": timing.ratio_p10,
                "ratio_p90": timing.ratio_p90,
                # forward, and twice as much backward; weights read twice, gradients, AdamW's 4 reads and 3 writes
                "floor_ms": floor_ms(3 * args.batch_size * macs, 4 * 10 * parameters, rates),
                "macs_ratio": macs / full,
                "images_per_second": rate,
                "hours": IMAGENET_EPOCHS * IMAGENET_IMAGES / rate / 3600 if args.device != "cpu" else None,
            }
        )
    settings = {name: getattr(args, name) for name in ("model", "batch_size", "rounds", "threads")}
    return {"rows": rows, "settings": {**settings, "hours": "estimated from the measured images per second"}}


def stock_model(args: argparse.Namespace) -> Any:
    """The ViT or DeiT of transformers that is fine-tuned."""
    torch.manual_seed(0)
    if args.quick or args.model is None:
        return AutoModelForImageClassification.from_config(ViTConfig(**(QUICK if args.quick else DEIT_SMALL)))
    if args.model.endswith(".json"):
        return AutoModelForImageClassification.from_config(AutoConfig.from_pretrained(args.model))
    return AutoModelForImageClassification.from_pretrained(args.model)


def engine_for(
    model: Any, folder: Path, args: argparse.Namespace, training: BiMaskArguments, **kwargs: Any
) -> tuple[Engine, list[dict[str, torch.Tensor]]]:
    """An engine in the middle of the search's steps, and the batch of every step."""
    loader = build_loader(OneBatch(model.config, args.batch_size), args.batch_size)
    engine = Engine(model, loader, training, folder / "run", **kwargs)
    if engine.accelerator.device.type != torch.device(args.device).type:
        raise ValueError(f"`--device` is {args.device}, but Accelerate trains on {engine.accelerator.device}.")
    batches = next(engine.batches())
    engine.global_step = STEPS // 2
    engine.model.train()
    return engine, batches


def training_arguments(args: argparse.Namespace, *, pmim: bool = False) -> BiMaskArguments:
    return BiMaskArguments(
        max_macs=0.5,
        max_steps=STEPS + 1,
        search_steps=STEPS,
        prune_steps=STEPS,
        pmim=pmim,
        drop_path_rate=0.0,
        mixed_precision="bf16" if args.dtype == "bf16" else "no",
        resume_from_checkpoint=None,
    )


def plain_step(model: Any, folder: Path, args: argparse.Namespace) -> tuple[Step, ViTShape]:
    training = training_arguments(args)
    shape = ViTShape.from_config(model.config)
    groups = layer_decay_groups(model, training.learning_rate, training.weight_decay, 1.0)
    engine, batches = engine_for(model, folder, args, training, parameters=groups)
    no_mix, loss = MixArguments(mixup_alpha=0.0, cutmix_alpha=0.0), ClassificationLossArguments()
    return lambda: classifier_step(engine, batches, no_mix, loss), shape


def search_step(folder: Path, args: argparse.Namespace, *, pmim: bool, half: bool) -> tuple[Step, ViTShape]:
    model = OfbViTForImageClassification.from_pretrained(folder)
    training = training_arguments(args, pmim=pmim)
    search = new_search(model, SearchSpace(), training, folder / "run")
    if half:
        enforce(search.masked, search.options, search.budget)
    trainer = BiMaskTrainer(search, training, ClassifierTerms(search, training, None))
    groups = parameter_groups(search.masked, training)
    engine, batches = engine_for(search.masked, folder, args, training, parameters=groups, shape=trainer)
    return lambda: trainer.step(engine, batches), physical_shape(model)


if __name__ == "__main__":
    main(__doc__, arguments, measure)
