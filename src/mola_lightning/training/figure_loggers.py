"""Figures for the loggers that take them."""

from collections.abc import Callable, Iterable

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from matplotlib.figure import Figure


def log_figure(loggers: Iterable[Logger], key: str, draw: Callable[[], Figure], step: int) -> None:
    """Give a figure to TensorBoard and Weights & Biases, and draw it only if one of them is there.

    Args:
        loggers: of the run; others are passed over.
        key: the figure's name.
        draw: makes the figure.
        step: optimiser steps done.
    """
    takers = [logger for logger in loggers if isinstance(logger, TensorBoardLogger | WandbLogger)]
    if not takers:
        return
    figure = draw()
    for logger in takers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_figure(key, figure, global_step=step, close=False)
        else:
            logger.log_image(key, [figure], step=None)
