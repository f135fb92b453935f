"""The search loop: ask a batch, run what needs images on all processes, log, tell."""

from collections import deque
from dataclasses import dataclass
from typing import Literal

from accelerate import PartialState
from tqdm.auto import tqdm

from ..models.supersam.elastic_supersam import Subnet
from ..spread import check_agreement, on_main, spread_groups
from .engine import SearchEngine
from .log import Ask, SearchLog
from .objective import Evaluation, Objective


Stopped = Literal["trials", "max_asks", "exhausted"]


@dataclass(frozen=True)
class Pending:
    """An ask until it is in the log.

    Args:
        number (`int`): Counts every ask, from 1.
        subnet (`Subnet`): What was asked for.
        trial (`int`, *optional*): Its number, if it is one of those that are run on images.
        cached (`bool`): Whether the subnet had been asked for before.
        told (`bool`): Whether the engine knows already; if not, it learns it when the batch is done.
        logged (`bool`): Whether it is in the log already.
    """

    number: int
    subnet: Subnet
    trial: int | None
    cached: bool
    told: bool
    logged: bool


class SearchLoop:
    """Asks in batches that do not depend on the number of processes.

    A batch ends when `batch_size` of its subnets need images. The others are answered at once: those that break a
    limit, and those that are known; what is asked for twice in a batch waits with the first. Then the images are run,
    a subnet a process at a time, or each process its share of the batch together where the objective has `qualities`,
    and the engine is told in the order of the asks. All processes do the same in step.

    Args:
        objective (`Objective`): What to search for.
        engine (`SearchEngine`): What asks.
        log (`SearchLog`): What was answered before is replayed from it, and the rest appended.
        state (`PartialState`, *optional*): This process among the others.
        trials (`int`): How many distinct subnets are run on images.
        batch_size (`int`): How many of them are open at a time.
        max_asks (`int`): Most asks.

    Attributes:
        asks (`list[Ask]`): Every ask that was answered, in order.
    """

    def __init__(
        self,
        objective: Objective,
        engine: SearchEngine,
        log: SearchLog,
        state: PartialState | None = None,
        *,
        trials: int,
        batch_size: int,
        max_asks: int,
    ) -> None:
        self.objective, self.engine, self.log, self.state = objective, engine, log, state
        self.trials, self.batch_size, self.max_asks = trials, batch_size, max_asks
        self.asks: list[Ask] = []
        self._asked = self._tried = 0
        # What each subnet's answer is, as far as it is known, and which still wait for the images of their batch.
        self._answers: dict[Subnet, Evaluation] = {}
        self._open: set[Subnet] = set()

    def run(self, progress: bool) -> Stopped:
        """Goes on until the trials are run; returns why it ended."""
        stopped: Stopped | None = None
        with tqdm(total=self.trials, desc="search", unit="trial", disable=not progress) as bar:
            while stopped is None and self._tried < self.trials:
                batch, stopped = self._ask_batch()
                asked = [pending.subnet.to_json() for pending in batch]
                check_agreement(self.state, asked, "the subnets that the search asks for")
                self._answer(batch, bar)
        return stopped or "trials"

    def _ask_batch(self) -> tuple[list[Pending], Stopped | None]:
        """The asks of one batch, and why there are no more."""
        batch: list[Pending] = []
        last = min(self._tried + self.batch_size, self.trials)
        while self._tried < last:
            if self._asked >= self.max_asks:
                return batch, "max_asks"
            subnet = self.engine.ask() if len(self._answers) < self.objective.space.size else None
            if subnet is None:
                # While asks are open, an engine may only be waiting for their answers.
                return batch, None if self._open else "exhausted"
            batch.append(self._ask(subnet))
        return batch, None

    def _ask(self, subnet: Subnet) -> Pending:
        """Counts one ask; the engine is told at once what needs no images."""
        self._asked += 1
        cached = subnet in self._answers
        logged = self.log.asks[self._asked - 1] if self._asked <= len(self.log.asks) else None
        if logged is not None:
            _check_replay(self.objective, subnet, logged)
        is_trial = False
        if not cached:
            answer = self._screened(subnet) if logged is None else logged.evaluation
            self._answers[subnet] = answer
            is_trial = answer.feasible if logged is None else logged.trial is not None
        if is_trial:
            self._tried += 1
            self._open.add(subnet)
        told = subnet not in self._open
        if told:
            self.engine.tell(subnet, self._answers[subnet].score)
        return Pending(self._asked, subnet, self._tried if is_trial else None, cached, told, logged is not None)

    def _screened(self, subnet: Subnet) -> Evaluation:
        """What can be said without images. Latency is measured on the main process, while no other works."""
        evaluation = self.objective.costs(subnet)
        if evaluation.feasible and self.objective.times:
            return on_main(self.state, lambda: self.objective.timed(evaluation))
        return evaluation

    def _answer(self, batch: list[Pending], bar: tqdm) -> None:
        """Runs the images of a batch, writes its asks down in order as they are answered, and tells the engine."""
        queue = deque(batch)
        trials = [pending for pending in batch if pending.trial is not None]
        self._open -= {pending.subnet for pending in trials if pending.logged}
        self._log(queue, bar)
        waiting = [self._answers[pending.subnet] for pending in trials if not pending.logged]
        size = 1 if self.objective.qualities is None else self.batch_size
        for evaluations in spread_groups(self.state, waiting, self.objective.judged_together, size):
            self._answers |= {evaluation.subnet: evaluation for evaluation in evaluations}
            self._open -= {evaluation.subnet for evaluation in evaluations}
            self._log(queue, bar)
        for pending in batch:
            if not pending.told:
                self.engine.tell(pending.subnet, self._answers[pending.subnet].score)

    def _log(self, queue: deque[Pending], bar: tqdm) -> None:
        """Takes from the queue what is answered, up to the first ask that is not."""
        while queue and queue[0].subnet not in self._open:
            pending = queue.popleft()
            ask = Ask(pending.number, pending.trial, pending.cached, self._answers[pending.subnet])
            if not pending.logged:
                self.log.append(ask)
            self.asks.append(ask)
            bar.update(ask.trial is not None)
        bar.set_postfix(best=f"{self._best():.4f}", asks=len(self.asks), refresh=False)

    def _best(self) -> float:
        answers = (ask.evaluation for ask in self.asks)
        return max((one.score for one in answers if one.feasible and one.score is not None), default=-float("inf"))


def _check_replay(objective: Objective, subnet: Subnet, logged: Ask) -> None:
    then, line = logged.evaluation, logged.ask + 1
    if then.subnet != subnet:
        raise ValueError(
            f"Line {line} of the log has another subnet than the engine asks for now: the log was made with "
            "other versions of the libraries, or edited. Begin another log."
        )
    if (then.params, then.macs) != (objective.params(subnet), objective.macs(subnet)):
        raise ValueError(
            f"Line {line} of the log has {then.params:,} parameters and {then.macs:,} MACs; the model now has "
            f"{objective.params(subnet):,} and {objective.macs(subnet):,} there. The log belongs to another model."
        )
