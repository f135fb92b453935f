"""The verbs and the pipeline of OFB: which stages there are, in which order."""

from ..ofb_recipe import OfbRecipe
from ..spread import on_main
from . import ofb_report, ofb_stages
from .ofb_context import OfbRun
from .ofb_preflight import ofb_preflight, parts_read
from .page import write_page
from .preflight import refuse, unopened
from .run_record import sitting
from .runner import Stage, on_main_process, run_stage, run_stages


DATA = ("data.train", "holdout_images")
STAGES = {
    "pretrain": Stage(
        ofb_stages.pretrain, "pretrained/config.json", (*DATA, "pretrain"), working="pretrain", parallel=True
    ),
    "search": Stage(
        ofb_stages.search, "searched/config.json", (*DATA, "space", "search"), working="search", parallel=True
    ),
    "train-whole": Stage(
        ofb_stages.train_whole, "whole/config.json", (*DATA, "whole", "finetune"), working="train-whole", parallel=True
    ),
    "prune": Stage(ofb_stages.prune, "pruned/config.json", (*DATA, "prune")),
    "extract": Stage(ofb_stages.extract, "subnet/config.json", ()),
    "finetune": Stage(
        ofb_stages.finetune, "finetuned/config.json", (*DATA, "finetune"), working="finetune", parallel=True
    ),
    "report": Stage(
        ofb_report.report,
        "results.json",
        ("data.eval", "evaluate", "measure"),
        "evaluation/report.jsonl",
        parallel=True,
    ),
}


def run_verb(verb: str, recipe: OfbRecipe, *, redo: str | None = None, given: str | None = None) -> None:
    """Runs one verb of the command line; `given` are its values as YAML, for the run's folder.

    Raises:
        ValueError: Before anything is done, naming everything that is known to fail.
    """
    check(verb, recipe, redo)
    run = OfbRun(recipe)
    with sitting(run, given, reads=parts_read(recipe, STAGES if verb == "run" else [verb])):
        _run_verb(run, verb, redo)
    if verb == "run":
        on_main_process(run, lambda run: print(f"the run on one page: {write_page(run.folder)}"))


def check(verb: str, recipe: OfbRecipe, redo: str | None = None) -> None:
    """Raises `ValueError` on all processes, naming everything that is known to fail; nothing is written."""
    run: OfbRun = unopened(OfbRun, recipe)
    on_main(run.state, lambda: refuse(ofb_preflight(verb, run, STAGES, switched_off(recipe), redo).problems))


def _run_verb(run: OfbRun, verb: str, redo: str | None) -> None:
    if verb == "run":
        run_pipeline(run, redo)
    elif verb == "evaluate":
        ofb_report.evaluate(run)
    elif verb == "measure":
        on_main_process(run, ofb_stages.measure)
    else:
        run_stage(run, verb, STAGES[verb])


def run_pipeline(run: OfbRun, redo: str | None = None) -> None:
    """All stages in order; `ValueError` if an output was made with other values, or `redo` is no stage."""
    run_stages(run, STAGES, skip=switched_off(run.recipe), redo=redo)


def switched_off(recipe: OfbRecipe) -> list[str]:
    """The stages that the recipe leaves out of the pipeline."""
    once = recipe.method == "one-shot"
    on = {
        "pretrain": recipe.pretrain.enabled,
        "search": not once,
        "train-whole": once and recipe.whole.enabled,
        "prune": once,
        "finetune": recipe.retrain,
    }
    return [name for name in on if not on[name]]
