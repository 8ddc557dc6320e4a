"""Equal runs have equal keys wherever they run, other runs have others; names are those that a user chose."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from mola_lightning.cli.naming import config_key, method_name
from mola_lightning.core import Task

CONF = Path(__file__).parents[2] / "conf"
Compose = Callable[..., DictConfig]


@pytest.fixture(scope="module")
def composed() -> Compose:
    """``composed("seed=1")``: a config with its ``hydra`` node."""

    def made(*overrides: str) -> Any:
        GlobalHydra.instance().clear()
        with initialize_config_module("mola_lightning.conf", version_base="1.3"):
            return compose("train", list(overrides), return_hydra_config=True)

    return made


def test_a_key_is_that_of_the_run(composed: Compose) -> None:
    """Folders, caches, loggers and Hydra's own settings may differ."""
    keys = {
        config_key(composed(*overrides))
        for overrides in (
            (),
            ("paths.runs=elsewhere", "paths.cache=/data", "paths.run=here", "skip_done=false", "figures=false"),
            ("logger=wandb", "hydra/launcher=joblib", "hydra.sweep.dir=elsewhere"),
            ("seed=0", "architecture=mola"),
        )
    }
    assert len(keys) == 1


def test_a_job_finds_the_key_of_its_folder(composed: Compose) -> None:
    """Jobs see their config without the ``hydra`` node; the folder's name is made of the config with it."""
    whole = composed("architecture=hps", "hydra.runtime.output_dir=/somewhere")
    task = OmegaConf.masked_copy(whole, [str(key) for key in whole if key != "hydra"])
    assert config_key(task) == config_key(whole)
    assert whole.hydra.sweep.subdir == f"hps_seed0_{config_key(task)[:8]}"


def test_a_key_does_not_change_the_config(composed: Compose) -> None:
    config = composed("architecture=hps")
    before = OmegaConf.to_yaml(config)
    config_key(config)
    assert OmegaConf.to_yaml(config) == before


@pytest.mark.parametrize(
    "override",
    ["seed=1", "optimizer.lr=0.5", "balancer=dwa", "method=mine", "debug=quick", "+parameter_groups.lora_.lr=1"],
)
def test_other_runs_have_other_keys(override: str, composed: Compose) -> None:
    assert config_key(composed(override)) != config_key(composed())


def test_neither_order_nor_spelling_matters() -> None:
    config = OmegaConf.create({"a": {"x": 1e-3, "y": "${b}"}, "b": 2, "paths": {"runs": "runs"}})
    other = OmegaConf.create({"paths": {"runs": "elsewhere"}, "b": 2, "a": {"y": "${b}", "x": 0.001}})
    assert config_key(config) == config_key(other)


def test_a_config_that_cannot_be_resolved_has_a_key() -> None:
    broken = {"a": "${nothing}", "paths": {}}
    assert config_key(OmegaConf.create(broken)) != config_key(OmegaConf.create({**broken, "b": 1}))


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["architecture=hps"], "hps"),
        (["architecture=hps", "balancer=cagrad"], "hps+cagrad"),
        (["architecture=hps", "balancer=ls"], "hps"),  # another name of the plain sum, as the summary says
        (["architecture=mola_no_twd"], "mola_no_twd"),
        (["architecture=hps", "balancer=cagrad", "method=mine"], "mine"),
        (["method='a b/c:${seed}'", "seed=7"], "a_b_c_7"),
    ],
)
def test_a_method_is_called_as_it_was_chosen(overrides: list[str], name: str, composed: Compose) -> None:
    assert method_name(composed(*overrides)) == name


@pytest.mark.parametrize("file", sorted(CONF.glob("architecture/*.yaml")), ids=lambda file: file.stem)
def test_folder_and_model_have_one_name(file: Path, composed: Compose) -> None:
    config = composed(f"architecture={file.stem}")
    tasks = [Task("a", 2), Task("b", 3)]
    built = instantiate(config.architecture, _convert_="all")(tasks=tasks, image_shape=(1, 28, 28))
    assert method_name(config) == (config.method or built.method)


def test_debug_runs_lie_apart(composed: Compose, tmp_path: Path) -> None:
    for debug in ("quick", "overfit"):
        config = composed(f"debug={debug}", "sweep=digits/balancers", "architecture=hps", f"paths.runs={tmp_path}")
        assert Path(config.hydra.sweep.dir).is_relative_to(tmp_path / "debug")
        assert Path(config.hydra.run.dir).is_relative_to(tmp_path / "debug")
        assert config.hydra.run.dir.endswith("_hps_seed0")
