"""A command line as a function call, for notebooks: the words of a shell, without the seconds that a process takes to
start.
"""

import shlex
import sys
from importlib.metadata import distribution

from hydra.core.global_hydra import GlobalHydra

from mola_lightning.core import ConfigError, MolaError


class CommandFailed(MolaError):
    """A command ended with an exit code other than 0; what it said stands above, on stderr."""


def call(line: str) -> None:
    """Run one of our commands in this process: ``call("mola-train -m architecture=hps,mola seed=0,1")``.

    Args:
        line: as in a shell, quotes included, but without what only a shell does (variables, wildcards, pipes).

    Raises:
        ConfigError: when its first word is none of our commands.
        CommandFailed: when it ends with another exit code than 0.
    """
    words = shlex.split(line)
    commands = {entry.name: entry for entry in distribution("mola-lightning").entry_points}
    if not words or words[0] not in commands:
        raise ConfigError(f"expected a line that begins with one of {', '.join(sorted(commands))}, got {line!r}")
    main, before = commands[words[0]].load(), sys.argv
    sys.argv = words
    GlobalHydra.instance().clear()  # of what was composed before in this process
    try:
        code = main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = before
        GlobalHydra.instance().clear()
    if code:
        raise CommandFailed(f"{line!r} ended with exit code {code}; its message stands above")
