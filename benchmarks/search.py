"""Candidates of a search evaluated by `SubnetEvaluator`, against extracting and running each.

    python benchmarks/search.py --model SAM --source DATASET --format instances --crop_eval 176 [--multimask]

All rows have the same weights, candidates, images, batch size and precision, and equal results: `miou_difference` is
the largest over the candidates and, with `--multimask`, over the three ways to pick a mask. Images are loaded before
the clock runs, in every row.

- `extract, own forward`: each candidate is extracted; its encoder, and SAM's mask decoder on prompts that were
  embedded beforehand, run on each batch; with `--multimask` the decoder runs once more, for the three masks.
- `extract, evaluate`: each candidate is extracted and evaluated as this library evaluates one model: the decoder in
  one pass, on the slots that hold an object, and once an image what its first block makes of the image alone.
- `together`: all candidates in one call of a `SubnetEvaluator`; `four at a time`, as a search asks for them: it goes
  on from what is kept.

`floor_ms` is the row's multiply-accumulates by the matmul rate of this machine. Candidates are sampled from the space,
all different; or with `--engine` those that a search tries first, under `--max_params`, with qualities from
`--search_images` of the images. They share more.
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from common import floor_ms, main, measured_rates, sam_tiny
from torch.utils.data import DataLoader

from supersam_hf import ElasticSpace, SuperSamModel, SuperSamProcessor
from supersam_hf.data import DataArguments, PromptDataset, build_loader, load_source
from supersam_hf.elastic.cost import SamShape, count_macs, count_parameters, layer_macs
from supersam_hf.evaluation import EvaluationResult, SubnetEvaluator, Targets, evaluate
from supersam_hf.evaluation.evaluator import blocks
from supersam_hf.evaluation.result import evaluating
from supersam_hf.measure import compare_latency
from supersam_hf.models.supersam import Subnet
from supersam_hf.search import Objective, SearchArguments, run_search
from supersam_hf.search.search import ENGINES


class Loaded(torch.utils.data.Dataset):
    """Samples of another dataset, in memory."""

    training = False

    def __init__(self, dataset: PromptDataset) -> None:
        self.samples = [dataset[index] for index in range(len(dataset))]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, torch.Tensor]:
        return self.samples[key[1]]


class OwnForward:
    """Extracts subnets and runs stock code on them, with loaded batches and embedded prompts."""

    def __init__(self, model: SuperSamModel, loader: DataLoader, accelerator: Accelerator, multimask: bool) -> None:
        self.model, self.accelerator, self.multimask = model, accelerator, multimask
        self.batches = [{k: v.to(model.device) for k, v in batch.items()} for batch in loader]
        self.targets = [Targets.of(batch) for batch in self.batches]
        with evaluating(model, accelerator):
            self.prompts = [
                model.prompt_encoder(b.get("input_points"), b.get("input_labels"), b.get("input_boxes"), None)
                for b in self.batches
            ]
            self.positions = model.get_image_wide_positional_embeddings()

    def __call__(self, subnets: list[Subnet]) -> list[list[float]]:
        return [self.mious(self.model.extract(subnet)) for subnet in subnets]

    def mious(self, model: Any) -> list[float]:
        sums, objects = torch.zeros(3 if self.multimask else 1, dtype=torch.float64), 0
        with evaluating(model, self.accelerator):
            for batch, targets, prompts in zip(self.batches, self.targets, self.prompts):
                embeddings, held = model.get_image_embeddings(batch["pixel_values"]), batch["object_mask"]
                ious = targets.ious(self.decoded(model, embeddings, prompts, False)[0][held])
                if self.multimask:
                    masks, predicted = self.decoded(model, embeddings, prompts, True)
                    three, picked = targets.ious(masks[held]), predicted[held].argmax(-1, keepdim=True)
                    ious = torch.cat([ious, three.amax(-1, keepdim=True), three.gather(-1, picked)], dim=-1)
                sums, objects = sums + ious.double().sum(0).cpu(), objects + len(ious)
        return (sums / objects).tolist()

    def decoded(self, model: Any, embeddings: torch.Tensor, prompts: Any, multimask: bool) -> Any:
        positions = self.positions.repeat(len(embeddings), 1, 1, 1)
        return model.mask_decoder(embeddings, positions, *prompts, multimask_output=multimask)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="Hub id or folder of a SAM or supernet (default: random, of 10 M)")
    parser.add_argument("--source", default="shapes", help='data; "shapes" are generated')
    parser.add_argument("--format", default="auto", help="layout of the source")
    parser.add_argument("--eval_split", default="validation", help="split to evaluate on")
    parser.add_argument("--prompt", choices=["box", "point"], default="box")
    parser.add_argument("--max_objects", type=int, default=8, help="objects an image")
    parser.add_argument("--crop_eval", type=int, help="side of the central crop, px")
    parser.add_argument("--candidates", type=int, default=50)
    parser.add_argument("--engine", choices=ENGINES, help="candidates of a search by this engine")
    parser.add_argument("--max_params", type=float, default=0.6, help="budget of that search")
    parser.add_argument("--search_images", type=int, default=8, help="images that it looks at")
    parser.add_argument("--prunable_layers", type=int, nargs="+", help="of the space (default: the model's own)")
    parser.add_argument("--mlp_windows", type=int, nargs="+", help="of the space, hidden units")
    parser.add_argument("--attention_windows", type=int, nargs="+", default=[], help="of the space, over all heads")
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--batch_size", type=int, default=8, help="images a batch")
    parser.add_argument("--cache_gb", type=float, default=4.0, help="limit of what is kept, GB")
    parser.add_argument("--multimask", action="store_true", help="the three-mask output too")
    parser.add_argument("--rounds", type=int, default=2, help="interleaved rounds")


def load(args: argparse.Namespace) -> SuperSamModel:
    if args.model is not None:
        return SuperSamModel.from_pretrained(args.model)
    torch.manual_seed(0)
    return sam_tiny(6, 64) if args.quick else sam_tiny()


def loader_of(args: argparse.Namespace, model: SuperSamModel) -> DataLoader:
    data = DataArguments(
        source=args.source,
        format=args.format,
        eval_split=args.eval_split,
        prompt=args.prompt,
        box_padding=5,
        max_objects=args.max_objects,
        crop_eval=args.crop_eval,
        max_eval_images=args.images,
    )
    processor = SuperSamProcessor.for_config(model.config)
    dataset = PromptDataset(load_source(data, "eval"), processor.image_processor, data, training=False)
    return build_loader(Loaded(dataset), args.batch_size)


def distinct(space: ElasticSpace, count: int) -> list[Subnet]:
    generator, found = torch.Generator().manual_seed(0), dict[Subnet, None]()
    while len(found) < min(count, space.size):
        found[space.sample(generator)] = None
    return list(found)


def space_of(args: argparse.Namespace, config: Any) -> ElasticSpace:
    given = {name: vars(args)[name] for name in ("prunable_layers", "mlp_windows", "attention_windows")}
    return ElasticSpace.for_config(config, **{name: tuple(values) for name, values in given.items() if values})


def tried_first(args: argparse.Namespace, model: SuperSamModel, space: ElasticSpace) -> list[Subnet]:
    """What a search tries, in its order."""
    few = loader_of(argparse.Namespace(**{**vars(args), "images": args.search_images}), model)
    evaluator, shape = SubnetEvaluator(model, few, space=space), SamShape.from_config(model.config)
    wanted = SearchArguments(engine=args.engine, trials=args.candidates, max_params=args.max_params)
    objective = Objective(
        space,
        wanted.budget,
        params=partial(count_parameters, shape),
        macs=partial(count_macs, shape),
        quality=evaluator.miou,
        qualities=evaluator.mious,
    )
    with tempfile.TemporaryDirectory() as folder:
        result = run_search(objective, wanted, Path(folder) / "trials.jsonl", progress=False)
    return [trial.subnet for trial in result.trials]


def macs_of(shape: SamShape, subnets: list[Subnet], loader: DataLoader, multimask: bool) -> dict[str, int]:
    """Multiply-accumulates of each row."""
    slots, objects, images = 0, 0, 0
    for batch in loader:
        held = batch["object_mask"]
        slots, objects, images = slots + held.numel(), objects + int(held.sum()), images + len(held)
    encoders = [count_macs(shape, subnet) for subnet in subnets]
    decoder = count_macs(shape, subnets[0], 1) - encoders[0]
    # keys, values and queries of the first block's image
    first = 3 * shape.grid**2 * shape.decoder_size * shape.decoder_cross_dim
    decoded = len(subnets) * (objects * (decoder - first) + images * first)
    own = images * sum(encoders) + len(subnets) * slots * decoder * (1 + multimask)
    return {
        "extract, own forward": own,
        "extract, evaluate": images * sum(encoders) + decoded,
        "together": images * (sum(encoders) - _shared_macs(shape, subnets)) + decoded,
    }


def _shared_macs(shape: SamShape, subnets: list[Subnet]) -> int:
    """Of the residual blocks that another subnet has run before, for one image."""
    seen, shared = set(), 0
    for subnet in subnets:
        path = blocks(zip(subnet.layers, subnet.mlp_dim, subnet.head_dim))
        for depth, step in enumerate(path, start=1):
            shared += _block_macs(shape, *step) if path[:depth] in seen else 0
            seen.add(path[:depth])
    return shared


def _block_macs(shape: SamShape, layer: int, part: int, window: int) -> int:
    attention = shape.layers[layer]._replace(mlp_dim=0)
    if part == 0:
        return layer_macs(shape, attention._replace(head_dim=window))
    return layer_macs(shape, attention._replace(mlp_dim=window)) - layer_macs(shape, attention)


def as_list(result: EvaluationResult) -> list[float]:
    mious = (result.miou, result.miou_oracle, result.miou_predicted)
    return [miou for miou in mious if miou is not None]


def measure(args: argparse.Namespace) -> dict[str, Any]:
    if args.quick:
        args.candidates, args.images, args.rounds = min(args.candidates, 6), min(args.images, 8), 1
    model = load(args)
    model = model.to(args.device).eval()
    loader, space = loader_of(args, model), space_of(args, model.config)
    subnets = distinct(space, args.candidates) if args.engine is None else tried_first(args, model, space)
    multimask = args.multimask
    accelerator = Accelerator(cpu=args.device == "cpu", mixed_precision="bf16" if args.dtype == "bf16" else "no")
    own = OwnForward(model, loader, accelerator, multimask)
    found: dict[str, list[list[float]]] = {}
    peaks: dict[str, float] = {}

    def alone() -> list[list[float]]:
        options: dict[str, Any] = {"multimask": multimask, "accelerator": accelerator}
        return [as_list(evaluate(model.extract(subnet), loader, **options)) for subnet in subnets]

    def shared(name: str, size: int) -> list[list[float]]:
        evaluator = SubnetEvaluator(model, loader, space=space, accelerator=accelerator, cache_gb=args.cache_gb)
        groups = [subnets[start : start + size] for start in range(0, len(subnets), size)]
        results = [one for group in groups for one in evaluator.results(group, multimask=multimask)]
        peaks[name] = evaluator.store.peak / 1e9
        return [as_list(one) for one in results]

    runs: dict[str, Callable[[], list[list[float]]]] = {
        "extract, own forward": lambda: own(subnets),
        "extract, evaluate": alone,
        "together": lambda: shared("together", len(subnets)),
        "four at a time": lambda: shared("four at a time", 4),
    }
    forwards = {name: partial(_write, found, name, run) for name, run in runs.items()}
    timed = compare_latency(forwards, args.rounds, warmup=int(args.quick), device=args.device)
    rates = measured_rates(args.device, args.dtype)
    shape = SamShape.from_config(model.config)
    macs = macs_of(shape, subnets, loader, multimask)
    first = torch.tensor(found["extract, own forward"], dtype=torch.float64)
    rows = []
    for name, one in timed.items():
        gap = (torch.tensor(found[name], dtype=torch.float64) - first).abs().max().item()
        floor = floor_ms(macs.get(name, macs["together"]), 0, rates)
        row: dict[str, Any] = {"name": name, "ms": one.latency.median_ms, "ratio": one.ratio}
        row |= {"ratio_p10": one.ratio_p10, "ratio_p90": one.ratio_p90, "times_as_many": 1 / one.ratio}
        row |= {"candidates_a_minute": 60e3 * len(subnets) / one.latency.median_ms, "floor_ms": floor}
        rows.append(row | {"miou_difference": gap, "kept_gb": peaks.get(name)})
    return {"rows": rows, "settings": settings(args, shape, loader, subnets)}


def _write(found: dict[str, Any], name: str, run: Callable[[], Any]) -> None:
    found[name] = run()


def settings(args: argparse.Namespace, shape: SamShape, loader: DataLoader, subnets: list[Subnet]) -> dict[str, Any]:
    names = ("source", "prompt", "max_objects", "crop_eval", "batch_size", "cache_gb", "multimask", "rounds", "engine")
    values = {name: vars(args)[name] for name in names}
    objects = sum(int(batch["object_mask"].sum()) for batch in loader)
    counts: dict[str, Any] = {
        "candidates": len(subnets),
        "images": sum(len(batch["masks"]) for batch in loader),
        "objects": objects,
    }
    counts["shared_macs"] = _shared_macs(shape, subnets) / sum(count_macs(shape, subnet) for subnet in subnets)
    return {"model": args.model or "random", **values, **counts}


if __name__ == "__main__":
    main(__doc__, arguments, measure)
