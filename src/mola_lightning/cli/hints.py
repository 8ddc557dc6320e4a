"""Which key of the config a message is about."""

import difflib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mola_lightning.core import MolaError


@contextmanager
def locate(cfg: DictConfig) -> Iterator[None]:
    """Add to an error of ours the config key of the argument that its message begins with, if only one can be meant."""
    try:
        yield
    except MolaError as error:
        name = str(error).partition(" ")[0]
        found = [key for key in _keys(cfg) if key.endswith(f".{name}")]
        if len(found) == 1:
            error.add_note(f"(config key: {found[0]})")
        raise


def similar_keys(error: HydraException) -> list[str]:
    """One line for an override of a key that the config does not have: that it has none, and what it has instead.

    Hydra itself says how to add the key, which helps nobody who mistyped it. Empty for any other error.
    """
    named, cause = re.match(r"Could not override '(.+)'", str(error)), error.__cause__
    if named is None or not isinstance(cause, OmegaConfBaseException) or cause.parent_node is None:
        return []
    key, root = named[1], cause.parent_node._get_root()
    known = _keys(root) if isinstance(root, DictConfig) else []
    # Groups that only change other nodes (experiment, sweep, debug) are no keys.
    known += [path.name for path in files("mola_lightning.conf").iterdir() if path.is_dir() and path.name not in known]
    known = [other for other in known if other.startswith("hydra.") == key.startswith("hydra.")]
    if key in known and (below := getattr(cause, "full_key", None)) not in (None, key):
        return [
            f"this config has no key {below!r}, and a mapping is not replaced as a whole: its keys are changed one by "
            f"one. Add one with '+{below}=...', take one away with '~{key}.<name>'."
        ]
    leaf = key.rpartition(".")[2]
    same = [other for other in known if other.rpartition(".")[2] == leaf]
    near = list(dict.fromkeys([*same, *difflib.get_close_matches(key, known)]))[:3]
    hint = f"Did you mean {' or '.join(near)}?" if near else "mola-train --cfg job prints the config."
    return [f"this config has no key {key!r}. {hint}"]


def similar_options(error: HydraException) -> list[str]:
    """One line for an option of a config group that is not there: those with a similar name, or all of them.

    Hydra lists the options of groups, but not those in folders below one, as in ``experiment=digits/hps``. Empty for
    any other error.
    """
    named = re.search(r"Could not find '([\w-]+)/(.+)'", str(error))
    if named is None:
        return []
    group, option = named.groups()
    own = re.findall(r"(?:^|\0)(?:--config-dir|-cd)(?:=|\0)([^\0]+)", "\0".join(sys.argv[1:]))
    folders = [Path(place) / group for place in (str(files("mola_lightning.conf")), *own)]
    known = sorted({str(path.relative_to(f).with_suffix("")) for f in folders for path in f.rglob("*.yaml")})
    near = difflib.get_close_matches(option, known)
    if near:
        return [f"there is no {group}={option}. Did you mean {' or '.join(f'{group}={other}' for other in near)}?"]
    return [f"there is no {group}={option}. There are: {', '.join(known)}."] if known else []


def _keys(config: DictConfig) -> list[str]:
    """The dotted paths of all keys; what refers to another place by interpolation is not followed."""

    def below(content: Any, path: str) -> Iterator[str]:
        for key, value in content.items() if isinstance(content, dict) else ():
            yield f"{path}{key}"
            yield from below(value, f"{path}{key}.")

    return list(below(OmegaConf.to_container(config, resolve=False), ""))
