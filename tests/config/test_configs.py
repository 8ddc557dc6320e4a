"""Every config file composes into a run, and every object that a file names can be built from it."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from mola_lightning.cli.build import build_module
from mola_lightning.core import Collate, ConfigError, Task
from mola_lightning.data import EpochSampler, MultiTaskDataModule, TensorSource
from mola_lightning.training import MultiTaskModule

Compose = Callable[..., Any]
CONF = Path(__file__).parents[2] / "conf"
SHAPE = (3, 32, 32)


def options(group: str) -> list[str]:
    """What can be chosen in a group; with the folder where a group has some."""
    found = sorted(str(path.relative_to(CONF / group).with_suffix("")) for path in (CONF / group).rglob("*.yaml"))
    assert found, f"conf/{group} is empty"
    return found


def every(*groups: str) -> list[str]:
    return [f"{group}={option}" for group in groups for option in options(group)]


@pytest.fixture(scope="module")
def data() -> MultiTaskDataModule:
    """Two domains of noise."""
    torch.manual_seed(0)
    parts = {name: (torch.randn(6, *SHAPE), torch.arange(6) % 3) for name in ("a", "b")}
    return MultiTaskDataModule(TensorSource({"train": parts, "val": parts}, num_classes=3), batch_size=4)


def step(module: MultiTaskModule, data: MultiTaskDataModule) -> None:
    """One optimiser step on the first rows of both tasks."""
    dataset = data.dataset("train")
    configured = module.configure_optimizers()
    optimizer = configured["optimizer"]
    loss = module.training_step(Collate(data.tasks)([dataset[row] for row in (0, 1, 6, 7)]), 0)
    loss.backward()
    optimizer.step()
    if "lr_scheduler" in configured:
        configured["lr_scheduler"]["scheduler"].step()
    assert loss.isfinite()
    assert all(p.isfinite().all() for p in module.parameters())


# -------------------------------------------------------------------------------------------------------------- compose


GROUPS = sorted({path.relative_to(CONF).parts[0] for path in CONF.rglob("*.yaml") if path.parent != CONF})


@pytest.mark.parametrize("override", every(*(group for group in GROUPS if group not in ("hydra", "router", "sweep"))))
def test_it_composes_and_resolves(override: str, compose_config: Compose) -> None:
    config = compose_config(override)
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert plain["seed"] == 0 or override.startswith(("experiment", "sweep"))
    assert {"data", "backbone", "architecture", "balancer", "auxiliary", "optimizer", "trainer", "callbacks"} <= set(
        plain
    )


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_each_command_has_a_config(path: Path, compose_config: Compose) -> None:
    needed = {"train": [], "compose": ["base=a.safetensors", "experts=[b.safetensors]"]}
    overrides = needed.get(path.stem, ["run=somewhere"])
    OmegaConf.to_container(compose_config(*overrides, name=path.stem), resolve=True, throw_on_missing=True)


@pytest.mark.parametrize("method", ["hps", "single_task", "mola_grad", "mola"])
def test_a_choice_brings_what_belongs_to_it(method: str, compose_config: Compose) -> None:
    """TwD and adapters come and go with the architecture, and a choice on the command line wins over it."""
    config = compose_config(f"architecture={method}")
    assert bool(config.auxiliary) == (method == "mola")
    assert ("adapter" in config) == method.startswith("mola")
    assert not compose_config(f"architecture={method}", "auxiliary=none").auxiliary
    if method.startswith("mola"):
        changed = compose_config(f"architecture={method}", "adapter=full", "adapter.rank=7")
        assert (changed.architecture.adapter.kind, changed.architecture.adapter.rank) == ("full", 7)


# ---------------------------------------------------------------------------------------------------------- instantiate


# Those with targets per pixel are trained by tests/e2e/test_every_dataset.py.
OF_LABELS = [o for o in every("experiment") if not o.startswith(("experiment=paper/nyuv2", "experiment=rooms"))]


def long(override: str) -> Any:
    """Large backbones: in the long tests; tests/e2e/test_every_dataset.py trains these methods on small ones."""
    return pytest.param(override, marks=pytest.mark.soak) if override.startswith("experiment=paper/") else override


@pytest.mark.parametrize("override", [long(override) for override in OF_LABELS])
def test_experiments_train(override: str, compose_config: Compose, data: MultiTaskDataModule) -> None:
    weights = ["backbone.pretrained=false"] if "paper/" in override and "radimagenet" not in override else []
    step(build_module(compose_config(override, *weights), data), data)


# Every architecture and balancer is trained by tests/e2e/test_every_choice.py.
@pytest.mark.parametrize("override", every("optimizer", "scheduler"))
def test_parts_of_any_method_train(override: str, compose_config: Compose, data: MultiTaskDataModule) -> None:
    step(build_module(compose_config(override), data), data)


@pytest.mark.parametrize("override", every("adapter", "router", "auxiliary"))
def test_parts_of_mola_train(override: str, compose_config: Compose, data: MultiTaskDataModule) -> None:
    if override.startswith("router"):
        bare = build_module(compose_config("architecture=mola", override, "auxiliary=none"), data)
        step(bare, data)
        if not bare.architecture.learned_logits:
            with pytest.raises(ConfigError, match="auxiliary=none"):
                build_module(compose_config("architecture=mola", override), data)
            return
    step(build_module(compose_config("architecture=mola", override), data), data)


@pytest.mark.parametrize("option", options("backbone"))
def test_backbones_run(option: str, compose_config: Compose) -> None:
    # MoLA looks whether the network calls each of its adapted layers.
    config = compose_config("architecture=mola", f"backbone={option}", "adapter.rank=1", "num_threads=1")
    net = instantiate(config.backbone, _convert_="all")(in_channels=3, image_size=SHAPE[1:]).eval()
    with torch.no_grad():
        assert net(torch.randn(2, *SHAPE)).shape == (2, net.num_features)


@pytest.mark.parametrize("option", options("head"))
@pytest.mark.parametrize("backbone", ["small_resnet", "resnet18"])
def test_heads_read_what_the_backbone_gives(option: str, backbone: str, compose_config: Compose) -> None:
    """A dense head takes the pooling off whatever backbone is chosen."""
    config = compose_config(f"head={option}", f"backbone={backbone}")
    net = instantiate(config.backbone, _convert_="all")(in_channels=3, image_size=SHAPE[1:]).eval()
    head = instantiate(config.head, _convert_="all")(net.num_features, Task("a", 5)).eval()
    with torch.no_grad():
        outputs = head(net(torch.randn(2, *SHAPE)), SHAPE[1:])
    assert outputs.shape == ((2, 5) if option == "linear" else (2, 5, *SHAPE[1:]))


@pytest.mark.parametrize("option", options("data"))
def test_data_is_named_after_its_file(option: str, compose_config: Compose) -> None:
    module = instantiate(compose_config(f"data={option}").data, _convert_="all")
    assert isinstance(module, MultiTaskDataModule)
    assert module.source.name.replace("_", "") in option.replace("_", "").replace("/", "")
    assert len(module.tasks) >= 2
    assert len(module.image_shape) == 3


@pytest.mark.parametrize("option", options("sampler"))
def test_samplers_visit_rows(option: str, compose_config: Compose, data: MultiTaskDataModule) -> None:
    sampler = instantiate(compose_config(f"sampler={option}").sampler, _convert_="all")
    made = sampler(data.dataset("train"), batch_size=4, seed=0, rank=0, world_size=1)
    assert isinstance(made, EpochSampler)
    assert [len(batch) for batch in made] == [4, 4, 4]
    assert MultiTaskDataModule(data.source, sampler=sampler).sampler is sampler


@pytest.mark.parametrize("option", options("trainer"))
def test_trainers_can_be_made(option: str, compose_config: Compose) -> None:
    config = compose_config(f"trainer={option}").trainer
    assert config.use_distributed_sampler is False  # the data module shards by itself
    assert config.num_sanity_val_steps == 0  # else a resumed run differs from one in one piece
    if config.accelerator == "cpu" and config.devices == 1:
        trainer = instantiate(config, _convert_="all", logger=False, enable_checkpointing=False)
        assert isinstance(trainer, pl.Trainer)
        assert trainer.max_epochs == config.max_epochs


@pytest.mark.parametrize("option", options("callbacks"))
def test_callbacks_can_be_made(option: str, compose_config: Compose, tmp_path: Path) -> None:
    made = instantiate(compose_config(f"callbacks={option}").callbacks, _convert_="all")
    assert all(isinstance(callback, pl.Callback) for callback in made.values())
    assert {"best", "last"} <= set(made)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", options("logger"))
def test_loggers_can_be_made(option: str, compose_config: Compose, tmp_path: Path) -> None:
    made = instantiate(compose_config(f"logger={option}").logger, _convert_="all")
    for logger in made.values():
        assert Path(logger.save_dir).is_relative_to(tmp_path / "run")


@pytest.mark.parametrize("option", options("debug"))
def test_debug_is_short(option: str, compose_config: Compose) -> None:
    config = compose_config(f"debug={option}").trainer
    assert config.max_epochs * config.limit_train_batches <= 50


def test_a_schedule_ends_with_the_training(compose_config: Compose) -> None:
    config = compose_config("scheduler=cosine", "trainer.max_epochs=7")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    schedule = instantiate(config.scheduler, _convert_="all")(optimizer)
    for _ in range(7):
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("value", ["0", "0.5"])
def test_the_weight_of_an_auxiliary_loss_reaches_it(
    value: str, compose_config: Compose, data: MultiTaskDataModule
) -> None:
    module = build_module(compose_config("auxiliary.twd.weight=" + value), data)
    assert math.isclose(module.auxiliary["twd"].weight, float(value))


def test_parameter_groups_reach_the_optimiser(compose_config: Compose, data: MultiTaskDataModule) -> None:
    module = build_module(compose_config("parameter_groups={lora_:{lr:0.125}}"), data)
    groups = module.configure_optimizers()["optimizer"].param_groups
    assert [group["lr"] for group in groups] == [2e-3, 0.125]


def test_weights_are_a_function_of_the_seed(compose_config: Compose, data: MultiTaskDataModule) -> None:
    states = [build_module(compose_config(f"seed={seed}"), data).state_dict() for seed in (1, 1, 2)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not all(torch.equal(value, states[2][name]) for name, value in states[0].items())
