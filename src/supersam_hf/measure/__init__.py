"""Latency, throughput, memory, and the hardware they were measured on."""

from .hardware import hardware
from .latency import ComparedLatency, Latency, compare_latency, measure_latency
from .memory import measure_peak_memory
from .model import ModelMeasurement, example_inputs, measure_model
from .subnet import latency_of


__all__ = [
    "ComparedLatency",
    "Latency",
    "ModelMeasurement",
    "compare_latency",
    "example_inputs",
    "hardware",
    "latency_of",
    "measure_latency",
    "measure_model",
    "measure_peak_memory",
]
