"""What adapters, sharing schemes and balancers cost in time and memory, measured against the plain way to train."""

from mola_lightning.benchmarks.cases import CASES, Case
from mola_lightning.benchmarks.costs import Cost, Passes, Reference
from mola_lightning.benchmarks.layers import LayerTiming, time_layers
from mola_lightning.benchmarks.measure import Measurement, TimedStep, measure_case
from mola_lightning.benchmarks.methods import METHODS, build_module
from mola_lightning.benchmarks.naive import dense_forward, kernel_forward, run_layers_by
from mola_lightning.benchmarks.noise import noise_data, whole_batch

__all__ = [
    "CASES",
    "METHODS",
    "Case",
    "Cost",
    "LayerTiming",
    "Measurement",
    "Passes",
    "Reference",
    "TimedStep",
    "build_module",
    "dense_forward",
    "kernel_forward",
    "measure_case",
    "noise_data",
    "run_layers_by",
    "time_layers",
    "whole_batch",
]
