"""Electricity that a stretch of work used on this machine, by codecarbon, without any network."""

import importlib
import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .hardware import cpu_name


logger = logging.getLogger(__name__)

# What codecarbon's own descriptions of the hardware mean: who reads the energy, and who only guesses it.
CPU_METHODS = {
    "Intel Rapl": "CPU measured (RAPL)",
    "Intel Power Gadget": "CPU measured (Power Gadget)",
    "Windows Emi": "CPU measured (Energy Meter Interface)",
    "Cpu Load": "CPU estimated from its load and TDP",
}


@dataclass(frozen=True)
class EnergyUse:
    """What the whole machine used, other programs on it included.

    Args:
        seconds (`float`): How long it was watched.
        kwh (`float`): Electricity of CPU, memory and GPUs, in kWh.
        kg_co2eq (`float` or None): Emissions by the country's mean electricity, in kg; None where it is not known.
        country (`str` or None): Its three-letter ISO code.
        method (`str`): How each part was measured, or that it was estimated.
        hardware (`str`): CPU and GPUs.
    """

    seconds: float
    kwh: float
    kg_co2eq: float | None
    country: str | None
    method: str
    hardware: str


class EnergyRecord:
    """Where [`track_energy`] leaves what it found: `use` is None until the end, and where it could not be told."""

    use: EnergyUse | None = None


def can_track_energy() -> bool:
    """Whether codecarbon is installed (`pip install supersam-hf[energy]`)."""
    return importlib.util.find_spec("codecarbon") is not None


@contextmanager
def track_energy(country: str | None = None) -> Iterator[EnergyRecord]:
    """Watches the machine while its `with` block lasts. Writes no file, asks no network, and never fails the block.

    The first use in a process looks for the hardware, which takes a second or two; then a thread samples once a
    second. In a job of several processes a machine, let one of them do it.

    Args:
        country (`str`, *optional*): Three-letter ISO code, for the emissions. Codecarbon's own configuration by
            default (the environment variable `CODECARBON_COUNTRY_ISO_CODE`); without any, no emissions are told.

    Yields:
        [`EnergyRecord`]: Its `use` is there once the block has ended, with or without an exception.

    Raises:
        ImportError: If codecarbon is not installed.
        ValueError: If `country` is not known.
    """
    if not can_track_energy():
        raise ImportError("Energy is tracked by codecarbon: `pip install supersam-hf[energy]`.")
    _silence()
    if country is not None and not _is_country(country):
        raise ValueError(f"`country` must be a three-letter ISO code such as 'FRA' or 'USA', got {country!r}.")
    country = (country or _configured_country() or "").upper() or None
    record = EnergyRecord()
    tracker = _started(country)
    try:
        yield record
    finally:
        record.use = _stopped(tracker, country)


def _silence() -> None:
    """It says at length what it found and was told, on a handler of its own."""
    importlib.import_module("codecarbon")  # which sets the level itself
    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)


def _is_country(country: str) -> bool:
    from codecarbon.input import DataSource

    return country.upper() in DataSource().get_global_energy_mix_data()


def _configured_country() -> str | None:
    """From codecarbon's environment variables and files, which are none of this package's: not worth an error."""
    from codecarbon.core.config import get_hierarchical_config

    country = get_hierarchical_config().get("country_iso_code")
    if country is not None and not _is_country(country):
        logger.warning(f"Emissions are not told: codecarbon is configured for an unknown country, {country!r}.")
        return None
    return country


def _started(country: str | None) -> Any:
    """A tracker that runs."""
    from codecarbon import OfflineEmissionsTracker

    tracker = OfflineEmissionsTracker(
        country_iso_code=country,
        # Of an unknown country it would take the world's mean without a word.
        force_carbon_intensity_g_co2e_kwh=None if country else 0.0,
        # A lock of its own would replace the handlers of SIGINT and SIGTERM, by which training saves itself.
        allow_multiple_runs=True,
        output_methods=[],
        output_handlers=[],
        emissions_endpoint=None,
        electricitymaps_api_token=None,
        tracking_mode="machine",
        log_level="critical",
    )
    tracker.start()
    return tracker


def _stopped(tracker: Any, country: str | None) -> EnergyUse | None:
    """Stops it; None, and a warning, if it has nothing to tell."""
    try:
        tracker.stop()
        found = tracker.final_emissions_data
        return EnergyUse(
            seconds=found.duration,
            kwh=found.energy_consumed,
            kg_co2eq=found.emissions if country else None,
            country=country,
            method=_method([repr(part) for part in tracker._hardware]),
            hardware=" + ".join(name for name in (found.cpu_model or cpu_name(), found.gpu_model) if name),
        )
    # Whatever it is: hours of training must not be lost to the reading of a meter.
    except Exception as error:
        logger.warning(f"The energy used is not known: {error!r}")
        return None


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


__all__ = ["EnergyRecord", "EnergyUse", "can_track_energy", "track_energy"]
