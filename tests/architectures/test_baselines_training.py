"""The schemes as users meet them: their yamls, and a training that tells them how far it is."""

import inspect
import pickle
import random
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig

from mola_lightning.architectures import LTB, Architecture
from mola_lightning.backbones import create_small_resnet
from mola_lightning.core import Batch, ConfigError, Task, TaskRows
from mola_lightning.data import MultiTaskDataModule, TensorSource
from mola_lightning.training import MultiTaskModule

RECIPES = sorted(path.stem for path in (Path(__file__).parents[2] / "conf" / "architecture").glob("*.yaml"))
TASKS = (Task("a", 3), Task("b", 2))
SHAPE = (3, 8, 8)
GIVEN_BY_DATA = {"tasks", "image_shape"}


@pytest.fixture(scope="module", autouse=True)
def _configs() -> Iterator[None]:
    GlobalHydra.instance().clear()
    with initialize_config_module("mola_lightning.conf", version_base="1.3"):
        yield


@cache
def _composed(recipe: str, *overrides: str) -> bytes:
    return pickle.dumps(compose("train", [f"architecture={recipe}", "paths.run=unused", *overrides]))


def composed(recipe: str, *overrides: str) -> DictConfig:
    return pickle.loads(_composed(recipe, *overrides))


def module_of(cfg: DictConfig) -> MultiTaskModule:
    architecture = instantiate(cfg.architecture, _convert_="all")(tasks=TASKS, image_shape=SHAPE)
    return MultiTaskModule(TASKS, architecture, auxiliary=instantiate(cfg.auxiliary, _convert_="all"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_build_and_learn(recipe: str) -> None:
    cfg = composed(recipe)
    module = module_of(cfg)
    assert (cfg.method or module.architecture.method) == {"mola": "mola_router"}.get(recipe, recipe)
    targets = {"a": torch.tensor([0, 2, 1]), "b": torch.tensor([1, 0])}
    rows = TaskRows.from_task_ids(torch.tensor([0, 0, 1, 0, 1]), ("a", "b"))
    total = module.training_step(Batch(torch.randn(5, *SHAPE), targets, rows), 0)
    total.backward()
    assert total.isfinite()


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_say_every_option_and_its_default(recipe: str) -> None:
    said: dict[str, Any] = dict(composed(recipe).architecture)
    target: type[Architecture] = get_class(said.pop("_target_"))
    assert said.pop("_partial_") is True
    parameters = inspect.signature(target).parameters
    assert set(said) == set(parameters) - GIVEN_BY_DATA
    parts = {"backbone", "adapter", "router", "match"}  # built by other recipes
    assert {k: v for k, v in said.items() if k not in parts} == {
        k: p.default for k, p in parameters.items() if k not in parts | GIVEN_BY_DATA
    }


def test_the_width_of_hps_wide_can_be_said() -> None:
    cfg = composed("hps_wide", "architecture.widen_to=50000", "architecture.match=null")
    found = sum(p.numel() for p in module_of(cfg).architecture.parameters())
    assert found == pytest.approx(50000, rel=0.05)


def source() -> TensorSource:
    draw = random.Random(0)
    splits = {
        split: {
            name: (torch.randn(12, *SHAPE), torch.tensor([draw.randrange(classes) for _ in range(12)]))
            for name, classes in (("a", 3), ("b", 2))
        }
        for split in ("train", "val", "test")
    }
    return TensorSource(splits, num_classes={"a": 3, "b": 2})


def fitted(tmp_path: Path, **settings: Any) -> pl.Trainer:
    backbone = partial(create_small_resnet, widths=(4, 6), blocks=(1, 1))
    module = MultiTaskModule(TASKS, LTB(TASKS, backbone, warmup=0.5, image_shape=SHAPE))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    trainer = pl.Trainer(**{"max_epochs": 3, **quiet, **settings}, accelerator="cpu", default_root_dir=tmp_path)
    trainer.fit(module, MultiTaskDataModule(source(), batch_size=8))
    return trainer


def test_progress_reaches_the_architecture_and_its_checkpoint(tmp_path: Path) -> None:
    trainer = fitted(tmp_path)
    architecture = trainer.lightning_module.architecture
    assert architecture.get_extra_state() == {"epoch": 2, "epochs": 3}
    assert not architecture.warming_up
    assert all(weights.any() for weights in architecture.last_logits)  # the last epoch's draws taught the heads
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    fresh = LTB(TASKS, partial(create_small_resnet, widths=(4, 6), blocks=(1, 1)), warmup=0.5, image_shape=SHAPE)
    assert fresh.warming_up
    fresh.load_state_dict({k.removeprefix("architecture."): v for k, v in state.items() if k.startswith("archi")})
    assert not fresh.warming_up
    assert fresh.paths() == architecture.paths()


def test_progress_needs_a_number_of_epochs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="got max_epochs=-1"):
        fitted(tmp_path, max_epochs=-1, max_steps=2)
