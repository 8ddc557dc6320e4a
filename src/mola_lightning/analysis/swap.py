"""What each expert is worth to each task: its metric when the experts are exchanged."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import pandas as pd
import torch
from torch import nn

from mola_lightning.analysis.collect import rows_of
from mola_lightning.analysis.forced import fixed_mixing, routes
from mola_lightning.analysis.sampling import move, task_batches
from mola_lightning.core import ConfigError
from mola_lightning.data.base import TaskDataset

OWN, NONE = "own routing", "no expert"


@torch.no_grad()
def swap_table(
    module: Any, dataset: TaskDataset, batch_size: int = 256, num_rows: int | None = None, seed: int = 0
) -> pd.DataFrame:
    """Each task's monitored metric under the model's own routing, without experts, and with each expert alone.

    Every image of a task runs with the same expert, whatever the router would have decided. Under routing by task id
    (MoLA-Grad) expert e is that of task e, so the rows after the first two are tasks given another task's expert.

    Args:
        module: a MultiTaskModule whose architecture routes; looked at in evaluation mode.
        dataset: a split.
        batch_size: images in a pass.
        num_rows: images of each task, drawn; all of them when None.
        seed: of the draw.

    Returns:
        Rows ``own routing``, ``no expert``, ``expert 0`` ...; a column for each task.

    Raises:
        ConfigError: when the architecture does not route.
    """
    architecture = module.architecture
    if not routes(architecture):
        raise ConfigError(f"{type(architecture).__name__} has no experts that could be exchanged")
    routings = _routings(architecture)
    columns = {}
    for task in module.tasks:
        meters = {name: task.metrics(task.num_outputs).to(next(module.parameters()).device) for name in routings}
        for batch in task_batches(dataset, task, batch_size, num_rows, seed):
            here = move(batch, module)
            rows = rows_of(module.tasks, task, here.images)
            for name, weights in routings.items():
                with nullcontext() if weights is None else fixed_mixing(architecture, weights):
                    output = module(here.images, rows)
                meters[name].update(output.predictions[task.name], here.targets[task.name])
        columns[task.name] = {name: _value(meter, task.monitor) for name, meter in meters.items()}
    return pd.DataFrame(columns, index=list(routings))


def _routings(architecture: nn.Module) -> Mapping[str, torch.Tensor | None]:
    experts = torch.eye(architecture.num_experts)
    alone = {f"expert {e}": weights for e, weights in enumerate(experts)}
    return {OWN: None, NONE: torch.zeros(architecture.num_experts), **alone}


def _value(meter: Any, monitor: str) -> float:
    """NaN for a task without a row."""
    first = next(iter(meter.values()))
    return float(meter.compute()[monitor]) if first.update_called else float("nan")


def relative_to_own(table: pd.DataFrame, higher_is_better: Sequence[bool]) -> pd.DataFrame:
    """Change against the own routing, in percent of it; positive is better."""
    signs = [1 if better else -1 for better in higher_is_better]
    return 100.0 * (table / table.loc[OWN] - 1) * signs
