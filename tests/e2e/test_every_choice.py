"""A run of every architecture in every regime, and of every balancer, composed and trained as from the command line."""

import json
import math
import pickle
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from mola_lightning.cli import train as command
from mola_lightning.core import ConfigError, Regime

pytestmark = pytest.mark.slow  # the file, not its single tests

CONF = Path(__file__).parents[2] / "conf"
TASKS = ["a", "b", "c"]
TINY = (
    "sampler=proportional",
    "data.batch_size=12",
    "backbone.widths=[4,6]",
    "backbone.blocks=[1,1]",
    "trainer.max_epochs=1",
    "callbacks.last=null",  # after one epoch it is the best
    "callbacks.records.num_conflict_batches=1",
    "figures=false",
)
SMALL_ROUTER = ("router.widths=[4,6]", "router.blocks=1")
ROUTED_BY_IMAGE = ("mola", "mola_hard", "mola_no_twd", "mola_task_ce")
WITH_AUXILIARY = {"mola": "twd", "mola_hard": "twd", "mola_task_ce": "task_cross_entropy"}
FEATURE_LEVEL = {"mgda_ub": "mgda", "aligned_mtl_ub": "aligned_mtl"}  # -> the form for parameter gradients


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.fixture(scope="module", autouse=True)
def _own_modules() -> Iterator[None]:
    """As a user's module beside the command: ``tiny_sources`` can be imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent)
        yield


@cache
def _composed(*overrides: str) -> bytes:
    GlobalHydra.instance().clear()
    own = ("~data.source", "+data.source._target_=tiny_sources.domains", "paths.run=unset")
    with initialize_config_module("mola_lightning.conf", version_base="1.3"):
        return pickle.dumps(compose("train", [*own, *TINY, *overrides]))


def composed(*overrides: str) -> DictConfig:
    """What ``mola-train`` composes, with data of one's own; kept, as composing takes as long as the run."""
    return pickle.loads(_composed(*overrides))


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., DictConfig]:
    """``config(regime, architecture, *overrides)``: a run of the architecture on data of the regime."""

    def made(regime: Regime, architecture: str, *overrides: str) -> DictConfig:
        small = SMALL_ROUTER if architecture in ROUTED_BY_IMAGE else ()
        cfg = composed(f"architecture={architecture}", *small, *overrides)
        cfg.data.source["_target_"] = f"tiny_sources.{regime.value}"
        cfg.paths.run = str(tmp_path / "run")
        return cfg

    return made


Config = Callable[..., DictConfig]


class Trained(NamedTuple):
    """A run: its summary, its trainable parameters, and those of them that it changed."""

    summary: dict[str, Any]
    trainable: set[str]
    changed: set[str]


def run(cfg: DictConfig) -> Trained:
    """A run, after a look at what it left."""
    folder, build, kept = Path(cfg.paths.run), command.build_run, []

    def built(*arguments: Any) -> Any:
        parts = build(*arguments)
        fresh = {name: p.detach().clone() for name, p in parts.module.named_parameters() if p.requires_grad}
        kept.append((parts.module, fresh))
        return parts

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "build_run", built)
        score = command.train(cfg, folder, sweep=True)
    assert 0 <= score <= 1
    journal = pd.read_csv(folder / "metrics.csv")
    assert journal["train/loss"].map(math.isfinite).any()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "done"
    assert summary["tasks"] == TASKS
    for split in ("val", "test") if cfg.test else ("val",):
        assert all(math.isfinite(summary[split][task]["loss"]) for task in TASKS)
    ((module, fresh),) = kept
    trained = dict(module.named_parameters())
    assert all(trained[name].isfinite().all() for name in fresh)
    return Trained(summary, set(fresh), {name for name, p in fresh.items() if not torch.equal(p, trained[name])})


# ---------------------------------------------------------------------------------------------------- architectures


@pytest.mark.parametrize("regime", Regime)
@pytest.mark.parametrize("architecture", options("architecture"))
def test_every_architecture_in_every_regime(architecture: str, regime: Regime, config: Config) -> None:
    cfg = config(regime, architecture)
    if regime not in get_class(cfg.architecture["_target_"]).regimes:
        with pytest.raises(ConfigError, match=rf"not defined for the {regime.value} regime.*architecture="):
            run(cfg)
        return
    if regime is Regime.SINGLE_INPUT and architecture in WITH_AUXILIARY:
        refused = rf"'{WITH_AUXILIARY[architecture]}' is not defined for the single_input regime.*auxiliary=none"
        with pytest.raises(ConfigError, match=refused):
            run(cfg)
        cfg = config(regime, architecture, "auxiliary=none")
    summary, _, changed = run(cfg)
    assert summary["multiply_adds"] > 0
    assert summary["parameters"]["heads"] > 0
    assert (summary["routing"] is not None) == ("router" in cfg.architecture)
    assert {name.split(".")[0] for name in changed} >= {"architecture", "heads"}


# -------------------------------------------------------------------------------------------------------- balancers


@pytest.mark.parametrize("architecture", ["hps", "mola_grad", pytest.param("mola", marks=pytest.mark.soak)])
@pytest.mark.parametrize("balancer", [name for name in options("balancer") if name not in FEATURE_LEVEL])
def test_every_balancer_trains_every_parameter(balancer: str, architecture: str, config: Config) -> None:
    """Also those of the balancer itself; without weight decay, which would move what has no gradient."""
    cfg = config(Regime.DOMAINS, architecture, "test=false", "optimizer.weight_decay=0")
    cfg.balancer = OmegaConf.load(CONF / f"balancer/{balancer}.yaml")
    summary, trainable, changed = run(cfg)
    plain = balancer in ("equal", "ls")
    assert ("+" in summary["method"]) != plain
    assert trainable == changed


@pytest.mark.parametrize("architecture", ["hps", "mola"])
@pytest.mark.parametrize("balancer", FEATURE_LEVEL)
def test_balancers_of_features_where_tasks_share_rows(balancer: str, architecture: str, config: Config) -> None:
    given = (f"balancer={balancer}", "auxiliary=none", "test=false", "optimizer.weight_decay=0")
    cfg = config(Regime.SINGLE_INPUT, architecture, *given)
    _, trainable, changed = run(cfg)
    assert trainable == changed


@pytest.mark.parametrize("regime", [Regime.DOMAINS, Regime.MULTI_INPUT])
@pytest.mark.parametrize("balancer", FEATURE_LEVEL)
def test_balancers_of_features_where_rows_are_disjoint(balancer: str, regime: Regime, config: Config) -> None:
    refused = rf"{regime.value} regime each row belongs to one task.*diagonal.*balancer={FEATURE_LEVEL[balancer]}\)"
    cfg = config(regime, "hps", f"balancer={balancer}")
    with pytest.raises(ConfigError, match=refused):
        command.train(cfg, Path(cfg.paths.run), sweep=True)
    assert not (Path(cfg.paths.run) / "config.yaml").exists()


@pytest.mark.parametrize("balancer", FEATURE_LEVEL)
def test_balancers_of_features_where_each_task_has_its_own(balancer: str, config: Config) -> None:
    cfg = config(Regime.SINGLE_INPUT, "mola_grad", f"balancer={balancer}")
    with pytest.raises(
        ConfigError, match=rf"features of its own.*architecture=hps.*balancer={FEATURE_LEVEL[balancer]}"
    ):
        command.train(cfg, Path(cfg.paths.run), sweep=True)


def test_samplers_by_task_where_rows_have_several(config: Config) -> None:
    cfg = config(Regime.SINGLE_INPUT, "hps")
    cfg.sampler = composed("architecture=hps", "sampler=balanced").sampler
    with pytest.raises(ConfigError, match=r"BalancedSampler.*several tasks.*sampler=proportional"):
        command.train(cfg, Path(cfg.paths.run), sweep=True)
