"""Signals that ask a training to stop: served between two steps, when all is saved."""

import logging
import signal
import threading
from typing import Any

log = logging.getLogger(__name__)

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


class RunInterrupted(BaseException):
    """A signal ended a training, which was saved before.

    Not an Exception: a run that was stopped did not fail.

    Args:
        signum: the signal.
        epoch: the epoch that goes on, from 0.
        step: optimiser steps done.
    """

    def __init__(self, signum: int, epoch: int, step: int) -> None:
        super().__init__(signum, epoch, step)
        self.signum, self.epoch, self.step = signum, epoch, step

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.signum).name} in epoch {self.epoch + 1}, after step {self.step}"


class StopSignals:
    """Notes SIGINT (Ctrl-C), SIGTERM and SIGUSR2 while it is installed; a second SIGINT stops at once.

    Each signal has one owner. Where a job launcher has a handler for SIGUSR2 of its own, it decides about the job's
    end: SIGUSR2 is handed on to it once all is saved, and SIGTERM only saves.

    Attributes:
        received: the signal that waits to be served, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def install(self) -> None:
        """Take the signals over; nothing outside the main thread, where Python does not allow it."""
        if threading.current_thread() is threading.main_thread() and not self._before:
            self._before = {signum: signal.signal(signum, self._note) for signum in HANDLED}

    def restore(self) -> None:
        """Give the signals back to whoever had them."""
        while self._before:
            signum, handler = self._before.popitem()
            # None: of a library in C, which Python cannot name
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)

    def _note(self, signum: int, frame: Any) -> None:
        if signum == signal.SIGINT and self.received == signal.SIGINT:
            log.warning("stopped in the midst of a step; the run goes on from its last checkpoint when started again")
            raise KeyboardInterrupt
        if signum == signal.SIGINT:
            log.warning("interrupted: this step is finished and saved; Ctrl-C again stops at once")
        self.received = signum

    def serve(self, signum: int, epoch: int, step: int) -> None:
        """End the run as a signal asks, now that all is saved.

        Args:
            signum: the signal; with several processes another one may have received it.
            epoch: that goes on, from 0.
            step: optimiser steps done.

        Raises:
            RunInterrupted: unless a launcher's handler looks after it.
        """
        self.received = None
        launcher = self._before.get(signal.SIGUSR2)
        if not callable(launcher):
            raise RunInterrupted(signum, epoch, step)
        if signum == signal.SIGUSR2:
            self.restore()
            signal.raise_signal(signum)
        elif signum == signal.SIGINT:
            raise RunInterrupted(signum, epoch, step)
