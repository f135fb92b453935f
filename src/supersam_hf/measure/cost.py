"""What a stretch of work cost, over all its sittings: time, electricity, carbon, iterations, images."""

import logging
import math
import threading
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..files import read_json, write_json
from .energy import EnergyArguments, EnergyMeter


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cost:
    """What work cost: one sitting, or the sum of several.

    Args:
        seconds (`float`): Wall time.
        iterations (`int`): Optimiser steps; what was done twice, after a resume, counts twice.
        images (`int`): Images of these steps, over all processes.
        samples (`int`): Prompted objects of these steps, over all processes.
        energy_kwh (`float` or None): Electricity of the whole machine, in kWh; None where it was not recorded.
        emissions_kg (`float` or None): CO2 equivalent, in kg; None where no factor is known.
        kg_per_kwh (`float` or None): Emissions factor, in kg of CO2 equivalent a kWh.
        country (`str` or None): ISO code of the country whose mean the factor is; None where it was given.
        method (`str` or None): How the electricity was measured or estimated.
        hardware (`str` or None): CPU and GPUs.
    """

    seconds: float = 0.0
    iterations: int = 0
    images: int = 0
    samples: int = 0
    energy_kwh: float | None = None
    emissions_kg: float | None = None
    kg_per_kwh: float | None = None
    country: str | None = None
    method: str | None = None
    hardware: str | None = None


class CostMeter:
    """Counts while its `with` block lasts, and adds to what earlier sittings of the same work left in the file.

    A sitting is written as it begins, every minute, at each `flush` and at its end, so that a killed one loses at
    most what came after. In a job of several processes only one should have a file; electricity is that of its
    machine.

    Args:
        path (`Path` or `str` or None): JSON file of the sittings; None: nothing is measured or written.
        energy ([`EnergyArguments`], *optional*): Country or factor for the emissions.
        every (`float`): Seconds between two flushes that nobody asked for.
    """

    def __init__(self, path: Path | str | None, energy: EnergyArguments | None = None, *, every: float = 60.0) -> None:
        self.path = None if path is None else Path(path)
        self._before = [] if self.path is None or not self.path.exists() else read_sittings(self.path)
        self._energy = None if self.path is None else EnergyMeter(energy or EnergyArguments())
        self._counts: dict[str, Any] = {"iterations": 0, "images": 0, "samples": 0}
        self._began, self._since = datetime.now(UTC), time.perf_counter()
        self._sitting: dict[str, Any] = {}
        self._lock, self._ended, self._every = threading.Lock(), threading.Event(), every

    def __enter__(self) -> Self:
        if self._energy is not None:
            self._energy.start()
        self._began, self._since = datetime.now(UTC), time.perf_counter()
        self.flush()
        if self.path is not None:
            threading.Thread(target=self._keep_flushing, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        try:
            self.flush()
        finally:
            if self._energy is not None:
                self._energy.stop()

    def add(self, *, iterations: int = 0, images: int = 0, samples: int = 0) -> None:
        """Counts work that was done, over all processes."""
        for name, count in (("iterations", iterations), ("images", images), ("samples", samples)):
            self._counts[name] += count

    def flush(self) -> None:
        """Brings this sitting in the file up to date: aside first, then renamed. Where the file cannot be written it
        warns: a meter must not end what it measures."""
        with self._lock:
            use = None if self._energy is None else self._energy.read()
            cost = Cost(seconds=time.perf_counter() - self._since, **self._counts)
            self._sitting = {"began": _stamp(self._began), "written": _stamp(datetime.now(UTC)), **asdict(cost)}
            self._sitting |= {} if use is None else asdict(use)
            if self.path is not None:
                self._write(self.path)

    def _write(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"sittings": [*self._before, self._sitting]})
        except OSError as error:
            logger.warning(f"What it costs is not recorded: {error}")

    def _keep_flushing(self) -> None:
        while not self._ended.wait(self._every):
            self.flush()

    def total(self) -> Cost:
        """The sum over all sittings, up to the last flush."""
        return total_cost([*self._before, *([self._sitting] if self._sitting else [])])


def read_sittings(path: Path) -> list[dict[str, Any]]:
    """The sittings that a [`CostMeter`] left in a file, oldest first.

    Raises:
        ValueError: If the file holds something else, naming it.
    """
    data = read_json(path)
    sittings = data.get("sittings") if isinstance(data, dict) else None
    if not isinstance(sittings, list) or not all(_is_sitting(sitting) for sitting in sittings):
        raise ValueError(f"{path} does not hold the costs of a stage, as this package writes them.")
    return sittings


def _is_sitting(sitting: Any) -> bool:
    """Whether JSON data is what a [`CostMeter`] writes of a sitting."""
    if not isinstance(sitting, dict):
        return False
    values = [sitting.get(name, "") for name in ("seconds", "iterations", "images", "samples")]
    values += [sitting.get(name, "") or 0 for name in ("energy_kwh", "emissions_kg", "kg_per_kwh")]
    texts = [sitting.get(name, 0) for name in ("country", "method", "hardware")]
    numbers = all(type(value) in (int, float) and 0 <= value < math.inf for value in values)
    return numbers and all(text is None or isinstance(text, str) for text in texts)


def total_cost(sittings: list[dict[str, Any]]) -> Cost:
    """Sums sittings, or the costs of stages. Electricity that one of them did not record makes the sum unknown; so
    do emissions."""

    def added(name: str) -> Any:
        values = [sitting[name] for sitting in sittings]
        return None if not values or None in values else sum(values)

    def told(name: str) -> str | None:
        return "; ".join(dict.fromkeys(sitting[name] for sitting in sittings if sitting[name])) or None

    energy, emissions = added("energy_kwh"), added("emissions_kg")
    factors = {sitting["kg_per_kwh"] for sitting in sittings}
    return Cost(
        seconds=sum(sitting["seconds"] for sitting in sittings),
        iterations=sum(sitting["iterations"] for sitting in sittings),
        images=sum(sitting["images"] for sitting in sittings),
        samples=sum(sitting["samples"] for sitting in sittings),
        energy_kwh=energy,
        emissions_kg=emissions,
        kg_per_kwh=factors.pop() if len(factors) == 1 else None,
        country=told("country"),
        method=told("method"),
        hardware=told("hardware"),
    )


def _stamp(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")


__all__ = ["Cost", "CostMeter", "read_sittings", "total_cost"]
