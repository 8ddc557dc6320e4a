"""Losses and metrics of one stage, gathered over an epoch; exact over uneven batches, absent tasks and processes."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, SumMetric

from mola_lightning.core import Task

TINY = 1e-6  # a metric of 0 has no logarithm


class Meters(nn.Module):
    """Metric objects rather than ``self.log`` per step: their sums can be put in a checkpoint, and a task that is
    absent from a batch adds nothing instead of repeating its last value.

    Args:
        measured: the tasks whose metrics are gathered.
        scalars: names of further values, averaged over steps.
        tasks: all tasks, whose losses are gathered.
    """

    def __init__(self, measured: Sequence[Task], scalars: Sequence[str], tasks: Sequence[Task]) -> None:
        super().__init__()
        self.tasks, self.scalar_names = tuple(tasks), tuple(scalars)
        # Sums and units apart: a MeanMetric that does not look for NaN (which would wait for the device) ignores
        # weights. ModuleList and not ModuleDict: task names may be attributes of a module, such as "type".
        self.losses = nn.ModuleList(SumMetric(nan_strategy="disable") for _ in tasks)
        self.units = nn.ModuleList(SumMetric(nan_strategy="disable") for _ in tasks)
        self.scalars = nn.ModuleList(MeanMetric(nan_strategy="disable") for _ in scalars)
        self.measured = tuple(measured)
        self.metrics = nn.ModuleList(task.metrics(task.num_outputs) for task in measured)

    def update_losses(self, losses: Tensor, units: Tensor, scalars: Mapping[str, Tensor]) -> None:
        """Add a batch: losses (T,) as means over units (T,), and one value for each scalar."""
        for i in range(len(self.tasks)):
            self.losses[i].update(losses[i] * units[i])
            self.units[i].update(units[i])
        for name, value in scalars.items():
            self.scalars[self.scalar_names.index(name)].update(value)

    def update_metrics(self, predictions: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
        """Add a batch to the metrics of the tasks that are present in it."""
        for task, metrics in zip(self.measured, self.metrics, strict=True):
            if len(targets[task.name]):
                metrics.update(predictions[task.name], targets[task.name])

    def compute(self) -> dict[str, Tensor]:
        """``<task>/loss``, the scalars, and with measured tasks ``<task>/<metric>``, ``mean/<metric>``, ``mean/loss``,
        ``score``.

        A task that was never seen has no entry and does not count in a mean. The score is the mean over tasks of the
        monitored metric (negated where smaller is better); where tasks are monitored by different metrics, of its
        logarithm, so that a relative change counts the same in each and no unit outweighs another.
        """
        sums, units = [m.compute() for m in self.losses], [m.compute() for m in self.units]
        seen = [bool(count > 0) for count in units]
        values = {f"{t.name}/loss": sums[i] / units[i] for i, t in enumerate(self.tasks) if seen[i]}
        values |= {n: m.compute() for n, m in zip(self.scalar_names, self.scalars, strict=True) if m.update_called}
        if not self.measured:
            return values
        named: dict[str, list[Tensor]] = {"loss": list(values.values())}
        scores, mixed = [], len({task.monitor for task in self.measured}) > 1
        for task, metrics, was_seen in zip(self.measured, self.metrics, seen, strict=True):
            if not was_seen:
                continue
            found = metrics.compute()
            values |= {f"{task.name}/{name}": value for name, value in found.items()}
            for name, value in found.items():
                named.setdefault(name, []).append(value)
            monitored = found[task.monitor].clamp(min=TINY).log() if mixed else found[task.monitor]
            scores.append(monitored if task.higher_is_better else -monitored)
        values |= {f"mean/{name}": torch.stack(entries).mean() for name, entries in named.items() if entries}
        return values | ({"score": torch.stack(scores).mean()} if scores else {})

    def state(self, mean: Callable[[Tensor], Tensor] | None = None) -> list[tuple[int, dict[str, Tensor]]]:
        """What was gathered so far, for a checkpoint; not in ``state_dict``, which is of weights.

        Args:
            mean: over the processes, where there are several: their sums add up, and all of them load the same.
        """
        of_all = mean or (lambda value: value)
        return [
            (meter._update_count, {name: of_all(value.clone()) for name, value in meter.metric_state.items()})
            for meter in self._sums()
        ]

    def load_state(self, state: Sequence[tuple[int, Mapping[str, Tensor]]]) -> None:
        """Take up what :meth:`state` gave."""
        for meter, (count, values) in zip(self._sums(), state, strict=True):
            for name, value in values.items():
                setattr(meter, name, value.to(meter.device))
            meter._update_count = count

    def _sums(self) -> list[SumMetric | MeanMetric]:
        return [*self.losses, *self.units, *self.scalars]

    @torch.inference_mode(False)  # else a training after a test could not add to what is made here
    def reset(self) -> None:
        """Forget everything."""
        for meter in (*self.losses, *self.units, *self.scalars, *self.metrics):
            meter.reset()
