"""How far a run is, stage by stage, from the files of its folder."""

import json
from pathlib import Path
from typing import Any

from ..plots.common import read_log
from .costs import cost_file


STAGES = {
    "supersam": (
        *("pretrain", "rank-layers", "reorder", "evaluate-before", "train", "search", "extract", "prune", "recover"),
        "report",
    ),
    "ofb": ("pretrain", "search", "train-whole", "prune", "extract", "finetune", "report"),
}
# Verbs that are no stage of a pipeline, and the file that shows that they are done.
APART = {"bimask": "bimask.json", "prune": "prune.json", "finetune": "finetuned/config.json", "adapt": "adapt.json"}
# What a stage writes down one by one, and what a line of it is.
JOURNALS = {
    "rank-layers": ("ranking/evaluations.jsonl", "evaluation"),
    "evaluate-before": ("evaluation/before.jsonl", "model"),
    "report": ("evaluation/report.jsonl", "model"),
}


def stage_states(folder: Path, method: str, recipe: dict[str, Any]) -> list[dict[str, str]]:
    """The stages that the recipe asks for: done, begun (and how far), or still to come; also what was done apart from
    the pipeline, alone if nothing of the pipeline was."""
    off = {"pretrain": not recipe["pretrain"]["enabled"], "finetune": not recipe.get("retrain", True)}
    once = recipe.get("method") == "one-shot"
    if method == "ofb":
        whole = recipe.get("whole", {}).get("enabled", True)
        off |= {"search": once, "train-whole": not (once and whole), "prune": not once}
    else:
        off |= {
            **dict.fromkeys(("reorder", "train", "search", "extract"), once),
            "rank-layers": once or not recipe["rank_layers"]["enabled"],
            "evaluate-before": once or not recipe["evaluate"]["before"],
            "prune": not once,
            "recover": not recipe.get("recover", {}).get("enabled", False),
        }
    left = {name: f"stages/{name}.json" for name in STAGES[method] if not off.get(name)}
    apart = {n: f for n, f in APART.items() if n not in STAGES[method] and cost_file(folder, n).is_file()}
    if apart and not any(
        (folder / file).is_file() or cost_file(folder, name).is_file() for name, file in left.items()
    ):
        left = {}
    return [_stage(folder, name, file, recipe) for name, file in (left | apart).items()]


def _stage(folder: Path, name: str, left: str, recipe: dict[str, Any]) -> dict[str, str]:
    """One stage, which leaves the file `left` once it is done."""
    if (folder / left).is_file():
        return {"name": name, "state": "done", "detail": ""}
    if not cost_file(folder, name).is_file():
        return {"name": name, "state": "to come", "detail": ""}
    return {"name": name, "state": "begun", "detail": _how_far(folder, name, recipe)}


def _how_far(folder: Path, name: str, recipe: dict[str, Any]) -> str:
    """Of a stage that was begun, by its log or its journal."""
    if name in JOURNALS:
        file, what = JOURNALS[name]
        count = len(_lines(folder / file)) - 1  # the first says what the others hold for
        return f"{count:,} {what}{'s' * (count != 1)}" if count > 0 else ""
    settings, log = recipe.get(name, {}), folder / name / "log.jsonl"
    if "trials" in settings:
        trials = [ask for ask in _lines(folder / name / "trials.jsonl")[1:] if ask["trial"] is not None]
        return f"trial {len(trials):,} of {settings['trials']:,}" if trials else ""
    lines = read_log(log) if log.is_file() else []
    return f"step {lines[-1]['step']:,} of {_planned_steps(name, recipe):,}" if lines else ""


def _planned_steps(name: str, recipe: dict[str, Any]) -> int:
    """Of a training; what a section leaves open is as in the training that it follows."""
    if name == "train-whole":
        return recipe["whole"]["max_steps"] or max(1, recipe["finetune"]["max_steps"] // 3)
    return recipe[name]["max_steps"]


def _lines(path: Path) -> list[dict[str, Any]]:
    """Of a journal; what another process is writing just now is left out, and left alone."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def progress(stages: list[dict[str, str]], outcome: str | None) -> str:
    """How far the run is, and how its last sitting ended."""
    begun = [stage for stage in stages if stage["state"] == "begun"]
    done = [stage["name"] for stage in stages if stage["state"] == "done"]
    if begun and outcome != "finished":
        detail = f", {begun[-1]['detail']}" if begun[-1]["detail"] else ""
        how = {None: "Under way", "interrupted": "Interrupted", "failed": "Failed"}[outcome]
        return f"{how}: {begun[-1]['name']}{detail}."
    if not done:
        return "No model has been reported on yet."
    return f"Done: {', '.join(done)}. No model has been reported on yet."


__all__ = ["progress", "stage_states"]
