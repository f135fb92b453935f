"""One function a stage. Each reads what earlier stages left in the run's folder and leaves its own output there."""

import shutil
from collections.abc import Sequence
from typing import Any

from tqdm.auto import tqdm

from ..elastic.cost import SamShape, count_macs, count_parameters
from ..elastic.importance import LayerRanking, count_evaluations, most_removed
from ..elastic.importance import rank_layers as rank
from ..elastic.reorder import reorder as reorder_channels
from ..evaluation import SubnetEvaluator, calibration_images
from ..files import fingerprint, write_json
from ..measure import latency_of
from ..models.supersam import ElasticSpace, Subnet, SuperSamModel
from ..oneshot.batches import calibration_batches, prompt_loss
from ..plots import plot_layer_ranking, plot_search, plot_subnet, plot_training
from ..search import Objective, SearchResult, run_search
from ..search.near_budget import Limits
from ..training import finetune as finetuning
from ..training import pretrain as pretraining
from ..training.sandwich import train_sandwich
from .agreement import AGREEMENT
from .budget import check_budget, limits_of
from .context import Run, stands_alone
from .journal import TOGETHER, Journal
from .measurement import write_measurement
from .progress import holdout_metrics
from .runner import on_main_process, stage_record


def pretrain(run: Run) -> None:
    """`pretrained/`: a small SAM of one's own."""
    args = run.recipe.pretrain
    folder, meter = run.folder / "pretrain", run.meter
    model = pretraining.pretrain(pretraining.new_sam(args), run.train_loader, args, folder, meter=meter)
    run.save_model(model, "pretrained")


def rank_layers(run: Run) -> None:
    """`ranking.json`, `ranking.png`: what each layer's removal costs on the holdout; the proposed prunable set."""
    args, model = run.recipe.rank_layers, run.original()
    # Which layers may go is the question here; only the protected ones are given.
    protected = run.recipe.space.protected_layers
    given = {} if protected is None else {"protected_layers": tuple(protected)}
    space = ElasticSpace.for_config(model.config.vision_config, prunable_layers=(), **given)
    holdout = run.holdout_loader(args.num_images)
    evaluator = SubnetEvaluator(model, holdout, cache_gb=run.recipe.cache_gb)
    context = {**run.recipe.parts("data.holdout", "holdout_images"), "num_images": args.num_images}
    context["weights"] = fingerprint(model)
    journal = Journal(run.folder / "ranking" / "evaluations.jsonl", context, run.state)
    max_removed, shape = min(args.max_removed, most_removed(space)), SamShape.from_config(model.config)
    total = count_evaluations(space, max_removed)
    with tqdm(total=total, desc="rank layers", disable=not run.state.is_main_process) as bar:

        def qualities(subnets: Sequence[Subnet]) -> list[float]:
            items = {subnet.to_json(): subnet for subnet in subnets}
            found = journal.get_groups(items, evaluator.mious, TOGETHER, bar.update)
            return list(found.values())

        ranking = rank(
            space,
            qualities,
            lambda subnet: count_parameters(shape, subnet),
            max_removed=max_removed,
            max_drop=args.max_drop,
            max_prunable=args.max_prunable,
        )
    on_main_process(run, lambda run: _write_ranking(run, ranking))


def _write_ranking(run: Run, ranking: LayerRanking) -> None:
    quality = AGREEMENT if run.recipe.data.unlabelled else "mIoU"
    plot_layer_ranking(ranking.to_dict(), run.folder / "ranking.png", quality)
    write_json(run.folder / "ranking.json", ranking.to_dict())
    print(f"proposed prunable layers: {ranking.prunable_layers} (θ = 0.5 each); see {run.folder}/ranking.json")


def reorder(run: Run) -> None:
    """`reordered/`: the original with its elastic channels sorted, and the elastic space in its config.

    Raises:
        ValueError: If no subnet of the space, with the prunable layers that were ranked, keeps the search's budget.
    """
    args, model = run.recipe.reorder, run.original()
    space = run.space(model)
    check_budget(model.config, space, run.recipe.search.budget)
    batches: Any = ()
    if args.method == "wanda":
        batches = calibration_images(run.calibration_loader(), args.num_images)
    elif args.method == "taylor":
        batches = calibration_batches(run.calibration_loader(), args.num_images, model.device)
    reorder_channels(model, space, args.method, batches, combine=args.combine, loss=prompt_loss)
    run.save_model(model, "reordered", space)


def train(run: Run) -> None:
    """`supernet/`: the supernet, trained by the sandwich rule; `training.png`."""
    args, model = run.recipe.train, run.untrained()
    space = run.space(model)
    metrics = holdout_metrics(run, args, {"largest": space.largest(), "smallest": space.smallest()})
    number = run.recipe.reorder.num_images
    # Not each process's own share: all must find the same order.
    calibration = calibration_images(run.calibration_loader(), number) if args.reorder_every else ()
    model = train_sandwich(
        model,
        space,
        run.train_loader,
        args,
        run.folder / "train",
        evaluate=metrics,
        calibration=calibration,
        meter=run.meter,
        milestone_file=run.folder / "milestone.json",
        teacher=run.teacher(args.mixed_precision),
        limits=near_limits(run, model, space),
    )
    run.save_model(model, "supernet", space)
    if run.state.is_main_process:
        plot_training(run.folder / "train" / "log.jsonl", run.folder / "training.png")


def near_limits(run: Run, model: SuperSamModel, space: ElasticSpace) -> Limits | None:
    """The budget near which training samples; None where the recipe wants none, or states none.

    Raises:
        ValueError: If no subnet of the space keeps it.
    """
    if not run.recipe.train.near_budget:
        return None
    check_budget(model.config, space, run.recipe.search.budget)
    return limits_of(model.config, space, run.recipe.search.budget)


def forget_recovered(run: Run) -> None:
    """Removes what was trained from an earlier subnet; on the main process."""
    for name in ("recovered", "recover"):
        shutil.rmtree(run.folder / name, ignore_errors=True)
    stage_record(run.folder, "recover").unlink(missing_ok=True)


def recover(run: Run) -> None:
    """`recovered/`: the found subnet, trained alone."""
    args, folder, model = run.recipe.recover, run.folder / "recover", run.found()
    metrics = holdout_metrics(run, args, {"found": None})
    options: dict[str, Any] = {
        "evaluate": metrics,
        "meter": run.meter,
        "teacher": run.teacher(str(args.mixed_precision)),
    }
    model = finetuning.finetune(model, run.train_loader, args, folder, description="recover", **options)
    run.save_model(model, "recovered")


def finetune(run: Run) -> None:
    """`finetuned/`: the extracted subnet if there is one, else the supernet's largest subnet, trained plainly."""
    model = run.found() if (run.folder / "subnet" / "config.json").exists() else run.supernet()
    space = model.config.elastic_space
    args, folder = run.recipe.finetune, run.folder / "finetune"
    teacher = run.teacher(str(args.mixed_precision))
    model = finetuning.finetune(model, run.train_loader, args, folder, meter=run.meter, teacher=teacher)
    run.save_model(model, "finetuned", None if space is None else ElasticSpace.from_dict(space))


def search(run: Run) -> None:
    """`search.json`, `search/trials.jsonl`, `search.png`: the best subnet within the budget, by holdout mIoU.

    Raises:
        ValueError: If no subnet that was tried keeps the budget, saying which came nearest.
    """
    model, args, measure = run.supernet(), run.recipe.search, run.recipe.measure
    space, shape = run.space(model), SamShape.from_config(model.config)
    timing = {"batch_size": measure.batch_size, "warmup": measure.warmup, "repeats": measure.repeats}
    evaluator = SubnetEvaluator(model, run.holdout_loader(), space=space, cache_gb=run.recipe.cache_gb)
    objective = Objective(
        space,
        args.budget,
        params=lambda subnet: count_parameters(shape, subnet),
        macs=lambda subnet: count_macs(shape, subnet),
        quality=evaluator.miou,
        latency_ms=None if args.max_latency_ms is None else latency_of(model, **timing),
        goal=args.goal,
        qualities=evaluator.mious,
    )
    # Qualities in the log hold for these weights and images only.
    context = {**run.recipe.parts("data.holdout", "holdout_images"), "weights": fingerprint(model)}
    result = run_search(objective, args, run.folder / "search" / "trials.jsonl", context=context, state=run.state)
    on_main_process(run, lambda run: _write_search(run, result))


def _write_search(run: Run, result: SearchResult) -> None:
    result.save(run.folder / "search.json")
    plot_search([ask.evaluation for ask in result.asks], run.folder / "search.png")
    result.subnet()  # raises if nothing keeps the budget
    best = result.best
    assert best is not None
    share = best.params / result.objective.largest.params
    quality = AGREEMENT if run.recipe.data.unlabelled else "mIoU"
    smallest = ", the smallest subnet of this space" if best.subnet == result.objective.space.smallest() else ""
    print(
        f"found {best.params:,} parameters ({share:.1%} of the largest{smallest}), holdout {quality} "
        f"{best.quality:.4f}; {result.summary()}; see {run.folder}/search.json"
    )


def extract(run: Run, subnet: str = "found") -> None:
    """`subnet/`: a subnet as a standalone model with its processor; `subnet.png`."""
    model = run.supernet()
    space = run.space(model)
    chosen = run.subnet(subnet, space)
    extracted: SuperSamModel = model.extract(chosen)
    run.save_model(extracted, "subnet")
    forget_recovered(run)
    plot_subnet(space, {"largest": space.largest(), subnet: chosen}, run.folder / "subnet.png")
    params, share = count_parameters(model.config, chosen), count_parameters(model.config)
    print(f"extracted {params:,} parameters ({params / share:.1%} of the largest) to {run.folder}/subnet")


def measure(run: Run, subnet: str = "largest") -> None:
    """`measurement.json`: size, work, latency, throughput and peak memory of one subnet, extracted."""
    model, args = run.supernet(), run.recipe.measure
    # An extracted subnet is measured as it is.
    extracted = model if stands_alone(model.config) else model.extract(run.subnet(subnet, run.space(model)))
    write_measurement(run, args, extracted)
