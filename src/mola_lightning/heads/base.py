"""What makes a head."""

from collections.abc import Callable

from torch import nn

from mola_lightning.core import Task

# (features' width D, task) -> the module that maps the features of a task's rows, (n, D, ...), to its outputs. A batch
# without rows of the task comes as n = 0: heads must give n = 0 outputs, so that their parameters stay in the graph.
HeadFactory = Callable[[int, Task], nn.Module]
