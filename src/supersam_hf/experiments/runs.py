"""The runs of an experiment: an ordinary run folder for every variant and seed, taken only as far as is needed."""

import json
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ..cli import recipe_parser
from ..fields import build
from ..files import read_json
from ..hub.tables import duration
from ..pipeline import report
from ..pipeline.context import Run
from ..pipeline.run_record import sitting
from ..pipeline.runner import Stage, is_done, run_stages
from ..pipeline.supersam import STAGES, check
from ..recipe import Recipe
from .arguments import ExperimentArguments


logger = logging.getLogger(__name__)

# The subnets of a trained supernet, without the search and the extracted subnet that a run's own report has besides.
EVALUATE = replace(
    STAGES["report"],
    function=report.evaluate,
    sections=("data", "evaluate"),
    working="evaluation/evaluate.jsonl",
)
SHARED_SEED = 0
TRAINED = {"reorder": STAGES["reorder"], "train": STAGES["train"]}
NEEDED: dict[str, dict[str, Stage]] = {
    "fig3_layers": {"rank-layers": STAGES["rank-layers"]},
    "table1_reordering": TRAINED,
    "fig4_pareto": TRAINED | {"evaluate": EVALUATE},
    "fig5_structured_vs_windows": TRAINED | {"evaluate": EVALUATE},
}


class ExperimentRuns:
    """The runs below `folder`. Those that are done are left alone, one that was killed goes on.

    Args:
        args ([`ExperimentArguments`]): What is compared.
        folder (`Path`): Experiments of one base share it, and the supernets in it.

    Raises:
        ValueError: If a value of a recipe is wrong, or a run was made with other values.
    """

    def __init__(self, args: ExperimentArguments, folder: Path) -> None:
        self.args, self.folder = args, folder
        # What was found once and holds for all runs: the pretrained model, the prunable layers.
        self.shared: dict[str, Any] = {}
        for variant in args.variants:  # wrong values are told before anything is run
            self.recipe(variant, args.seeds[0])

    def path(self, variant: str, seed: int) -> Path:
        return self.folder / "runs" / variant / f"seed-{seed}"

    def recipe(self, variant: str, seed: int) -> Recipe:
        """The base, then what the experiment sets, then what makes the variant."""
        values = {**self.args.settings, **self.shared, **self.args.variants.get(variant, {})}
        return read_recipe(self.args.base, {**values, "seed": seed, "output_dir": str(self.path(variant, seed))})

    def run_all(self) -> None:
        """Every variant with the first seed, then with the next; a line a run, with the time that is left."""
        for variant in self.args.variants:
            # what lies there was made with what is shared, which is not known yet: it is asked for below
            if not self.path(variant, self.args.seeds[0]).exists():
                check("run", self.recipe(variant, self.args.seeds[0]), pipeline=NEEDED[self.args.kind])
        self._share()
        stages, took = NEEDED[self.args.kind], []
        pairs = [(variant, seed) for seed in self.args.seeds for variant in self.args.variants]
        runs = {pair: Run(self.recipe(*pair)) for pair in pairs}
        # Asked of all before the first begins: a run that was made with other values is told now, not in days.
        done = {pair for pair in pairs if all(is_done(runs[pair], name, stages[name]) for name in stages)}
        for number, (variant, seed) in enumerate(pairs, start=1):
            name, run = f"run {number} of {len(pairs)}, {variant} seed {seed}", runs.pop((variant, seed))
            if (variant, seed) in done:
                self._tell(f"{name}: done already ({run.folder})")
                continue
            self._tell(f"{name}: begins ({run.folder})")
            since = time.perf_counter()
            complete(run, stages)
            took.append(time.perf_counter() - since)
            left = sum(pair not in done for pair in runs) * sum(took) / len(took)
            self._tell(f"{name}: done in {duration(took[-1])}, about {duration(left)} left")

    def _share(self) -> None:
        """What no variant changes is made once, whatever the seeds: a SAM of one's own, and the prunable layers where
        they are ranked."""
        first = self.recipe(next(iter(self.args.variants)), SHARED_SEED)
        if first.pretrain.enabled:
            values = {**self.args.settings, "seed": SHARED_SEED, "output_dir": str(self.folder / "runs" / "start")}
            start = Run(read_recipe(self.args.base, values))
            complete(start, {"pretrain": STAGES["pretrain"]})
            self.shared |= {"pretrain.enabled": False, "model.name": str(start.folder / "pretrained")}
        if self.args.kind != "fig3_layers" and first.rank_layers.enabled and not self._layers_are_given():
            # A variant that says nothing of layers; the folder is that of Fig. 3.
            run = Run(self.recipe("layers", SHARED_SEED))
            complete(run, NEEDED["fig3_layers"])
            layers = read_json(run.folder / "ranking.json")["prunable_layers"]
            self.shared["space.prunable_layers"] = layers

    @staticmethod
    def _tell(line: str) -> None:
        if PartialState().is_main_process:
            logger.info(line)

    def _layers_are_given(self) -> bool:
        recipes = [self.recipe(variant, SHARED_SEED) for variant in self.args.variants]
        return all(recipe.space.prunable_layers is not None for recipe in recipes)


def complete(run: Run, stages: dict[str, Stage]) -> None:
    """These stages of a run, in order, and its record."""
    with sitting(run):
        run_stages(run, stages)


def read_recipe(base: str | None, values: dict[str, Any]) -> Recipe:
    """A recipe file with these values in place of its own.

    Raises:
        ValueError: If there is no such file, or a value is unknown or wrong.
    """
    parser = recipe_parser("run")
    parser.exit_on_error = False
    config = [] if base is None else ["--config", base]
    parsed = parser.parse([*config, *(_option(*item) for item in values.items())]).as_dict()
    return build(Recipe, {name: parsed[name] for name in Recipe.__dataclass_fields__})


def _option(key: str, value: Any) -> str:
    return f"--{key}={value if isinstance(value, str) else json.dumps(value)}"


__all__ = ["EVALUATE", "NEEDED", "ExperimentRuns", "read_recipe"]
