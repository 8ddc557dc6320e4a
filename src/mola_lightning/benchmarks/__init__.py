"""What adapters cost in time and memory, measured against the plain backbone."""

from mola_lightning.benchmarks.cases import CASES, Case
from mola_lightning.benchmarks.layers import LayerTiming, time_layers
from mola_lightning.benchmarks.measure import Measurement, Step, measure_case
from mola_lightning.benchmarks.methods import METHODS, build_module
from mola_lightning.benchmarks.naive import dense_forward, kernel_forward, run_layers_by

__all__ = [
    "CASES",
    "METHODS",
    "Case",
    "LayerTiming",
    "Measurement",
    "Step",
    "build_module",
    "dense_forward",
    "kernel_forward",
    "measure_case",
    "run_layers_by",
    "time_layers",
]
