"""What the card of a SuperSAM model says in sentences, from the files of its run."""

from collections.abc import Iterable
from typing import Any

from ...escape import prose
from ...models.supersam import ElasticSpace
from ...training.milestone import milestone_line
from .lines import ENGINES, seed_limit, training_line
from .records import RunRecords, source
from .supersam_record import seeds


GOALS = {"quality": "highest mIoU", "params": "fewest parameters", "macs": "fewest multiply-accumulates"}


def why(records: RunRecords, space: ElasticSpace | None) -> list[str]:
    lines = []
    ranking, reorder = records.read("ranking.json"), records.stages.get("reorder")
    if ranking is not None and space is not None:
        lines.append(
            f"Why these layers: the last column is the mIoU of the original{_ranked_on(records)} with that layer "
            f"alone removed ({ranking['full']['quality']:.4f} with all). Removing more of them, the cheapest first, "
            f"proposed as prunable: {_listed(ranking['prunable_layers'])}."
        )
        if list(space.prunable_layers) != ranking["prunable_layers"]:
            lines.append(f"This supernet lets go of: {_listed(space.prunable_layers)}.")
    if reorder is not None:
        lines.append(_reordered(reorder["values"]["reorder"]))
    return lines


def _ranked_on(records: RunRecords) -> str:
    """How many held-out images the layers were ranked on, where the stage is recorded."""
    values = records.stages.get("rank-layers", {}).get("values")
    if values is None:
        return ""
    return f" on {min(values['rank_layers']['num_images'], values['holdout_images']):d} images kept out of training"


def _listed(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values) or "none"


def _reordered(args: dict[str, Any]) -> str:
    if args["method"] == "none":
        return "Why these widths: channels were left in their order; a narrower layer keeps the leading ones."
    by = {"wanda": "Wanda (weights times activations)", "magnitude": "the magnitude of their weights"}[args["method"]]
    return f"Why these widths: channels were sorted by {by} before training; a narrower layer keeps the leading ones."


def search_lines(records: RunRecords) -> list[str]:
    found = records.search
    if found is None:
        return []
    counts, holdout = found["counts"], found["context"].get("holdout_images")
    lines = [
        f"{ENGINES[found['engine']]} looked for the {GOALS[found['goal']]} within the budget: {counts['asks']:,} "
        f"subnets proposed, {counts['rejected']:,} of them rejected by their cost, {counts['repeated']:,} repeated, "
        f"{counts['trials']:,} run on images, {counts['feasible']:,} within the budget. Seed {found['seed']:d}."
    ]
    if holdout is not None:
        lines.append(f"It saw {holdout:,} images of the training split that were kept out of training, and no other.")
    if found["best"] is not None:
        lines.append(f"mIoU of the best on those images: {found['best']['quality']:.4f}.")
    return lines


def training_lines(records: RunRecords, *more: str) -> list[str]:
    """The trainings that a model went through: of those beside the supernet's, the ones that are named."""
    lines = []
    for stage, what in (
        ("pretrain", _pretrained(records)),
        ("bimask", "The search and the training of what it found"),
        ("recover", "Recovery of the found network alone"),
        ("finetune", "Fine-tuning"),
    ):
        args = records.trained(stage) if stage in ("pretrain", *more) else None
        if args is not None:
            lines.append(training_line(what, args))
    args = records.trained("train")
    if args is not None:
        how = "one optimiser step a batch" if args["mode"] == "accumulate" else "an optimiser step after each"
        what = f"Supernet, by the sandwich rule (largest, smallest, {args['num_sampled']:d} sampled a batch; {how})"
        lines.insert(min(1, len(lines)), training_line(what, args))
    return lines if records.milestone is None else [*lines, prose(milestone_line(records.milestone))]


def _pretrained(records: RunRecords) -> str:
    encoder = (records.trained("pretrain") or {}).get("encoder")
    return "Trained from nothing" if encoder is None else f"Trained around {source(encoder, records.folder).link()}"


def prompt(records: RunRecords) -> str:
    args = records.trained_on or records.evaluated_on
    return "box" if args is None else args["prompt"]


def space_lines(space: ElasticSpace) -> list[str]:
    thetas = _listed(sorted(set(space.prune_probability)))
    left_out = f", each with probability {thetas} in training" if space.prunable_layers else ""
    lines = [
        f"{space.num_hidden_layers} layers. May be left out: {_listed(space.prunable_layers)}{left_out}. "
        f"Always whole: {_listed(space.protected_layers)}.",
        f"MLP windows: {_listed(space.mlp_windows)}, or all {space.mlp_dim}.",
    ]
    if space.attention_windows:
        heads = space.num_attention_heads
        windows = f"{_listed(space.head_windows)} channels in each of {heads} heads, or all {space.head_dim}"
        lines.append(f"Attention windows: {windows}.")
    return lines


def quality_lines(records: RunRecords, weights: str | None) -> list[str]:
    lines = []
    names = [name for name, row in records.rows.items() if row["kind"] == "sampled"]
    sampled = [row["miou"] for name in names if (row := records.measured(name, weights)) is not None]
    if sampled:
        lines.append(f"mIoU of {len(sampled)} sampled subnets: {min(sampled):.4f} to {max(sampled):.4f}.")
    if records.search is not None:
        lines.append("*mIoU in the search* is that on the images which the points were chosen by, *mIoU* on others.")
    return lines


def limits(records: RunRecords, cut: bool) -> list[str]:
    data = records.data
    tested = "on other images and prompts it was not tested"
    prompts = f"{prose(prompt(records))} prompts"
    lines = [] if data is None else [f"Trained for {data.link('datasets/')} and {prompts}; {tested}."]
    if cut:
        lines.append("Only the image encoder was cut; prompt encoder and mask decoder have their full size.")
    args = records.trained("train")
    if args is not None and args["loss"]["iou_weight"] == 0:
        lines.append(
            "Only the single mask (`multimask_output=False`) was trained, and not the predicted IoU, by which "
            "automatic mask generation ranks."
        )
    if records.results.get("hardware") and any("latency" in row for row in records.rows.values()):
        lines.append("Latency holds for the machine named above; gains differ on others.")
    return [*lines, seed_limit(seeds(records))]


__all__ = ["limits", "prompt", "quality_lines", "search_lines", "space_lines", "training_lines", "why"]
