"""SuperSAM, Figs. 4 and 5: sampled subnets of supernets that were trained in different ways."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from ..escape import figure, prose
from ..files import read_json
from ..plots.experiments import plot_supernets
from .comparison import Comparison
from .runs import ExperimentRuns
from .statistics import Spread, area_under_front, markdown, over_seeds


KINDS = ("original", "largest", "smallest", "sampled")
Number = "{:.4f}".format


def compare_fig4(runs: ExperimentRuns) -> Comparison:
    """mIoU over the same sampled subnets, mean over subnets for each seed, then over seeds; paired differences."""
    rows = _rows(runs)
    return _comparison(runs, rows, {}, fronts=False)


def compare_fig5(runs: ExperimentRuns) -> Comparison:
    """As [`compare_fig4`], with each supernet's Pareto frontier: its mean height over the parameters that all
    supernets reach."""
    rows = _rows(runs)
    args, ours = runs.args, [row for row in rows if row["kind"] != "original"]
    sizes = [[row["params"] for row in ours if row["variant"] == variant] for variant in args.variants]
    low, high = max(map(min, sizes)), min(map(max, sizes))
    areas = {
        variant: Spread.of([area_under_front(_of(ours, variant, seed), low, high) for seed in args.seeds])
        for variant in args.variants
    }
    return _comparison(runs, rows, {"range": [low, high], "frontier": areas}, fronts=True)


def _rows(runs: ExperimentRuns) -> list[dict[str, Any]]:
    """The named and the sampled subnets of every run, a line each."""
    lines = []
    for variant in runs.args.variants:
        for seed in runs.args.seeds:
            results = read_json(runs.path(variant, seed) / "results.json")
            keys = ("name", "kind", "params", "params_weights_only", "macs", "miou")
            found = [row for row in results["rows"] if row["kind"] in KINDS]
            lines += [{"variant": variant, "seed": seed, **{key: row[key] for key in keys}} for row in found]
    return lines


def _of(rows: Sequence[dict[str, Any]], variant: str, seed: int | None = None, kind: str | None = None) -> list[Any]:
    return [
        row
        for row in rows
        if row["variant"] == variant and seed in (None, row["seed"]) and kind in (None, row["kind"])
    ]


def _comparison(runs: ExperimentRuns, rows: list[dict[str, Any]], more: dict[str, Any], *, fronts: bool) -> Comparison:
    args = runs.args
    frontier: dict[str, Spread] = more.get("frontier", {})
    means = {variant: {kind: _over_seeds(runs, rows, variant, kind) for kind in KINDS} for variant in args.variants}
    numbers = {variant: frontier.get(variant, means[variant]["sampled"]) for variant in args.variants}
    what = "mean height of the frontier" if frontier else "mean over the sampled subnets"
    pairs = {f"{a} - {b}": _difference(numbers[a], numbers[b]) for a, b in args.pairs}
    table = _supernet_table(runs, rows, means, more) + _pair_table(runs, pairs, what)
    results = {"runs": rows, "means": {v: {k: vars(s) for k, s in means[v].items()} for v in means}}
    results |= {"pairs": {name: vars(spread) for name, spread in pairs.items()}}
    if frontier:
        results |= {"range": more["range"], "frontier": {v: vars(s) for v, s in frontier.items()}}
    labels = {variant: figure(args.label(variant)) for variant in args.variants}
    return Comparison(results, rows, table, partial(plot_supernets, rows, labels, fronts=fronts))


def _over_seeds(runs: ExperimentRuns, rows: list[dict[str, Any]], variant: str, kind: str) -> Spread:
    """Mean over the subnets of a kind, seed by seed."""
    by_seed = [[row["miou"] for row in _of(rows, variant, seed, kind)] for seed in runs.args.seeds]
    return Spread.of([sum(mious) / len(mious) for mious in by_seed])


def _difference(one: Spread, other: Spread) -> Spread:
    return Spread.of([a - b for a, b in zip(one.values, other.values)])


def _supernet_table(
    runs: ExperimentRuns, rows: list[dict[str, Any]], means: dict[str, dict[str, Spread]], more: dict[str, Any]
) -> str:
    args = runs.args
    count = len(_of(rows, next(iter(args.variants)), args.seeds[0], "sampled"))
    text = f"mIoU of {count} sampled subnets of each supernet; {over_seeds(args.seeds)}.\n\n"
    header = ["supernet", "subnets (M parameters)", *KINDS[1:]]
    if more:
        low, high = more["range"]
        header.append(f"frontier, {low / 1e6:.3g} to {high / 1e6:.3g} M")
    lines = []
    for variant in args.variants:
        sizes = [row["params"] / 1e6 for row in _of(rows, variant, kind="sampled")]
        line = [prose(args.label(variant)), f"{min(sizes):.3g} to {max(sizes):.3g}"]
        line += [means[variant][kind].text(Number) for kind in KINDS[1:]]
        lines.append(line + ([more["frontier"][variant].text(Number)] if more else []))
    original = means[next(iter(args.variants))]["original"]
    return text + markdown(header, lines) + f"\nThe original: mIoU {original.text(Number)}.\n"


def _pair_table(runs: ExperimentRuns, pairs: dict[str, Spread], what: str) -> str:
    if not pairs:
        return ""
    seeds = [f"seed {seed}" for seed in runs.args.seeds]
    lines = [
        [name, *(f"{value:+.4f}" for value in spread.values), spread.text("{:+.4f}".format).replace("± +", "± ")]
        for name, spread in pairs.items()
    ]
    return f"\nDifferences in mIoU, {what}, seed by seed:\n\n" + markdown(["pair", *seeds, "mean ± sd"], lines)


__all__ = ["compare_fig4", "compare_fig5"]
