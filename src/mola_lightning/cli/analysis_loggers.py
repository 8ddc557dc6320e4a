"""What a look finds, to the loggers of its run."""

import math
from collections.abc import Mapping, Sequence

from lightning.pytorch.loggers import Logger, WandbLogger

from mola_lightning.analysis.looks import Result
from mola_lightning.training.figure_loggers import log_picture


def log_results(loggers: Sequence[Logger], results: Mapping[str, Result], step: int) -> None:
    """Numbers as ``analysis/<look>/<name>``; figures as ``analysis/<file name>`` to those loggers that take them.

    Args:
        loggers: of one run; they are closed.
        results: look -> what it found.
        step: optimiser steps that the model was trained for.
    """
    for logger in loggers:
        values = {
            f"analysis/{look}/{name.replace(' ', '_')}": value
            for look, result in results.items()
            for name, value in result.numbers.items()
            if math.isfinite(value)
        }
        if values:
            logger.log_metrics(values, step=step)
        for path in (path for result in results.values() for path in result.files if path.suffix == ".png"):
            log_picture([logger], f"analysis/{path.stem}", path, step)
        logger.save()
        logger.finalize("success")
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()  # or the next run's logger would go on with this one
