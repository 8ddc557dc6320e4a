"""What makes a head."""

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from mola_lightning.core import ConfigError, Task

# (features' width D, task) -> the module that maps the features of a task's rows to its outputs. It is called as
# head(features (n, D, ...), image_size (H, W)), of which only dense heads need the size. A batch without rows of the
# task comes as n = 0: heads must give n = 0 outputs, so that their parameters stay in the graph. What follows the
# outputs (``Task.activation``) is not the head's to apply.
HeadFactory = Callable[[int, Task], nn.Module]


def factories_per_task(
    head: HeadFactory | Mapping[str, HeadFactory], tasks: Sequence[Task]
) -> Mapping[str, HeadFactory]:
    """The factory of each task's head.

    Args:
        head: one for all tasks, or one for each by its name.
        tasks: all tasks.

    Raises:
        ConfigError: when names are missing, or unknown.
    """
    names = [task.name for task in tasks]
    if not isinstance(head, Mapping):
        return dict.fromkeys(names, head)
    if set(head) != set(names):
        raise ConfigError(
            f"head must be one factory, or one for each task: it has {sorted(head)}, and the tasks are {names}"
        )
    return head
