"""OpenTuner as a search engine (SuperSAM, section III, Deployment), made repeatable and kept quiet.

OpenTuner draws from the global generators, iterates over a set ordered by memory address, sets up the logging of the
whole process and writes into the working directory. None of that reaches the outside from here.
"""

import contextlib
import logging
import random
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..models.supersam.elastic_supersam import ElasticSpace, Subnet
from .engine import SearchEngine


@contextlib.contextmanager
def _quiet_import() -> Iterator[None]:
    """Importing OpenTuner replaces `logging.Formatter` for the whole process, and warns of what it imports."""
    formatter = logging.Formatter
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.Formatter = formatter  # type: ignore[misc]


with _quiet_import():
    from opentuner import default_argparser, tuningrunmain
    from opentuner.api import TuningRunManager
    from opentuner.measurement.inputmanager import FixedInputManager
    from opentuner.measurement.interface import DefaultMeasurementInterface
    from opentuner.resultsdb.models import Result
    from opentuner.search.bandittechniques import AUCBanditMetaTechnique
    from opentuner.search.differentialevolution import DifferentialEvolutionAlt, PopulationMember
    from opentuner.search.evolutionarytechniques import NormalGreedyMutation, UniformGreedyMutation
    from opentuner.search.manipulator import BooleanParameter, ConfigurationManipulator, EnumParameter
    from opentuner.search.objective import MinimizeTime
    from opentuner.search.simplextechniques import RandomNelderMead
    from opentuner.search.technique import all_techniques, register


TECHNIQUE = "SuperSamBandit"
OPTIONS = ["--database=sqlite://", "--no-dups", "--parallelism=1", "--quiet", f"--technique={TECHNIQUE}"]
# How often in a row OpenTuner may have nothing to propose before the space counts as used up.
MAX_RETRIES = 100

Configuration = dict[str, int | bool]


class OrderedDifferentialEvolution(DifferentialEvolutionAlt):
    """Differential evolution whose choice of parents depends on neither memory addresses nor the clock.

    The population is a queue: the oldest member stands first and goes to the back when it is to be replaced.
    """

    def oldest_pop_member(self) -> PopulationMember | None:
        free = [member for member in self.population if member.candidate_replacement is None]
        if not free:
            return None
        self.population.remove(free[0])
        self.population.append(free[0])
        return free[0]

    def create_new_configuration(self, parent_pop_member: PopulationMember) -> Configuration:
        child = self.manipulator.copy(parent_pop_member.config.data)
        others = [member.config.data for member in self.population if member is not parent_pop_member]
        if self.driver.best_result:
            others += [self.driver.best_result.configuration.data] * self.information_sharing
        random.shuffle(others)
        factor = random.random() / 2 + 0.5
        names = self.manipulator.param_names(child)
        random.shuffle(names)
        parameters = self.manipulator.proxy(child)
        for i, name in enumerate(names):
            if i < self.n_cross or random.random() < self.cr:
                parameters[name].op4_set_linear(*others[:3], 1.0, factor, -factor)
        return child

    def handle_requested_result(self, result: Result) -> None:
        """A replacement takes a member's place if it is better, or if nothing is known of the member yet: asks that
        are rejected at once are told before those that images are run for."""
        for member in self.population:
            replacement = member.candidate_replacement
            if replacement is not None and replacement == result.configuration:
                if not self.driver.has_results(member.config) or self.objective.lt(replacement, member.config):
                    member.config = replacement
                member.candidate_replacement = None


# OpenTuner finds techniques by name; these are the four of its default bandit.
register(
    AUCBanditMetaTechnique(
        [
            OrderedDifferentialEvolution(),
            UniformGreedyMutation(),
            NormalGreedyMutation(mutation_rate=0.3),
            RandomNelderMead(),
        ],
        name=TECHNIQUE,
    )
)


class SeededInterface(DefaultMeasurementInterface):
    """Tells OpenTuner the parameters, the objective and the first configuration."""

    def __init__(self, args: Any, manipulator: ConfigurationManipulator, first: Configuration) -> None:
        super().__init__(args, manipulator=manipulator, objective=MinimizeTime(), input_manager=FixedInputManager())
        self.first = first

    def seed_configurations(self) -> list[Configuration]:
        return [dict(self.first)]


class OpenTunerEngine(SearchEngine):
    """OpenTuner's AUC bandit over one window parameter per elastic layer and one keep bit per prunable layer.

    Args:
        space (`ElasticSpace`): Where to search.
        seed (`int`): Same seed and same scores, same asks. The global generators of `random` and `numpy` are left as
            they are.
    """

    def __init__(self, space: ElasticSpace, seed: int) -> None:
        self.space = space
        self.pending: list[tuple[Subnet, Any]] = []
        self.random_state: tuple[Any, Any] = (random.Random(seed).getstate(), np.random.RandomState(seed).get_state())
        with self._own_world():
            # The registry is complete, and its imports done, before the run begins to draw.
            all_techniques()
            args = default_argparser().parse_args(OPTIONS)
            interface = SeededInterface(args, _manipulator(space), _smallest_configuration(space))
            self.manager = TuningRunManager(interface, args)

    def ask(self) -> Subnet | None:
        with self._own_world():
            for _ in range(MAX_RETRIES):
                desired = self.manager.get_next_desired_result()
                if desired is not None:
                    subnet = _to_subnet(self.space, desired.configuration.data)
                    self.pending.append((subnet, desired))
                    return subnet
        return None

    def tell(self, subnet: Subnet, score: float | None) -> None:
        position = next((i for i, (asked, _) in enumerate(self.pending) if asked == subnet), None)
        if position is None:
            raise ValueError(f"Told of a subnet that was not asked for: {subnet.to_json()}.")
        _, desired = self.pending.pop(position)
        # OpenTuner minimises a time. Of its objectives only that one bears two results of one configuration, which
        # happens: its own check for repeats finds nothing under SQLAlchemy 2.
        result = Result(state="ERROR", time=float("inf")) if score is None else Result(state="OK", time=-score)
        with self._own_world():
            self.manager.report_result(desired, result)
            # Left to the next ask, several results would be taken in the order of their times by the clock.
            self.manager.search_driver.process_new_results()

    def close(self) -> None:
        self.manager.session.close()
        self.manager.Session.remove()
        self.manager.engine.dispose()

    @contextlib.contextmanager
    def _own_world(self) -> Iterator[None]:
        """Puts on this engine's generators and silences OpenTuner, and puts all back afterwards."""
        logger = logging.getLogger("opentuner")
        level, init_logging = logger.level, tuningrunmain.init_logging
        outside = (random.getstate(), np.random.get_state())
        random.setstate(self.random_state[0])
        np.random.set_state(self.random_state[1])
        logger.setLevel(logging.ERROR)
        tuningrunmain.init_logging = lambda: None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            self.random_state = (random.getstate(), np.random.get_state())
            random.setstate(outside[0])
            np.random.set_state(outside[1])
            logger.setLevel(level)
            tuningrunmain.init_logging = init_logging


def _manipulator(space: ElasticSpace) -> ConfigurationManipulator:
    manipulator = ConfigurationManipulator()
    for layer in space.elastic_layers:
        manipulator.add_parameter(EnumParameter(f"mlp.{layer}", space.mlp_windows))
        if space.attention_windows:
            manipulator.add_parameter(EnumParameter(f"head.{layer}", space.head_windows))
    for layer in space.prunable_layers:
        manipulator.add_parameter(BooleanParameter(f"keep.{layer}"))
    return manipulator


def _smallest_configuration(space: ElasticSpace) -> Configuration:
    configuration: Configuration = {f"mlp.{layer}": min(space.mlp_windows) for layer in space.elastic_layers}
    if space.attention_windows:
        configuration |= {f"head.{layer}": min(space.head_windows) for layer in space.elastic_layers}
    return configuration | {f"keep.{layer}": False for layer in space.prunable_layers}


def _to_subnet(space: ElasticSpace, configuration: Configuration) -> Subnet:
    removed = tuple(layer for layer in space.prunable_layers if not configuration[f"keep.{layer}"])
    mlp = {layer: int(configuration[f"mlp.{layer}"]) for layer in space.elastic_layers}
    head = None
    if space.attention_windows:
        head = {layer: int(configuration[f"head.{layer}"]) for layer in space.elastic_layers}
    return space.subnet(removed, mlp, head)
