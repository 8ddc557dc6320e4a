"""Errors that a user can act on: what was expected, what was found, what to do next."""

from collections.abc import Iterable


class MolaError(Exception):
    """Base of the errors that mola_lightning raises on purpose; the command line shows them without a traceback."""


class ConfigError(MolaError, ValueError):
    """A setting has a value that cannot work, alone or together with another one."""


class DataError(MolaError, ValueError):
    """The data contradict what was said of them: a label out of range, an empty task, a broken file."""


class RunFolderError(MolaError, OSError):
    """A run folder, or a file in it, is missing, unreadable or cannot be written."""


def require(condition: bool, message: str) -> None:
    """Raise :class:`ConfigError` with ``message`` unless ``condition`` holds."""
    if not condition:
        raise ConfigError(message)


def one_of(name: str, value: object, choices: Iterable[object]) -> None:
    """Raise :class:`ConfigError` unless ``value`` is among ``choices``."""
    choices = list(choices)
    require(value in choices, f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def positive_int(name: str, value: object) -> None:
    """Raise :class:`ConfigError` unless ``value`` is an int of at least 1 (a bool is not)."""
    ok = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    require(ok, f"{name} must be an integer >= 1, got {value!r}")
