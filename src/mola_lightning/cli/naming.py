"""What a run is called. In a sweep the name of its folder is a function of its configuration, so that launching the
sweep again finds what is there.

Importing this module registers two resolvers for config files: ``${mola.method:}`` and ``${mola.key:}``.
"""

import hashlib
import json
import re
from pkgutil import resolve_name
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mola_lightning.architectures import Architecture
from mola_lightning.balancers import EqualWeights

# Where a run is launched from and written to, and what is drawn of it: the same run with any of them.
LEFT_OUT = ("hydra", "paths", "skip_done", "resume", "logger", "figures")
SHORT = 8  # hex digits of the key in a folder's name


def config_key(config: DictConfig) -> str:
    """What tells one run from another: a SHA-256 of the resolved config, without :data:`LEFT_OUT`.

    Values of ``paths`` count as constants wherever others refer to them: a run is the same on another machine.

    Args:
        config: a composed config, with or without its ``hydra`` node.

    Returns:
        64 hex digits.
    """
    content = config_content(config)
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def config_content(config: DictConfig) -> dict[str, Any]:
    """The resolved config without :data:`LEFT_OUT`, as plain containers; values of ``paths`` as constants."""
    copy = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    for key in copy.paths:
        copy.paths[key] = f"paths.{key}"
    try:
        return {str(key): _plain(copy[key]) for key in copy if key not in LEFT_OUT}
    except OmegaConfBaseException:
        # The run itself will fail on it and say so; without a name for it, no other run of the sweep would start.
        whole: Any = OmegaConf.to_container(copy, resolve=False, enum_to_str=True)
        return {key: value for key, value in whole.items() if key not in LEFT_OUT}


def method_name(config: DictConfig) -> str:
    """``method`` if it is set; else what the architecture calls itself, and the balancer: see :func:`with_balancer`.

    Args:
        config: a composed config with its ``hydra`` node, where the choices stand.

    Returns:
        The name that ``summary.json`` will say, with ``_`` for what file names had better not hold.
    """
    name = OmegaConf.select(config, "method", throw_on_resolution_failure=False)
    if name is None:
        choices = OmegaConf.select(config, "hydra.runtime.choices") or {}
        scheme = _scheme(config) or choices.get("architecture") or "run"
        name = with_balancer(scheme, _balancer(config), choices.get("balancer"))
    return re.sub(r"[^\w.+-]+", "_", str(name))


def with_balancer(scheme: str, balancer: type | None, chosen: str | None) -> str:
    """The name of a method in tables and folders: the scheme's, and the balancer's unless it is the plain sum.

    Args:
        scheme: what the architecture calls itself.
        balancer: the balancer's class; None where it is not known.
        chosen: the choice in the config group; None outside of a command, where the class gives the name.
    """
    own = chosen or (balancer.__name__.lower() if balancer is not None else "equal")
    return scheme if balancer is EqualWeights or own == "equal" else f"{scheme}+{own}"


def _balancer(config: DictConfig) -> type | None:
    """The balancer's class; None where the config does not tell."""
    try:
        found = resolve_name(config.balancer._target_)
    except (OmegaConfBaseException, ImportError, AttributeError, TypeError, ValueError):
        return None
    return found if isinstance(found, type) else None


def _scheme(config: DictConfig) -> str | None:
    """The name that the architecture's class has for itself with such parts; None where the config does not tell."""
    try:
        node = _plain(config.architecture)
        classes = {key: resolve_name(part["_target_"]) for key, part in node.items() if "_target_" in _mapping(part)}
        scheme = resolve_name(node["_target_"])
        # a user may have given a function that builds one
        return scheme.method_of(**classes) if isinstance(scheme, type) and issubclass(scheme, Architecture) else None
    except (OmegaConfBaseException, ImportError, AttributeError, KeyError, TypeError, ValueError):
        return None  # what is wrong in the config the run itself will say


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True, enum_to_str=True) if OmegaConf.is_config(value) else value


OmegaConf.register_new_resolver("mola.method", lambda _root_: method_name(_root_), replace=True)
OmegaConf.register_new_resolver("mola.key", lambda _root_: config_key(_root_)[:SHORT], replace=True)
