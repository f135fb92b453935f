"""The verbs and the pipeline of SuperSAM: which stages there are, in which order."""

from collections.abc import Mapping

from ..recipe import Recipe
from ..spread import on_main
from . import report, stages
from .adapt import adapt
from .bimask import bimask
from .context import Run
from .page import write_page
from .preflight import refuse, unopened
from .prune import prune
from .run_record import sitting
from .runner import Stage, on_main_process, run_stage, run_stages, stage_record
from .supersam_preflight import parts_read, preflight


# What training and the report read of the search: near which sizes they sample. What was evaluated before training
# stays true with another budget; of it, the report takes the subnets that it has as well.
BUDGET = ("search.max_params", "search.max_macs")
STAGES = {
    "pretrain": Stage(
        stages.pretrain,
        "pretrained/config.json",
        ("data.train", "pretrain", "holdout_images"),
        "pretrain",
        parallel=True,
    ),
    "rank-layers": Stage(
        stages.rank_layers,
        "ranking.json",
        ("data.holdout", "space.protected_layers", "rank_layers", "holdout_images"),
        "ranking",
        parallel=True,
    ),
    "reorder": Stage(stages.reorder, "reordered/config.json", ("data.train", "space", "reorder", "holdout_images")),
    "evaluate-before": Stage(
        report.evaluate_before,
        "evaluation_before.json",
        ("data.eval", *(f"evaluate.{name}" for name in ("original", "num_sampled", "seed", "multimask", "subnets"))),
        "evaluation/before.jsonl",
        parallel=True,
        read_by=("report",),
    ),
    "train": Stage(
        stages.train,
        "supernet/config.json",
        ("data.train", "data.holdout", "train", "holdout_images", *BUDGET),
        "train",
        parallel=True,
        also=("milestone.json",),
    ),
    "search": Stage(
        stages.search, "search.json", ("data.holdout", "search", "holdout_images"), "search", parallel=True
    ),
    "extract": Stage(stages.extract, "subnet/config.json", ()),
    "prune": Stage(prune, "subnet/config.json", ("data.train", "prune", "holdout_images")),
    "recover": Stage(
        stages.recover,
        "recovered/config.json",
        ("data.train", "recover", "holdout_images"),
        "recover",
        parallel=True,
        read_by=("report",),
    ),
    "report": Stage(
        report.report,
        "results.json",
        ("data.eval", "evaluate", "measure", *BUDGET),
        "evaluation/report.jsonl",
        parallel=True,
    ),
}

# Trainings that are no part of the pipeline: verbs of their own.
LATER = {
    "bimask": Stage(bimask, "subnet/config.json", ("data.train", "bimask", "holdout_images"), "bimask", parallel=True),
    "finetune": Stage(
        stages.finetune,
        "finetuned/config.json",
        ("data.train", "finetune", "holdout_images"),
        "finetune",
        parallel=True,
    ),
}


def run_verb(
    verb: str, recipe: Recipe, *, redo: str | None = None, subnet: str = "", given: str | None = None
) -> None:
    """Runs one verb of the command line; `given` are its values as YAML, for the run's folder.

    Raises:
        ValueError: Before anything is done, naming everything that is known to fail.
    """
    check(verb, recipe, redo)
    run = Run(recipe)
    with sitting(run, given, reads=parts_read(STAGES if verb == "run" else [verb])):
        _run_verb(run, verb, redo, subnet)
    if verb == "run":
        on_main_process(run, lambda run: print(f"the run on one page: {write_page(run.folder)}"))


def check(verb: str, recipe: Recipe, redo: str | None = None, pipeline: Mapping[str, Stage] | None = None) -> None:
    """Raises `ValueError` on all processes, naming everything that is known to fail; nothing is written."""
    run: Run = unopened(Run, recipe)
    stages = STAGES if pipeline is None else pipeline
    on_main(run.state, lambda: refuse(preflight(verb, run, stages, switched_off(recipe), redo).problems))


def _run_verb(run: Run, verb: str, redo: str | None, subnet: str) -> None:
    if verb == "run":
        run_pipeline(run, redo)
    elif verb in LATER:
        run_stage(run, verb, LATER[verb])
    elif verb == "adapt":
        adapt(run)
    elif verb == "evaluate":
        report.evaluate(run)
    elif verb == "extract":
        extract(run, subnet)
    elif verb == "measure":
        on_main_process(run, lambda run: stages.measure(run, subnet))
    else:
        run_stage(run, verb, STAGES[verb])


def extract(run: Run, subnet: str) -> None:
    """`subnet/`: what the search found, as the pipeline's stage does; another than that is not the stage's output."""
    if subnet == "found":
        run_stage(run, "extract", STAGES["extract"])
    else:
        on_main_process(run, lambda run: stages.extract(run, subnet))
        on_main_process(run, lambda run: stage_record(run.folder, "extract").unlink(missing_ok=True))


def run_pipeline(run: Run, redo: str | None = None) -> None:
    """All stages in order; `ValueError` if an output was made with other values, or `redo` is no stage."""
    run_stages(run, STAGES, skip=switched_off(run.recipe), redo=redo)


def switched_off(recipe: Recipe) -> list[str]:
    """The stages that the recipe leaves out of the pipeline."""
    once = recipe.method == "one-shot"
    on = {
        "pretrain": recipe.pretrain.enabled,
        "rank-layers": not once and recipe.rank_layers.enabled,
        "reorder": not once,
        "evaluate-before": not once and recipe.evaluate.before,
        "train": not once,
        "search": not once,
        "extract": not once,
        "prune": once,
        "recover": recipe.recover.enabled,
    }
    return [name for name in on if not on[name]]
