"""What a training step of one method costs beside a reference's, the two in turn and one method in memory at a time."""

from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor, nn

from mola_lightning.benchmarks.measure import Measurement, TimedStep, take_turns, untimed


class Passes(NamedTuple):
    """How often a network ran in one step.

    Attributes:
        forward: with or without gradients.
        backward: all the way down to its first layer.
    """

    forward: int
    backward: int


@dataclass
class Cost:
    """What one method took.

    Attributes:
        own: of the method.
        reference: of the reference, timed in the same rounds.
        parameters: of the method's module, as a multiple of the reference's.
        passes: through the architecture.
    """

    own: Measurement
    reference: Measurement
    parameters: float
    passes: Passes


class Reference:
    """The step that others are compared with. It stays in memory; they come and go.

    Args:
        step: of the reference.
    """

    def __init__(self, step: TimedStep) -> None:
        self.step, self._untimed = step, untimed(step)

    def cost(self, rival: TimedStep, rounds: int) -> Cost:
        """Measure ``rival``: R X R X R X ...

        Args:
            rival: the other step.
            rounds: how often both are timed.
        """
        passes = count_passes(rival)
        found = {"reference": replace(self._untimed, seconds=[]), "own": untimed(rival)}
        take_turns({"reference": self.step, "own": rival}, found, rounds)
        own, other = (sum(p.numel() for p in step.module.parameters()) for step in (rival, self.step))
        return Cost(found["own"], found["reference"], own / other, passes)


def count_passes(step: TimedStep) -> Passes:
    """Run one step, and count the passes through the architecture at its first layer with parameters.

    Where an architecture has several networks side by side, those through the first of them count.
    """
    layer = next(m for m in step.module.architecture.modules() if any(True for _ in m.parameters(recurse=False)))
    forward = backward = 0

    def arrived(_: Tensor) -> None:
        nonlocal backward
        backward += 1

    def ran(_: nn.Module, __: tuple, output: Tensor) -> None:
        nonlocal forward
        forward += 1
        if output.requires_grad:
            output.register_hook(arrived)

    hook = layer.register_forward_hook(ran)
    try:
        step()
    finally:
        hook.remove()
    return Passes(forward, backward)
