"""The verbs and the pipeline of OFB: which stages there are, in which order."""

from ..ofb_recipe import OfbRecipe
from . import ofb_report, ofb_stages
from .ofb_context import OfbRun
from .runner import Stage, on_main_process, run_stage, run_stages


DATA = ("data", "holdout_images")
STAGES = {
    "pretrain": Stage(
        ofb_stages.pretrain, "pretrained/config.json", (*DATA, "pretrain"), working="pretrain", parallel=True
    ),
    "search": Stage(
        ofb_stages.search, "searched/config.json", (*DATA, "space", "search"), working="search", parallel=True
    ),
    "extract": Stage(ofb_stages.extract, "subnet/config.json", ()),
    "finetune": Stage(
        ofb_stages.finetune, "finetuned/config.json", (*DATA, "finetune"), working="finetune", parallel=True
    ),
    "report": Stage(ofb_report.report, "results.json", ("data", "evaluate", "measure"), "evaluation/report.jsonl"),
}


def run_verb(verb: str, recipe: OfbRecipe, *, redo: str | None = None) -> None:
    """Runs one verb of the command line."""
    run = OfbRun(recipe)
    if verb == "run":
        run_pipeline(run, redo)
    elif verb == "evaluate":
        on_main_process(run, ofb_report.evaluate)
    elif verb == "measure":
        on_main_process(run, ofb_stages.measure)
    else:
        run_stage(run, STAGES[verb])


def run_pipeline(run: OfbRun, redo: str | None = None) -> None:
    """All stages in order.

    Raises:
        ValueError: If stages would run at different precisions, an output was made with other values, or `redo` is no
            stage.
    """
    recipe = run.recipe
    switched_on = {"pretrain": recipe.pretrain.enabled, "finetune": recipe.retrain}
    skip = [name for name, on in switched_on.items() if not on]
    trainings = {"pretrain": recipe.pretrain, "search": recipe.search, "finetune": recipe.finetune}
    precisions = {name: args.mixed_precision for name, args in trainings.items() if name not in skip}
    if len(set(precisions.values())) > 1:
        raise ValueError(f"`mixed_precision` is {precisions} in these stages; one process runs at one precision.")
    run_stages(run, STAGES, skip=skip, redo=redo)
