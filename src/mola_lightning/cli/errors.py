"""From an exception to what a user reads: the message of an error of ours, or the whole traceback of anything else."""

import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

from hydra.errors import HydraException
from rich.console import Console
from rich.logging import RichHandler
from rich.text import Text
from yaml import YAMLError

from mola_lightning.cli.hints import similar_keys, similar_options
from mola_lightning.core import MolaError
from mola_lightning.training.signals import RunInterrupted

# From here on Hydra's message about a name that is not there helps nobody who was told a name that is.
INNER_WORKINGS = re.compile(r"\nConfig search path:|\nKey '.*' is not in struct")


def setup_logging() -> None:
    """Our messages and everyone's warnings to stderr, once."""
    root = logging.getLogger()
    if any(isinstance(handler, RichHandler) for handler in root.handlers):
        return
    handler = RichHandler(console=Console(stderr=True), show_path=False, show_time=False, markup=False)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("mola_lightning").setLevel(logging.INFO)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.captureWarnings(True)
    warnings.filterwarnings("ignore", message=r"Checkpoint directory .* exists and is not empty")  # of a resumed run
    # Lightning's own use of a deprecated torch name, at every batch transfer; nothing a user could act on
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`")


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def mola_error(error: BaseException) -> MolaError | None:
    """The error of ours that ``error`` is or was raised from: Hydra wraps what a constructor raises."""
    return next((cause for cause in causes(error) if isinstance(cause, MolaError)), None)


def show_error(message: str) -> None:
    """One red message on stderr."""
    Console(stderr=True).print(Text(f"error: {message}", style="red"), soft_wrap=True)


def _message(error: MolaError) -> str:
    """What the error says. One that comes of a loader's worker has the worker's whole traceback in front of it."""
    text = str(error)
    return text.rpartition(f"{type(error).__name__}: ")[2].strip() if "Original Traceback" in text else text


def explain(error: BaseException) -> str | None:
    """The message for an error that a user caused and can mend; None for any other."""
    ours = mola_error(error)
    if ours is not None:
        return " ".join([_message(ours), *getattr(ours, "__notes__", [])])
    if any("No supported gpu backend" in str(cause) for cause in causes(error)):
        return "trainer.accelerator asks for a GPU, and torch sees none here; choose trainer=cpu"
    if isinstance(error, HydraException):
        hints = [*similar_keys(error), *similar_options(error)]
        because = [str(cause) for cause in causes(error.__cause__)][: 0 if hints else 1]
        said = INNER_WORKINGS.split(str(error))[0].strip() if hints else str(error)
        return "\n".join([*hints, said, *(text for text in because if text not in said)])
    if isinstance(error, RuntimeError) and (worker := re.match(r"DataLoader worker \(pid.*", str(error))):
        return (
            f"{worker.group().rstrip('. ')}. Usually the memory did not suffice: fewer workers (data.num_workers) or a "
            "smaller batch (data.batch_size). The run goes on from its last checkpoint when it is started again in its "
            "folder."
        )
    if isinstance(error, YAMLError):
        return f"a config is not valid YAML: {' '.join(str(error).split())}"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}. Choose another folder with paths.runs=... or paths.cache=..."
    return None


def _say_interrupted(interruption: BaseException, what: str) -> None:
    """On stderr, with what the place that was interrupted has noted."""
    notes = getattr(interruption, "__notes__", [])
    Console(stderr=True).print(". ".join([what, *notes]), soft_wrap=True, markup=False)


def command(function: Callable[..., Any]) -> Callable[..., None]:
    """Entry point: what a user can mend becomes a message and exit code 1, Ctrl-C a message and 130; anything else
    keeps its traceback.

    With HYDRA_FULL_ERROR=1 in the environment everything keeps its traceback.
    """

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        setup_logging()
        before = os.environ.get("HYDRA_FULL_ERROR")
        debug = (before or "") not in ("", "0")
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors on to us instead of printing them
        try:
            function(*args, **kwargs)
        except Exception as error:
            message = None if debug else explain(error)
            if message is None:
                raise
            show_error(message)
            sys.exit(1)
        except RunInterrupted as interruption:
            _say_interrupted(interruption, str(interruption))
            sys.exit(128 + interruption.signum)
        except KeyboardInterrupt as interruption:
            if debug:
                raise
            _say_interrupted(interruption, "interrupted")
            sys.exit(128 + signal.SIGINT)
        finally:
            if before is None:
                del os.environ["HYDRA_FULL_ERROR"]
            else:
                os.environ["HYDRA_FULL_ERROR"] = before

    return wrapped
