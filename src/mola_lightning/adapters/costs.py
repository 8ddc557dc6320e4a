"""What an adapted layer costs beyond its base layer, in multiply-adds; and what else counts like them."""

from dataclasses import dataclass

# In multiply-adds, fitted on a CPU to the plans of each layer shape timed one by one (`make bench ARGS=--layers`):
CALL = 2_000_000  # one more call of a convolution
TOUCH = 32  # to write, read and back-propagate one number of a materialised delta
TOUCH_ROWS = 160  # the same for one number of a row's own kernel
STREAM = 50  # to write or read, and back-propagate, one number of an activation


@dataclass(frozen=True)
class PlanCost:
    """Multiply-adds beyond the base layer: ``per_position`` times positions, plus ``fixed`` per batch."""

    per_position: float
    fixed: float = 0.0

    def total(self, positions: int) -> float:
        """For a batch with that many output positions."""
        return self.per_position * positions + self.fixed
