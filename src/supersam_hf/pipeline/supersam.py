"""The verbs and the pipeline of SuperSAM: which stages there are, in which order."""

from ..recipe import Recipe
from . import report, stages
from .adapt import adapt
from .context import Run
from .runner import Stage, on_main_process, run_stage, run_stages


STAGES = {
    "pretrain": Stage(
        stages.pretrain, "pretrained/config.json", ("data", "pretrain", "holdout_images"), "pretrain", parallel=True
    ),
    "rank-layers": Stage(
        stages.rank_layers, "ranking.json", ("data", "space", "rank_layers", "holdout_images"), "ranking"
    ),
    "reorder": Stage(stages.reorder, "reordered/config.json", ("data", "space", "reorder")),
    "evaluate-before": Stage(
        report.evaluate_before, "evaluation_before.json", ("data", "evaluate"), "evaluation/before.jsonl"
    ),
    "train": Stage(stages.train, "supernet/config.json", ("data", "train", "holdout_images"), "train", parallel=True),
    "search": Stage(stages.search, "search.json", ("data", "search", "holdout_images"), "search"),
    "extract": Stage(stages.extract, "subnet/config.json", ()),
    "report": Stage(report.report, "results.json", ("data", "evaluate", "measure"), "evaluation/report.jsonl"),
}


def run_verb(verb: str, recipe: Recipe, *, redo: str | None = None, subnet: str = "") -> None:
    """Runs one verb of the command line."""
    run = Run(recipe)
    if verb == "run":
        run_pipeline(run, redo)
    elif verb == "finetune":
        stages.finetune(run)
    elif verb == "adapt":
        adapt(run)
    elif verb == "evaluate":
        on_main_process(run, report.evaluate)
    elif verb == "extract":
        on_main_process(run, lambda run: stages.extract(run, subnet))
    elif verb == "measure":
        on_main_process(run, lambda run: stages.measure(run, subnet))
    else:
        run_stage(run, STAGES[verb])


def run_pipeline(run: Run, redo: str | None = None) -> None:
    """All stages in order; `ValueError` if an output was made with other values, or `redo` is no stage."""
    recipe = run.recipe
    switched_on = {
        "pretrain": recipe.pretrain.enabled,
        "rank-layers": recipe.rank_layers.enabled,
        "evaluate-before": recipe.evaluate.before,
    }
    run_stages(run, STAGES, skip=[name for name, on in switched_on.items() if not on], redo=redo)
