"""The stages of a SuperSAM run. Each reads the stages before it from the output folder and leaves its own output."""

import csv
import json
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from .data import PromptDataset, build_loader, load_source
from .elastic.cost import count_macs, count_parameters
from .elastic.importance import count_evaluations, rank_layers
from .elastic.reorder import reorder
from .evaluation import calibration_images, evaluate, quality_of
from .measure import measure_model
from .models.supersam import ElasticSpace, Subnet, SuperSamModel, SuperSamProcessor
from .recipe import Recipe
from .search import Objective, SearchResult, run_search
from .training.engine import Engine
from .training.finetune import finetune
from .training.pretrain import new_sam, pretrain
from .training.sandwich import train_sandwich


logger = logging.getLogger(__name__)

# In this order; `redo` of one runs those behind it as well.
STAGES = ("pretrain", "rank-layers", "reorder", "evaluate-before", "train", "search", "extract", "report")
# Folders that hold a model, newest state of the supernet first.
SUPERNETS = ("supernet", "reordered", "pretrained")


class Run:
    """One output folder and the recipe that fills it."""

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        self.folder = Path(recipe.output_dir)
        self.state = PartialState(cpu=not torch.accelerator.is_available())
        self.folder.mkdir(parents=True, exist_ok=True)

    # -- data ---------------------------------------------------------------------------------------------------

    @cached_property
    def _train_source(self) -> Any:
        source = load_source(self.recipe.data, "train")
        if len(source) <= self.recipe.holdout_images:
            raise ValueError(
                f"`holdout_images` of {self.recipe.holdout_images} leaves no training image: `data.source` has "
                f"{len(source)}. Make it smaller."
            )
        return source

    @cached_property
    def train_loader(self) -> DataLoader:
        images = self._train_source.select(range(len(self._train_source) - self.recipe.holdout_images))
        return self._loader(images, training=True)

    @cached_property
    def holdout_loader(self) -> DataLoader:
        return self._holdout(self.recipe.holdout_images)

    def _holdout(self, num_images: int) -> DataLoader:
        total = len(self._train_source)
        num_images = min(num_images, self.recipe.holdout_images)
        return self._loader(self._train_source.select(range(total - num_images, total)), training=False)

    @cached_property
    def eval_loader(self) -> DataLoader:
        return self._loader(load_source(self.recipe.data, "eval"), training=False)

    def _loader(self, source: Any, training: bool) -> DataLoader:
        data = self.recipe.data
        dataset = PromptDataset(source, self.processor.image_processor, data, training=training)
        return build_loader(dataset, data.batch_size if training else data.eval_batch_size, data.num_workers, data.seed)

    # -- models -------------------------------------------------------------------------------------------------

    @property
    def original_name(self) -> str:
        """Folder or Hub id of the model that the run starts from."""
        if self.recipe.pretrain.enabled:
            return str(self.folder / "pretrained")
        assert self.recipe.model.name is not None
        return self.recipe.model.name

    def load(self, name: str | Path, **sizes: int | None) -> SuperSamModel:
        model = SuperSamModel.from_pretrained(
            name, attn_implementation=self.recipe.model.attn_implementation, **sizes
        )
        return model.to(self.state.device).eval()

    def original(self) -> SuperSamModel:
        args = self.recipe.model
        if self.recipe.pretrain.enabled:
            return self.load(self.original_name)
        sizes = {"image_size": args.image_size, "window_size": args.window_size}
        if args.revision is not None:
            return self.load(self.original_name, revision=args.revision, **sizes)  # type: ignore[arg-type]
        return self.load(self.original_name, **sizes)

    def supernet(self) -> SuperSamModel:
        """The supernet as far as the run has brought it."""
        for name in SUPERNETS:
            if (self.folder / name / "config.json").exists():
                return self.load(self.folder / name)
        return self.original()

    @cached_property
    def processor(self) -> SuperSamProcessor:
        if self.recipe.pretrain.enabled:
            sizes = {"vision_config": {"image_size": self.recipe.pretrain.image_size}}
            from .models.supersam import SuperSamConfig

            return SuperSamProcessor.for_config(SuperSamConfig(**sizes))
        return SuperSamProcessor.from_pretrained(self.original_name, image_size=self.recipe.model.image_size)

    def save_model(self, model: SuperSamModel, name: str, space: ElasticSpace | None = None) -> None:
        """Writes a folder that `from_pretrained` loads: aside first, so that it is whole or not there."""
        if space is not None:
            model.config.elastic_space = space.to_dict()
        if not self.state.is_main_process:
            return
        folder, aside = self.folder / name, self.folder / f"{name}.tmp"
        shutil.rmtree(aside, ignore_errors=True)
        model.save_pretrained(aside)
        self.processor.save_pretrained(aside)
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)

    def space(self, model: SuperSamModel) -> ElasticSpace:
        """The recipe's elastic space; what it leaves open comes from the ranking, then from the paper."""
        if model.config.elastic_space is not None:
            return ElasticSpace.from_dict(model.config.elastic_space)
        args = self.recipe.space
        prunable = args.prunable_layers
        ranking = self.folder / "ranking.json"
        if prunable is None and ranking.exists():
            prunable = json.loads(ranking.read_text())["prunable_layers"]
        return ElasticSpace.for_config(
            model.config,
            protected_layers=tuple(args.protected_layers),
            prunable_layers=None if prunable is None else tuple(prunable),
            prune_probability=args.prune_probability,
            mlp_windows=None if args.mlp_windows is None else tuple(args.mlp_windows),
            attention_windows=tuple(args.attention_windows),
        )

    def subnet(self, name: str, space: ElasticSpace) -> Subnet:
        """`largest`, `smallest`, `found` (what the search chose), or a JSON file."""
        if name == "largest":
            return space.largest()
        if name == "smallest":
            return space.smallest()
        path = self.folder / "search.json" if name == "found" else Path(name)
        if not path.exists():
            raise FileNotFoundError(
                f"`subnet` is {name!r}, but there is no {path}: give a JSON file, `largest` or `smallest`, or search first."
            )
        data = json.loads(path.read_text())
        if name == "found":
            if data["best"] is None:
                raise ValueError("The search found no subnet within the budget; see `nearest` in search.json.")
            data = data["best"]["subnet"]
        subnet = Subnet.from_dict(data)
        space.validate(subnet)
        return subnet

    # -- stages -------------------------------------------------------------------------------------------------

    def pretrain(self) -> None:
        args = self.recipe.pretrain
        model = pretrain(new_sam(args), self.train_loader, args, self.folder / "pretrain")
        self.save_model(model, "pretrained")

    def rank_layers(self) -> None:
        args, model = self.recipe.rank_layers, self.original()
        space, loader = self.space(model), self._holdout(args.num_images)
        max_removed = min(args.max_removed, space.num_hidden_layers - 1)
        with tqdm(total=count_evaluations(space.num_hidden_layers, max_removed), desc="rank layers") as bar:
            ranking = rank_layers(
                space,
                quality_of(model, loader),
                lambda subnet: count_parameters(model.config, subnet),
                max_removed=max_removed,
                max_drop=args.max_drop,
                max_prunable=args.max_prunable,
                progress=bar.update,
            )
        from .plots import plot_layer_ranking

        plot_layer_ranking(ranking.to_dict(), self.folder / "ranking.png")
        write_json(self.folder / "ranking.json", ranking.to_dict())
        print(f"prunable layers proposed: {ranking.prunable_layers} (θ = 0.5 each); table in {self.folder}/ranking.json")

    def reorder(self) -> None:
        args, model = self.recipe.reorder, self.original()
        space = self.space(model)
        images = calibration_images(self.train_loader, args.num_images) if args.method == "wanda" else ()
        reorder(model, space, args.method, images, combine=args.combine)
        self.save_model(model, "reordered", space)

    def train(self) -> None:
        model = self.supernet()
        space = self.space(model)
        args = self.recipe.train

        def metrics(engine: Engine) -> dict[str, float]:
            named = {"largest": space.largest(), "smallest": space.smallest()}
            return {
                f"miou_{name}": evaluate(
                    engine.unwrapped, self.holdout_loader, subnet, multimask=False, accelerator=engine.accelerator
                ).miou
                for name, subnet in named.items()
            }

        calibration = calibration_images(self.train_loader, self.recipe.reorder.num_images) if args.reorder_every else ()
        started = time.perf_counter()
        model = train_sandwich(
            model, space, self.train_loader, args, self.folder / "train", evaluate=metrics, calibration=calibration
        )
        self.save_model(model, "supernet", space)
        if self.state.is_main_process:
            from .plots import plot_training

            plot_training(self.folder / "train" / "log.jsonl", self.folder / "training.png")
            logger.info(f"trained {args.max_steps} steps in {time.perf_counter() - started:.0f} s")

    def finetune(self) -> None:
        folder = self.folder / "subnet"
        found = (folder / "config.json").exists()
        model = self.load(folder) if found else self.supernet()
        model = finetune(model, self.train_loader, self.recipe.finetune, self.folder / "finetune")
        self.save_model(model, "finetuned")

    def evaluation_rows(self, model: SuperSamModel, extra: dict[str, Subnet] | None = None) -> list[dict[str, Any]]:
        """Table rows of the largest, the smallest, the sampled and `extra` subnets of `model`."""
        args, space = self.recipe.evaluate, self.space(model)
        generator = torch.Generator().manual_seed(args.seed)
        subnets = {"largest": space.largest(), "smallest": space.smallest(), **(extra or {})}
        named = set(subnets)
        subnets |= {f"sampled {i + 1}": space.sample(generator) for i in range(args.num_sampled)}
        subnets |= {Path(file).stem: self.subnet(file, space) for file in args.subnets}
        return [
            self.row(name, "sampled" if name.startswith("sampled") else name, model, subnet, args.multimask and name in named)
            for name, subnet in tqdm(subnets.items(), desc="evaluate", unit="subnet")
        ]

    def row(
        self, name: str, kind: str, model: SuperSamModel, subnet: Subnet | None, multimask: bool
    ) -> dict[str, Any]:
        result = evaluate(model, self.eval_loader, subnet, multimask=multimask)
        return {
            "name": name,
            "kind": kind,
            "params": count_parameters(model.config, subnet),
            "params_weights_only": count_parameters(model.config, subnet, weights_only=True),
            "macs": count_macs(model.config, subnet),
            **asdict(result),
            "subnet": subnet.to_dict() if subnet is not None else None,
        }

    def original_row(self) -> dict[str, Any]:
        return self.row("original", "original", self.original(), None, self.recipe.evaluate.multimask)

    def evaluate_before(self) -> None:
        rows = [self.original_row(), *self.evaluation_rows(self.supernet())]
        write_json(self.folder / "evaluation_before.json", rows)

    def evaluate(self) -> None:
        rows = [self.original_row(), *self.evaluation_rows(self.supernet())]
        self._write_evaluation(rows, before=[])

    def search(self) -> None:
        model = self.supernet()
        space, args = self.space(model), self.recipe.search
        batch = self.recipe.measure

        def latency(subnet: Subnet) -> float:
            extracted = model.extract(subnet)
            return measure_model(extracted, batch_size=batch.batch_size, repeats=batch.repeats).latency.median_ms

        objective = Objective(
            space,
            args.budget,
            params=lambda subnet: count_parameters(model.config, subnet),
            macs=lambda subnet: count_macs(model.config, subnet),
            quality=quality_of(model, self.holdout_loader),
            latency_ms=latency if args.max_latency_ms is not None else None,
            goal=args.goal,
        )
        context = self.recipe.sections("data", "holdout_images")
        result = run_search(objective, args, self.folder / "search" / "trials.jsonl", context=context)
        result.save(self.folder / "search.json")
        from .plots import plot_search

        plot_search(result.trials, self.folder / "search.png")
        self._report_search(result)

    def _report_search(self, result: SearchResult) -> None:
        best = result.best
        if best is None:
            result.subnet()  # raises, saying what came nearest
            return
        share = best.params / result.objective.largest.params
        print(
            f"found: {best.params:,} parameters ({share:.1%} of the largest), holdout mIoU {best.quality:.4f}, "
            f"{len(result.trials)} trials of {len(result.asks)} asks; {self.folder}/search.json"
        )

    def extract(self, subnet: str = "found") -> None:
        model = self.supernet()
        chosen = self.subnet(subnet, self.space(model))
        extracted = model.extract(chosen)
        self.save_model(extracted, "subnet")
        share = count_parameters(extracted.config) / count_parameters(model.config)
        print(f"extracted {count_parameters(extracted.config):,} parameters ({share:.1%}) to {self.folder}/subnet")

    def measure(self, subnet: str = "largest") -> None:
        model, args = self.supernet(), self.recipe.measure
        chosen = self.subnet(subnet, self.space(model))
        measured = measure_model(
            model.extract(chosen), batch_size=args.batch_size, warmup=args.warmup, repeats=args.repeats
        )
        write_json(self.folder / "measurement.json", asdict(measured))
        print(json.dumps(asdict(measured), indent=2))

    def report(self) -> None:
        """Evaluates the trained supernet and the extracted subnet, and writes the table, the plots, the overlays."""
        before = []
        if (self.folder / "evaluation_before.json").exists():
            before = json.loads((self.folder / "evaluation_before.json").read_text())
        original = next((row for row in before if row["kind"] == "original"), None) or self.original_row()
        found = self.load(self.folder / "subnet")
        rows = [original, *self.evaluation_rows(self.supernet())]
        # Of the folder as a stranger would load it, not of the supernet in memory.
        rows.append(self.row("found", "found", found, None, self.recipe.evaluate.multimask))
        if self.recipe.measure.enabled:
            self._add_latency(rows)
        self._write_evaluation(rows, before)
        self._write_overlays(found)
        print((self.folder / "results.md").read_text())

    def _add_latency(self, rows: list[dict[str, Any]]) -> None:
        args, supernet = self.recipe.measure, self.supernet()
        for row in rows:
            if row["kind"] in ("original", "largest", "smallest", "found"):
                subnet = row["subnet"]
                model = supernet.extract(Subnet.from_dict(subnet)) if subnet else self.load(self._model_of(row["kind"]))
                measured = measure_model(
                    model, batch_size=args.batch_size, warmup=args.warmup, repeats=args.repeats
                )
                row["latency_ms"] = measured.latency.median_ms
                row["measurement"] = asdict(measured)

    def _model_of(self, kind: str) -> str | Path:
        return self.folder / "subnet" if kind == "found" else self.original_name

    def _write_evaluation(self, rows: list[dict[str, Any]], before: list[dict[str, Any]]) -> None:
        from .plots import plot_pareto

        write_json(self.folder / "results.json", {"recipe": asdict(self.recipe), "rows": rows, "before": before})
        keys = [key for key in rows[0] if key not in ("measurement", "subnet", "kind")]
        with (self.folder / "results.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, [*keys], extrasaction="ignore", restval="")
            writer.writeheader()
            writer.writerows(rows)
        (self.folder / "results.md").write_text(results_table(rows, before))
        untrained = [{**row, "kind": "before"} for row in before if row["kind"] != "original"]
        plot_pareto([*rows, *untrained], self.folder / "pareto.png")

    def _write_overlays(self, found: SuperSamModel) -> None:
        from .overlays import overlay_samples
        from .plots import plot_overlays

        models = {"original": (self.original(), None), "found": (found, None)}
        samples = overlay_samples(self.eval_loader.dataset, models, self.processor.image_processor, count=4)
        plot_overlays(samples, self.folder / "overlays.png", ["original", "found"])


def results_table(rows: list[dict[str, Any]], before: list[dict[str, Any]]) -> str:
    """The named rows, and the sampled ones as mean ± standard deviation, as a Markdown table."""
    untrained = {row["name"]: row["miou"] for row in before}
    lines = [
        "| model | parameters | GMACs (encoder) | mIoU | mIoU before training | best of 3 | latency (ms) |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row["kind"] == "sampled":
            continue
        share = row["params"] / rows[0]["params"]
        oracle = row["miou_oracle"]
        was = untrained.get(row["name"]) if row["kind"] != "original" else None
        cells = [
            row["name"],
            f"{row['params']:,} ({share:.0%})",
            f"{row['macs'] / 1e9:.3f}",
            f"{row['miou']:.4f}",
            "" if was is None else f"{was:.4f}",
            "" if oracle is None else f"{oracle:.4f}",
            f"{row['latency_ms']:.1f}" if row.get("latency_ms") else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    sampled = torch.tensor([row["miou"] for row in rows if row["kind"] == "sampled"])
    was_sampled = torch.tensor([row["miou"] for row in before if row["kind"] == "sampled"])
    if len(sampled) > 1:
        mean = f"{sampled.mean():.4f} ± {sampled.std():.4f}"
        was_mean = f"{was_sampled.mean():.4f} ± {was_sampled.std():.4f}" if len(was_sampled) > 1 else ""
        lines.append(f"| {len(sampled)} sampled, mean ± sd | | | {mean} | {was_mean} | | |")
    return "\n".join(lines) + "\n"


def write_json(path: Path, data: Any) -> None:
    """Whole or not at all."""
    aside = path.with_suffix(path.suffix + ".tmp")
    aside.write_text(json.dumps(data, indent=2) + "\n")
    aside.replace(path)


# Which recipe sections decide a stage's output, and the file or folder that shows it is there.
OUTPUTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "pretrain": ("pretrained/config.json", ("data", "pretrain", "holdout_images")),
    "rank-layers": ("ranking.json", ("model", "data", "rank_layers", "holdout_images")),
    "reorder": ("reordered/config.json", ("model", "data", "space", "reorder")),
    "evaluate-before": ("evaluation_before.json", ("data", "evaluate")),
    "train": ("supernet/config.json", ("data", "train")),
    "search": ("search.json", ("data", "search", "holdout_images")),
    "extract": ("subnet/config.json", ()),
    "report": ("results.json", ("data", "evaluate", "measure")),
}


def run_stage(verb: str, recipe: Recipe, *, redo: str | None = None, subnet: str | None = None) -> None:
    """Runs one verb of the command line."""
    run = Run(recipe)
    if verb == "run":
        run_pipeline(run, redo)
    elif verb in ("extract", "measure"):
        assert subnet is not None
        _alone(run, lambda: {"extract": run.extract, "measure": run.measure}[verb](subnet))
    elif verb in ("pretrain", "train", "finetune"):
        {"pretrain": run.pretrain, "train": run.train, "finetune": run.finetune}[verb]()
    else:
        stages = {"rank-layers": run.rank_layers, "reorder": run.reorder, "evaluate": run.evaluate, "search": run.search}
        _alone(run, stages[verb])


def run_pipeline(run: Run, redo: str | None = None) -> None:
    """All stages in order. One whose output is there is skipped, if it was made with the same values.

    Args:
        redo (`str`, *optional*): Run this stage and all behind it again.

    Raises:
        ValueError: If an output was made with other values (naming them), or `redo` is no stage.
    """
    if redo is not None and redo not in STAGES:
        raise ValueError(f"`redo` must be one of {list(STAGES)}, got {redo!r}.")
    stages: dict[str, Callable[[], None]] = {
        "pretrain": run.pretrain,
        "rank-layers": run.rank_layers,
        "reorder": run.reorder,
        "evaluate-before": run.evaluate_before,
        "train": run.train,
        "search": run.search,
        "extract": run.extract,
        "report": run.report,
    }
    recipe = run.recipe
    enabled = {"pretrain": recipe.pretrain.enabled, "rank-layers": recipe.rank_layers.enabled}
    enabled["evaluate-before"] = recipe.evaluate.before
    if redo is not None and run.state.is_main_process:
        _forget(run, STAGES[STAGES.index(redo) :])
    run.state.wait_for_everyone()
    for name, stage in stages.items():
        if not enabled.get(name, True) or _is_done(run, name):
            continue
        logger.info(f"== {name}")
        started = time.perf_counter()
        # Training uses every process; the rest is quick or must be written once.
        stage() if name in ("pretrain", "train") else _alone(run, stage)
        if run.state.is_main_process:
            record = {"seconds": time.perf_counter() - started, "values": recipe.sections(*OUTPUTS[name][1])}
            (run.folder / "stages").mkdir(exist_ok=True)
            write_json(run.folder / "stages" / f"{name}.json", record)
        run.state.wait_for_everyone()


def _alone(run: Run, stage: Callable[[], None]) -> None:
    """Runs a stage on the main process while the others wait."""
    if run.state.is_main_process:
        stage()
    run.state.wait_for_everyone()


def _is_done(run: Run, name: str) -> bool:
    record = run.folder / "stages" / f"{name}.json"
    output, sections = OUTPUTS[name]
    if not record.exists() or not (run.folder / output).exists():
        return False
    now, then = run.recipe.sections(*sections), json.loads(record.read_text())["values"]
    changed = [
        f"{section}.{key}" if isinstance(value, dict) else section
        for section, value in now.items()
        for key in (value if isinstance(value, dict) else [None])
        if (value.get(key) if isinstance(value, dict) else value)
        != (then.get(section, {}).get(key) if isinstance(value, dict) else then.get(section))
    ]
    if changed:
        raise ValueError(
            f"{run.folder / output} was made with other values of {', '.join(f'`{c}`' for c in changed)}. "
            f"Add `--redo {name}` to make it and what follows again, or choose another `output_dir`."
        )
    logger.info(f"== {name}: done already ({run.folder / output})")
    return True


def _forget(run: Run, stages: tuple[str, ...]) -> None:
    """Removes the outputs of stages that are to run again, with their checkpoints and logs."""
    working = {"pretrain": "pretrain", "train": "train", "search": "search"}
    for name in stages:
        (run.folder / "stages" / f"{name}.json").unlink(missing_ok=True)
        output = run.folder / OUTPUTS[name][0]
        if output.name == "config.json":
            shutil.rmtree(output.parent, ignore_errors=True)
        output.unlink(missing_ok=True)
        if name in working:
            shutil.rmtree(run.folder / working[name], ignore_errors=True)
