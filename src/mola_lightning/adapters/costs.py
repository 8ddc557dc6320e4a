"""What an adapted layer costs beyond its base layer, in multiply-adds; and what else counts like them."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Prices:
    """What counts like multiply-adds on a kind of device. The CPU's are fitted to plans timed layer by
    layer (``make bench ARGS=--layers``), CUDA's to whole steps.

    Attributes:
        call: one more call of a convolution.
        product: one more matrix product, which takes less to begin.
        group: to cut a group of rows out for convolutions of its own, and to put their results back.
        touch: to write, read and back-propagate one number of a materialised delta.
        touch_rows: the same for one number of a row's own kernel.
        stream: to write or read, and back-propagate, one number of an activation.
        reread: to read one number of the input once more, beside the base layer, and to add to its gradient.
        copies: to begin copying what a kernel reads, and products with it.
        unfold: to copy one number of an input into the patches that a kernel reads, and to add its gradient back.
        column: the same with patches as columns of one matrix, and to read them for products with few rows.
        kernel: what a convolution takes for each number of its kernel that a matrix product does not.
        pixel_kernel: the same of a kernel of one pixel, which is a matrix already.
    """

    call: float
    product: float
    group: float
    touch: float
    touch_rows: float
    stream: float
    reread: float
    copies: float
    unfold: float
    column: float
    kernel: float
    pixel_kernel: float


PRICES = {
    "cpu": Prices(
        call=8_000_000,
        product=2_000_000,
        group=32_000_000,
        touch=14,
        touch_rows=150,
        stream=44,
        reread=0,
        copies=40_000_000,
        unfold=70,
        column=135,
        kernel=160,
        pixel_kernel=64,
    ),
    "cuda": Prices(
        call=700_000_000,
        product=700_000_000,
        group=0,
        touch=300,
        touch_rows=1500,
        stream=170,
        reread=170,
        copies=3_500_000_000,
        unfold=1000,
        column=1000,
        kernel=0,
        pixel_kernel=0,
    ),
}


def prices_of(weight: Tensor) -> Prices:
    """Those of the device that holds a layer's weight; the CPU's where none were fitted."""
    return PRICES.get(weight.device.type, PRICES["cpu"])


@dataclass(frozen=True)
class PlanCost:
    """Multiply-adds beyond the base layer: ``per_position`` times positions, plus ``fixed`` per batch."""

    per_position: float
    fixed: float = 0.0

    def total(self, positions: int) -> float:
        """For a batch with that many output positions."""
        return self.per_position * positions + self.fixed
