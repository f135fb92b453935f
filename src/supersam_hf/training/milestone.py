"""Milestones: what it took until a subnet first reached a mIoU (SuperSAM, Table I: samples to 70 % mIoU)."""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..fields import Checked, Fraction
from ..files import read_json, write_json
from ..measure.cost import CostMeter


if TYPE_CHECKING:
    from .engine import Engine

logger = logging.getLogger(__name__)


@dataclass
class Milestone(Checked):
    """A mIoU to reach; what it took is recorded. Needs `eval_steps`."""

    subnet: Literal["smallest", "largest"] = "smallest"
    """Whose mIoU."""
    miou: Fraction = 0.7
    """mIoU to reach, 0 to 1."""
    stop: bool = False
    """End training once it is reached."""


class MilestoneWatch:
    """Looks at the metrics of each evaluation, and writes down once what it took.

    The file's `step` is the training's own; `seconds`, `energy_kwh`, `emissions_kg`, `iterations`, `images` and
    `samples` are of all sittings, so that what a killed run did twice counts twice.

    Args:
        milestone ([`Milestone`]): What to reach.
        engine ([`Engine`]): The training, where it stands. What was reached behind that belongs to work that is done
            again: it is forgotten.
        meter ([`CostMeter`]): Counts what the training costs.
        path (`Path`): The file.
    """

    def __init__(self, milestone: Milestone, engine: "Engine", meter: CostMeter, path: Path) -> None:
        self.milestone, self.meter, self.path = milestone, meter, path
        record = read_milestone(path)
        self.reached = record is not None and record["step"] <= engine.global_step and self._is_goal(record)
        engine.accelerator.wait_for_everyone()  # the others have read it
        if not self.reached and engine.accelerator.is_main_process:
            self.path.unlink(missing_ok=True)

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to train for."""
        return self.reached and self.milestone.stop

    def __call__(self, engine: "Engine", metrics: dict[str, float]) -> bool:
        """What `Engine.fit` takes as `on_metrics`; whether to end."""
        miou = metrics[f"miou_{self.milestone.subnet}"]
        if not self.reached and miou >= self.milestone.miou:
            self.reached = True
            if engine.accelerator.is_main_process:
                self._write(engine.global_step, miou)
        return self.ended

    def _write(self, step: int, miou: float) -> None:
        self.meter.flush()
        cost = self.meter.total()
        goal = {"subnet": self.milestone.subnet, "target": self.milestone.miou}
        write_json(self.path, {**goal, "step": step, "miou": miou, **asdict(cost)})
        logger.info(milestone_line(read_milestone(self.path)))

    def _is_goal(self, record: dict[str, Any]) -> bool:
        return (record["subnet"], record["target"]) == (self.milestone.subnet, self.milestone.miou)


def read_milestone(path: Path) -> Any:
    """What a [`MilestoneWatch`] wrote to this file, or None."""
    return read_json(path) if path.is_file() else None


def milestone_line(record: Any) -> str:
    """What it took, in a sentence."""
    energy = "" if record["energy_kwh"] is None else f", {record['energy_kwh'] * 1e3:.3g} Wh"
    return (
        f"The {record['subnet']} subnet first reached a mIoU of {record['target']:g} (with {record['miou']:.4f}) at "
        f"step {record['step']:,}: after {record['iterations']:,} iterations, {record['images']:,} images, "
        f"{record['samples']:,} prompted objects, {record['seconds']:.0f} s{energy}."
    )


def prompted_objects(batches: list[Any], processes: int) -> int:
    """Prompts of a group of training batches, whose slots all hold an object: `low_res_masks` is (batch, prompts,
    side, side). Of pictures without labels, the pictures."""
    counts = (batch.get("low_res_masks", batch["pixel_values"][:, :1, 0, 0]).shape[:2].numel() for batch in batches)
    return sum(counts) * processes


__all__ = ["Milestone", "MilestoneWatch", "milestone_line", "prompted_objects", "read_milestone"]
