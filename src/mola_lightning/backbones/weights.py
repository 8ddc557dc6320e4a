"""Weights of a backbone from a local file, strictly."""

import pickle
from pathlib import Path

from timm.models import load_state_dict
from torch import nn

from mola_lightning.core import ConfigError


def load_weights(net: nn.Module, path: str | Path) -> None:
    """Load a file of weights into a backbone; every entry must fit, but for the classifier that the backbone lacks.

    Args:
        net: a timm model made with ``num_classes=0``.
        path: a state dict saved by ``torch.save`` (bare, or under ``"state_dict"`` or ``"model"``) or in the
            safetensors format. Read with ``weights_only=True``: a file cannot run code.

    Raises:
        ConfigError: when the file is missing or unreadable, or its entries and the backbone's differ.
    """
    if not Path(path).is_file():
        raise ConfigError(f"checkpoint_path: no file {str(path)!r}; give the path of a local file of weights")
    try:
        found = load_state_dict(str(path), use_ema=False, weights_only=True)
        shapes = {key: tuple(value.shape) for key, value in found.items()}
    except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, KeyError) as error:
        raise ConfigError(f"checkpoint_path: {str(path)!r} holds no state dict of tensors: {error}") from error
    expected = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    classifiers = _classifiers(net)
    extra = [key for key in shapes if key not in expected]
    unexpected = [key for key in extra if not key.startswith(classifiers)]
    problems = {
        "missing": [key for key in expected if key not in shapes],
        "unexpected": unexpected,
        "of another shape": [
            f"{key} {shapes[key]} instead of {expected[key]}"
            for key in expected
            if key in shapes and shapes[key] != expected[key]
        ],
    }
    if any(problems.values()):
        report = "; ".join(f"{len(keys)} {what}: {_some(keys)}" for what, keys in problems.items() if keys)
        raise ConfigError(
            f"checkpoint_path: {str(path)!r} does not fit this {type(net).__name__}: {report}. Check the backbone's "
            "name and its options (in_channels, image_size, small_images)"
        )
    net.load_state_dict({key: value for key, value in found.items() if key in expected})


def _classifiers(net: nn.Module) -> tuple[str, ...]:
    """Prefixes of the entries of a classifier, as timm names it for this model."""
    names = getattr(net, "default_cfg", {}).get("classifier") or "fc"
    return tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))


def _some(keys: list[str], limit: int = 5) -> str:
    """The first few of a list, in words."""
    more = f" and {len(keys) - limit} more" if len(keys) > limit else ""
    return ", ".join(keys[:limit]) + more
