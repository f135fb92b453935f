"""Electricity that a stretch of work used on this machine, by codecarbon, without any network."""

import importlib
import importlib.util
import logging
from dataclasses import dataclass
from typing import Any

from ..fields import Checked, FieldError, NonNegative, Text
from .hardware import cpu_name


logger = logging.getLogger(__name__)

# What codecarbon's own descriptions of the hardware mean: who reads the energy, and who only guesses it.
CPU_METHODS = {
    "Intel Rapl": "CPU measured (RAPL)",
    "Intel Power Gadget": "CPU measured (Power Gadget)",
    "Windows Emi": "CPU measured (Energy Meter Interface)",
    "Cpu Load": "CPU estimated from its load and TDP",
}


@dataclass
class EnergyArguments(Checked):
    """Electricity and emissions; recorded where codecarbon is installed (the extra `energy`)."""

    country: Text | None = None
    """ISO code of three letters whose mean electricity gives the emissions; null: codecarbon's own configuration."""
    kg_per_kwh: NonNegative | None = None
    """Emissions factor in kg of CO2 equivalent a kWh, in place of a country's mean (0.437 in the paper)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kg_per_kwh is not None and self.country is not None:
            raise FieldError("country", "and `kg_per_kwh` are two factors: give one of them.")
        # Now, on every process alike: only one of them will have a meter.
        if self.country is not None and can_track_energy():
            _silence()
            if not _is_country(self.country):
                raise FieldError(
                    "country", f"must be a three-letter ISO code such as 'FRA' or 'USA', got {self.country!r}."
                )


@dataclass(frozen=True)
class EnergyUse:
    """What the whole machine used, other programs on it included.

    Args:
        energy_kwh (`float`): Electricity of CPU, memory and GPUs, in kWh.
        emissions_kg (`float` or None): CO2 equivalent, in kg; None where no factor is known.
        kg_per_kwh (`float` or None): Emissions factor, in kg of CO2 equivalent a kWh.
        country (`str` or None): ISO code of the country whose mean the factor is; None where it was given.
        method (`str`): How each part was measured, or that it was estimated.
        hardware (`str`): CPU and GPUs.
    """

    energy_kwh: float
    emissions_kg: float | None
    kg_per_kwh: float | None
    country: str | None
    method: str
    hardware: str


def can_track_energy() -> bool:
    """Whether codecarbon is installed (`pip install supersam-hf[energy]`)."""
    return importlib.util.find_spec("codecarbon") is not None


class EnergyMeter:
    """Watches the machine from `start` to `stop`. Writes no file, asks no network, and never fails what it watches.

    The first use in a process looks for the hardware, which takes a second or two; then a thread samples once a
    second. In a job of several processes a machine, let one of them do it. Without codecarbon it reads nothing.

    Args:
        args ([`EnergyArguments`], *optional*): Country or factor for the emissions.
    """

    def __init__(self, args: EnergyArguments | None = None) -> None:
        args = args or EnergyArguments()
        self._country: str | None = None
        self._factor = args.kg_per_kwh
        self._tracker: Any = None
        if can_track_energy():
            _silence()
            if self._factor is None:
                self._country = _country(args)
                self._factor = None if self._country is None else _country_factor(self._country)

    def start(self) -> None:
        """Begins to watch."""
        if not can_track_energy():
            return
        try:
            self._tracker = _started()
        # Whatever it is: hours of training must not be lost to a meter.
        except Exception as error:
            logger.warning(f"The energy used is not known: {error!r}")

    def read(self) -> EnergyUse | None:
        """What was used since `start`; None, and a warning, if it cannot be told."""
        if self._tracker is None:
            return None
        try:
            self._tracker.flush()
            # Its errors it keeps to itself, and leaves nothing with its handler.
            (output,) = self._tracker._output_handlers
            found = output.take()
            kwh = found.energy_consumed
            return EnergyUse(
                energy_kwh=kwh,
                emissions_kg=None if self._factor is None else kwh * self._factor,
                kg_per_kwh=self._factor,
                country=self._country,
                method=_method([repr(part) for part in self._tracker._hardware]),
                hardware=" + ".join(name for name in (found.cpu_model or cpu_name(), found.gpu_model) if name),
            )
        except Exception as error:
            logger.warning(f"The energy used is not known: {error!r}")
            return None

    def stop(self) -> None:
        """Ends its thread."""
        if self._tracker is not None:
            self._tracker.stop()
            self._tracker = None


def _silence() -> None:
    """It says at length what it found and was told, on a handler of its own."""
    importlib.import_module("codecarbon")  # which sets the level itself
    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)


def _country(args: EnergyArguments) -> str | None:
    """As asked for, else from codecarbon's environment variables and files, which are none of this package's: what
    is wrong there is not worth an error."""
    from codecarbon.core.config import get_hierarchical_config

    if args.country is not None:
        return args.country.upper()
    country = get_hierarchical_config().get("country_iso_code")
    if country is not None and not _is_country(country):
        logger.warning(f"Emissions are not told: codecarbon is configured for an unknown country, {country!r}.")
        return None
    return country and country.upper()


def _is_country(country: str) -> bool:
    from codecarbon.input import DataSource

    return country.upper() in DataSource().get_global_energy_mix_data()


def _country_factor(country: str) -> float:
    """kg of CO2 equivalent a kWh of its mean electricity."""
    from codecarbon.input import DataSource

    return DataSource().get_global_energy_mix_data()[country]["carbon_intensity"] / 1000


def _started() -> Any:
    """A tracker that runs."""
    from codecarbon import OfflineEmissionsTracker
    from codecarbon.output import BaseOutput

    class Latest(BaseOutput):
        """Holds what was told last."""

        found: Any = None

        def out(self, total: Any, delta: Any) -> None:
            self.found = total

        def take(self) -> Any:
            found, self.found = self.found, None
            return found

    tracker = OfflineEmissionsTracker(
        # Emissions are the factor times what is read; of an unknown country it would take the world's mean.
        force_carbon_intensity_g_co2e_kwh=0.0,
        # A lock of its own would replace the handlers of SIGINT and SIGTERM, by which training saves itself.
        allow_multiple_runs=True,
        output_methods=[],
        output_handlers=[Latest()],
        emissions_endpoint=None,
        electricitymaps_api_token=None,
        tracking_mode="machine",
        log_level="critical",
    )
    tracker.start()
    return tracker


def _method(parts: list[str]) -> str:
    """In words, from descriptions such as "CPU(Cpu Load)"."""
    found = []
    for part in parts:
        if part.startswith("CPU("):
            found.append(CPU_METHODS.get(part[4:-1], f"CPU estimated: {part}"))
        elif part.startswith("RAM("):
            found.append("memory estimated from its size")
        elif part.startswith("GPU("):
            found.append("GPU measured (driver)")
        else:
            found.append(part)
    return "; ".join(["whole machine", *sorted(found)])


__all__ = ["EnergyArguments", "EnergyMeter", "EnergyUse", "can_track_energy"]
