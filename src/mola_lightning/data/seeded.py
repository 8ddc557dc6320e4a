"""Random draws of transforms: functions of a seed, without a trace in the generators that everyone shares."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def generators_restored() -> Iterator[None]:
    """Put the global generators of torch (CPU), numpy and Python back afterwards to where they were.

    It takes a fraction of a millisecond, so it is entered once a batch; :func:`reseed`, once an image, takes little.
    """
    states = torch.default_generator.get_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        yield
    finally:
        torch.default_generator.set_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        random.setstate(states[2])


def reseed(seed: int) -> None:
    """Seed the three generators: transforms draw from whichever their authors chose.

    Unlike ``torch.manual_seed`` this leaves the generators of accelerators alone.
    """
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)
