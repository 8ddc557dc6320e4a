"""Config files say what constructors say: the same names, and the same defaults where a file does not mean another."""

import inspect
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

CONF = Path(__file__).parents[2] / "conf"
SPECIAL = {"_target_", "_partial_", "_convert_", "_args_", "_recursive_"}

# Given by the code that builds the object, so a file has nothing to say about them.
GIVEN = {
    "architecture": {"tasks", "image_shape"},
    "backbone": {"in_channels", "image_size"},
    "head": {"in_features", "task"},
    "adapter": {"net", "num_experts"},
    "router": {"num_experts", "in_channels"},
    "auxiliary": {"num_experts", "num_tasks"},
    "balancer": {"num_tasks"},
    "sampler": {"dataset", "batch_size", "seed", "rank", "world_size"},
}
# Left out of a file on purpose.
UNSAID = {
    "sampler": {"drop_last"},  # false changes the size of the last step: for code that knows why
    "callbacks": {"warmup"},  # of the step timer
}
# Options of the constructor that this network does not have.
INAPPLICABLE = {"vit_tiny", "convnext_atto", "efficientnet_lite0"}
FILES = ("vlcs", "office_home", "pacs", "domainnet", "medmnist", "radimagenet", "nyuv2", "image_folders")
# A file that differs from the constructor's default because that is what the file is for.
MEANT = {
    "adapter/factorised": {"kind"},
    "adapter/full": {"kind"},
    "data/digits": {"eval_batch_size"},
    "data/glyphs": {"eval_batch_size", "num_train"},
    "data/rooms": {"batch_size", "eval_batch_size"},
    # what suits the images of these; names of domains are said, where the constructor's None means all
    **{f"data/{name}": {"batch_size", "eval_batch_size", "num_workers", "domains"} for name in FILES},
    "transform/paper_domains": {"train", "eval", "mean", "std"},
    "transform/paper_medmnist": {"train", "eval"},
    "transform/paper_radimagenet": {"train", "eval", "mean", "std"},
}


def nodes(content: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Each constructor call below ``content``, with its place."""
    if isinstance(content, dict):
        if "_target_" in content:
            yield path, content
        for key, value in content.items():
            yield from nodes(value, f"{path}.{key}".lstrip("."))


def calls() -> list[Any]:
    found = []
    for file in sorted(CONF.rglob("*.yaml")):
        name = str(file.relative_to(CONF).with_suffix(""))
        for place, node in nodes(OmegaConf.to_container(OmegaConf.load(file), resolve=False)):
            found.append(pytest.param(name, node, id=f"{name}:{place}" if place else name))
    return found


def parameters_of(target: str) -> tuple[dict[str, inspect.Parameter], bool]:
    """The arguments by name, and whether any other is taken too."""
    found = inspect.signature(get_object(target)).parameters
    named = {name: p for name, p in found.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return named, any(p.kind is p.VAR_KEYWORD for p in found.values())


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize(("name", "node"), calls())
def test_keys_are_arguments(name: str, node: dict[str, Any]) -> None:
    named, takes_others = parameters_of(node["_target_"])
    unknown = set(node) - SPECIAL - set(named)
    assert takes_others or not unknown, f"{node['_target_']} takes no {sorted(unknown)}"
    assert not set(node) & GIVEN.get(name.split("/")[0], set()), "given by the code"


OWN = [call for call in calls() if call.values[1]["_target_"].startswith("mola_lightning.")]


@pytest.mark.parametrize(("name", "node"), OWN)
def test_arguments_are_keys(name: str, node: dict[str, Any]) -> None:
    """What a user may set is in the file, with its meaning beside it."""
    group, option = name.split("/")[0], name.split("/")[-1]
    named, _ = parameters_of(node["_target_"])
    missing = set(named) - set(node) - GIVEN.get(group, set()) - UNSAID.get(group, set())
    if group == "backbone" and option in INAPPLICABLE:
        missing -= {"small_images", "zero_init_last"}
    if name == "train":  # the callback of the sweep
        missing -= {"every"}
    assert not missing, f"conf/{name}.yaml lacks {sorted(missing)} of {node['_target_']}"


@pytest.mark.parametrize(("name", "node"), OWN)
def test_defaults_are_the_same(name: str, node: dict[str, Any]) -> None:
    named, _ = parameters_of(node["_target_"])
    drifted = {}
    for key, value in node.items():
        default = named[key].default if key in named else inspect.Parameter.empty
        refers = "${" in str(value) or (isinstance(value, dict) and "_target_" in value)
        if key in SPECIAL or refers or default is inspect.Parameter.empty or key in MEANT.get(name, set()):
            continue
        # An empty list or mapping and None both say "nothing"; which of them, the constructor may choose.
        if (value or None) != (plain(default) or None) and value != plain(default):
            drifted[key] = (value, default)
    assert not drifted, f"conf/{name}.yaml and {node['_target_']} differ (file, constructor): {drifted}"


@pytest.mark.parametrize(("name", "node"), calls())
def test_what_is_called_later_is_partial(name: str, node: dict[str, Any]) -> None:
    """A group whose objects need arguments from the code is partial, and no other is."""
    group = name.split("/")[0]
    later = group in GIVEN or group in ("optimizer", "scheduler")
    assert node.get("_partial_", False) == later
    if later and node["_target_"].startswith("mola_lightning."):
        partial(get_object(node["_target_"]), **{k: v for k, v in node.items() if k not in SPECIAL})
