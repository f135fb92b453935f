"""Sentences that the cards of both methods share: data, training, search, cost."""

from typing import Any

from .records import RunRecords


ENGINES = {"opentuner": "OpenTuner", "random": "Random search", "evolution": "Evolutionary search"}


def data_lines(records: RunRecords, *, objects: bool) -> list[str]:
    """What was trained and evaluated on.

    Args:
        objects (`bool`): Masks of prompted objects; False: labelled images.
    """
    args, counts, data = records.trained_on, records.results.get("data", {}), records.data
    if data is None:
        return []
    name, lines = data.link("datasets/"), []
    if args is not None:
        images = f"{counts['train_images']:,} images, " if "train_images" in counts else ""
        lines.append(f"Trained on {name}: {images}split `{args['train_split']}`.")
    evaluated = records.evaluated_on
    if evaluated is not None:
        images = f"{counts['eval_images']:,} images" if "eval_images" in counts else "all images"
        shown = f" with {_num_objects(records):,} objects" if objects else ""
        lines.append(f"Evaluated on {name}: {images}{shown}, split `{evaluated['eval_split']}`.")
    shared = evaluated or args
    return lines + (prompt_lines(shared) if objects and shared is not None else [])


def prompt_lines(args: dict[str, Any]) -> list[str]:
    """How objects were chosen, cropped and prompted."""
    lines = ["Prompt: one random foreground pixel an object."]
    if args["prompt"] == "box":
        lines = [f"Prompt: the tight box of each object, grown by 0 to {args['box_padding']} px a side."]
    lines.append(f"At most {args['max_objects']} objects an image, each of {args['min_area']} px or more.")
    if args["crop_train"] is not None:
        low, high = args["crop_train"]
        lines.append(f"Training crops random squares of {low} to {high} px.")
    if args["crop_eval"] is not None:
        lines.append(f"Evaluation crops the central square of {args['crop_eval']} px.")
    return lines


def training_line(what: str, args: dict[str, Any]) -> str:
    """Steps, batch, optimiser and seed of one training."""
    batch = args["batch_size"] * args["gradient_accumulation_steps"]
    precision = "" if args["mixed_precision"] == "no" else f", {args['mixed_precision']}"
    return (
        f"{what}: {args['max_steps']:,} steps of {batch} images a process, AdamW at a learning rate of "
        f"{args['learning_rate']:g} ({args['lr_schedule']} decay){precision}, seed {args['seed']}."
    )


def cost_note(records: RunRecords) -> str:
    """Where the time was spent, and how energy was measured."""
    ran_on = records.results.get("hardware")
    methods = dict.fromkeys(cost.method for cost in records.costs if cost.method is not None)
    on = [] if ran_on is None else [f"On {ran_on['device']}, {ran_on['cores']} cores."]
    return " ".join([*on, *(f"Energy: {method}." for method in methods)])


def seed_limit(seeds: dict[str, int]) -> str:
    """One run says nothing of the spread."""
    named = ", ".join(f"{name} {seed}" for name, seed in seeds.items())
    return f"One run ({named}): how much another seed would change is not known." if named else "One run."


def _num_objects(records: RunRecords) -> int:
    return next(iter(records.rows.values()))["num_objects"]


__all__ = ["ENGINES", "cost_note", "data_lines", "prompt_lines", "seed_limit", "training_line"]
