"""Sentences that the cards of both methods share: data, training, search, cost."""

from collections.abc import Sequence
from typing import Any

from ...escape import code, prose
from ...hub.facts import StageCost
from .records import RunRecords


ENGINES = {"opentuner": "OpenTuner", "random": "Random search", "evolution": "Evolutionary search"}


def data_lines(records: RunRecords, *, objects: bool) -> list[str]:
    """What was trained and evaluated on.

    Args:
        objects (`bool`): Masks of prompted objects; False: labelled images.
    """
    args, evaluated, counts, lines = records.trained_on, records.evaluated_on, records.results.get("data", {}), []
    if args is not None and records.data is not None:
        # The report counts the images of its own dataset.
        counted = "train_images" in counts and records.data == records.evaluated
        images = f"{counts['train_images']:,} images, " if counted else ""
        lines.append(f"Trained on {records.data.link('datasets/')}: {images}split {code(args['train_split'])}.")
    if evaluated is not None and records.evaluated is not None:
        images = f"{counts['eval_images']:,} images" if "eval_images" in counts else "all images"
        shown = f" with {_num_objects(records):,} objects" if objects else ""
        name = records.evaluated.link("datasets/")
        lines.append(f"Evaluated on {name}: {images}{shown}, split {code(evaluated['eval_split'])}.")
    shared = evaluated or args
    return lines + (prompt_lines(shared) if objects and shared is not None else [])


def prompt_lines(args: dict[str, Any]) -> list[str]:
    """How objects were chosen, cropped and prompted."""
    lines = ["Prompt: one random foreground pixel an object."]
    if args["prompt"] == "box":
        lines = [f"Prompt: the tight box of each object, grown by 0 to {args['box_padding']:d} px a side."]
    lines.append(f"At most {args['max_objects']:d} objects an image, each of {args['min_area']:d} px or more.")
    if args["crop_train"] is not None:
        low, high = args["crop_train"]
        lines.append(f"Training crops random squares of {low:d} to {high:d} px.")
    if args["crop_eval"] is not None:
        lines.append(f"Evaluation crops the central square of {args['crop_eval']:d} px.")
    return lines


def training_line(what: str, args: dict[str, Any]) -> str:
    """Steps, batch, optimiser and seed of one training."""
    batch = args["batch_size"] * args["gradient_accumulation_steps"]
    precision = "" if args["mixed_precision"] == "no" else f", {prose(args['mixed_precision'])}"
    count = args.get("processes")
    processes = "" if count is None else " (one process)" if count == 1 else f" ({count:d} processes)"
    return (
        f"{what}: {args['max_steps']:,} steps of {batch:d} images a process{processes}, AdamW at a learning rate of "
        f"{args['learning_rate']:g} ({prose(args['lr_schedule'])} decay){precision}, seed {args['seed']:d}."
    )


def cost_note(costs: Sequence[StageCost], hardware: dict[str, Any] | None) -> str:
    """Where the time was spent, how energy was measured, and what was done twice."""
    methods = dict.fromkeys(cost.method for cost in costs if cost.method is not None)
    factors = dict.fromkeys(_factor(cost) for cost in costs if cost.emissions_kg is not None)
    said = [f"On {prose(hardware['device'])}, {hardware['cores']:d} cores."] if hardware is not None and costs else []
    said += [f"Energy: {prose(method)}." for method in methods]
    said += [f"CO₂ equivalent: {factor}." for factor in factors]
    resumed = ", ".join(f"`{cost.name}` in {cost.sittings:d}" for cost in costs if cost.sittings > 1)
    if resumed:
        said.append(f"Sittings: {resumed}; what was done twice after an interruption is counted.")
    return " ".join(said)


def _factor(cost: StageCost) -> str:
    whose = "by a given factor" if cost.country is None else f"by the mean electricity of {prose(cost.country)}"
    return whose if cost.kg_per_kwh is None else f"{whose}, {cost.kg_per_kwh:g} kg a kWh"


def seed_limit(seeds: dict[str, int]) -> str:
    """One run says nothing of the spread."""
    named = ", ".join(f"{name} {seed:d}" for name, seed in seeds.items())
    return f"One run ({named}): how much another seed would change is not known." if named else "One run."


def _num_objects(records: RunRecords) -> int:
    return next(iter(records.rows.values()))["num_objects"]


__all__ = ["ENGINES", "cost_note", "data_lines", "prompt_lines", "seed_limit", "training_line"]
