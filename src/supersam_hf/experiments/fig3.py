"""SuperSAM, Fig. 3: what the removal of layers costs."""

from functools import partial
from typing import Any

from ..files import read_json
from ..plots.experiments import plot_removals
from .comparison import Comparison
from .runs import ExperimentRuns
from .statistics import Spread, markdown, over_seeds


def compare_fig3(runs: ExperimentRuns) -> Comparison:
    """mIoU with each layer removed and with more and more, over seeds, which draw other prompts."""
    args = runs.args
    (variant,) = args.variants
    rankings = [read_json(runs.path(variant, seed) / "ranking.json") for seed in args.seeds]
    full = Spread.of([ranking["full"]["quality"] for ranking in rankings])
    whole = rankings[0]["full"]["params"]
    single = {layer: Spread.of([r["single"][layer]["quality"] for r in rankings]) for layer in range(_depth(rankings))}
    greedy = [Spread.of([r["greedy"][n]["quality"] for r in rankings]) for n in range(len(rankings[0]["greedy"]))]
    params = [Spread.of([r["greedy"][n]["params"] for r in rankings]) for n in range(len(greedy))]
    orders = [_order(ranking) for ranking in rankings]
    rows = [
        {"seed": seed, "removal": kind, "layers": " ".join(map(str, removal["layers"])), **_numbers(removal)}
        for seed, ranking in zip(args.seeds, rankings)
        for kind, removals in (
            ("none", [ranking["full"]]),
            ("single", ranking["single"]),
            ("greedy", ranking["greedy"]),
        )
        for removal in removals
    ]
    table = _tables(full, whole, single, greedy, params, orders)
    results = {"runs": rows, "orders": orders, "full": vars(full), "params": whole}
    results |= {"single": {layer: vars(s) for layer, s in single.items()}, "greedy": [vars(s) for s in greedy]}
    return Comparison(results, rows, table, partial(plot_removals, full, single, greedy, [p.mean for p in params]))


def _depth(rankings: list[Any]) -> int:
    return len(rankings[0]["single"])


def _order(ranking: Any) -> list[int]:
    """Layers in the order in which they were removed."""
    removed: list[int] = []
    for removal in ranking["greedy"]:
        removed += [layer for layer in removal["layers"] if layer not in removed]
    return removed


def _numbers(removal: Any) -> dict[str, Any]:
    return {"params": removal["params"], "miou": removal["quality"]}


def _tables(
    full: Spread,
    whole: int,
    single: dict[int, Spread],
    greedy: list[Spread],
    params: list[Spread],
    orders: list[list[int]],
) -> str:
    number = "{:.4f}".format

    def kept(spread: Spread) -> str:
        return f"{spread.mean / full.mean:.0%}"

    text = f"All layers: {whole:,} parameters, mIoU {full.text(number)}; {over_seeds(range(len(orders)))}.\n\n"
    alone = [[str(layer), spread.text(number), kept(spread)] for layer, spread in single.items()]
    text += markdown(["layer removed", "mIoU", "of the whole"], alone) + "\n"
    more = []
    for n, (spread, size) in enumerate(zip(greedy, params)):
        layers = dict.fromkeys(", ".join(map(str, sorted(order[: n + 1]))) for order in orders)
        size_text = f"{size.mean:,.0f} ({size.mean / whole:.0%})"
        more.append([str(n + 1), " or ".join(layers), size_text, spread.text(number), kept(spread)])
    return text + markdown(["removed", "layers", "parameters", "mIoU", "of the whole"], more)


__all__ = ["compare_fig3"]
