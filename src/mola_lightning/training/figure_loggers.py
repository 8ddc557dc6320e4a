"""Figures for the loggers that take them."""

from collections.abc import Callable, Iterable
from pathlib import Path

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from matplotlib.figure import Figure
from matplotlib.image import imread


def log_figure(loggers: Iterable[Logger], key: str, draw: Callable[[], Figure], step: int) -> None:
    """Give a figure to TensorBoard and Weights & Biases, and draw it only if one of them is there.

    Args:
        loggers: of the run; others are passed over.
        key: the figure's name.
        draw: makes the figure.
        step: optimiser steps done.
    """
    takers = _takers(loggers)
    if not takers:
        return
    figure = draw()
    for logger in takers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_figure(key, figure, global_step=step, close=False)
        else:
            logger.log_image(key, [figure], step=None)


def log_picture(loggers: Iterable[Logger], key: str, path: Path, step: int) -> None:
    """Give a PNG file to the loggers that take figures; arguments as of :func:`log_figure`."""
    for logger in _takers(loggers):
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(key, imread(path)[..., :3], global_step=step, dataformats="HWC")
            logger.experiment.flush()  # a run may end right after
        else:
            logger.log_image(key, [str(path)], step=None)


def _takers(loggers: Iterable[Logger]) -> list[TensorBoardLogger | WandbLogger]:
    return [logger for logger in loggers if isinstance(logger, TensorBoardLogger | WandbLogger)]
