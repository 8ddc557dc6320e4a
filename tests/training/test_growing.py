"""A task that is added later changes nothing of the others; one that is removed neither."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from mola_lightning import MoLAGrad, MoLARouter, MultiTaskDataModule
from mola_lightning.backbones import create_small_resnet
from mola_lightning.core import ConfigError, TaskRows
from mola_lightning.data import TensorSource
from mola_lightning.routers import ConvRouter
from mola_lightning.training.callbacks import AddedTasks
from mola_lightning.training.growing import grow, without_task

NAMES = ("a", "b", "c")
SMALL = partial(ConvRouter, widths=(4, 8), blocks=1)


def data(names: tuple[str, ...]) -> MultiTaskDataModule:
    def part() -> dict[str, tuple[Tensor, Tensor]]:
        return {name: (torch.randn(24, 3, 8, 8), torch.arange(24) % 3) for name in names}

    return MultiTaskDataModule(TensorSource({split: part() for split in ("train", "val", "test")}, 3), batch_size=16)


def model(method: str, names: tuple[str, ...], **settings: Any) -> Any:
    kind: Callable[..., Any] = MoLAGrad if method == "mola_grad" else partial(MoLARouter, router=SMALL)
    # high, so that whatever is not frozen moves; with weight decay, which moves rows that get no gradient
    optimizer = partial(torch.optim.AdamW, lr=0.05, weight_decay=0.1)
    options = {"image_shape": (3, 8, 8), "rank": 1, "alpha": 1, "optimizer": optimizer, **settings}
    return kind(data(names).tasks, create_small_resnet, **options)


def trained(module: Any, source: MultiTaskDataModule, *callbacks: Any) -> Trainer:
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, callbacks=list(callbacks), enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, source)
    return trainer


@torch.no_grad()
def outputs(module: Any, images: Tensor, names: tuple[str, ...] = ("a", "b")) -> list[Tensor]:
    ids = torch.tensor([module.names.index(names[row % len(names)]) for row in range(len(images))])
    predicted = module.eval()(images, TaskRows.from_task_ids(ids, module.names)).predictions
    return [predicted[name] for name in names]


@pytest.fixture(params=["mola_grad", "mola_router"])
def method(request: pytest.FixtureRequest) -> str:
    return request.param


def base_of(method: str, folder: Path) -> Any:
    base, source = model(method, NAMES[:2]), data(NAMES[:2])
    trainer = trained(base, source)
    (folder / "checkpoints").mkdir(parents=True)
    torch.save({"tasks": list(base.names), "state_dict": base.state_dict()}, folder / "checkpoints" / "best.ckpt")
    tested = trainer.test(base, source, verbose=False)[0]
    test = {name: {"accuracy": tested[f"test/{name}/accuracy"]} for name in base.names}
    (folder / "summary.json").write_text(json.dumps({"test": test}))
    return base


def test_old_tasks_do_not_notice_a_new_one(method: str, tmp_path: Path) -> None:
    base, images = base_of(method, tmp_path / "base"), torch.randn(10, 3, 8, 8)
    before = outputs(base, images)
    grown, source = model(method, NAMES), data(NAMES)
    start = {name: value.clone() for name, value in grown.state_dict().items()}
    trainer = trained(grown, source, AddedTasks(tmp_path / "base", tmp_path / "run"))
    after, state, old = outputs(grown, images), grown.state_dict(), base.state_dict()
    if method == "mola_grad":
        assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    moved = [name for name, value in state.items() if not torch.equal(value, start[name])]
    assert {"heads.c.linear.weight", "heads.c.weight"} & set(moved)
    for name, value in old.items():
        if name.startswith(("architecture.", "heads.")):
            assert torch.equal(state[name][: len(value)] if value.ndim else state[name], value), name
    assert any("lora_B" in name and bool(state[name][2].any()) for name in moved)
    trainer.test(grown, source, verbose=False)
    report = json.loads((tmp_path / "run" / "added_tasks.json").read_text())
    assert (list(report["old"]), list(report["new"])) == (["a", "b"], ["c"])
    assert all(0 <= pair["before"] <= 1 and 0 <= pair["after"] <= 1 for pair in report["old"].values())


def test_what_cannot_grow(tmp_path: Path) -> None:
    state = model("mola_grad", NAMES[:2]).state_dict()
    with pytest.raises(ConfigError, match="in their order, and then new ones: the base has a, b, the data have b, a"):
        grow(model("mola_grad", ("b", "a")), state, ["a", "b"])
    with pytest.raises(ConfigError, match="the data have a, b"):
        grow(model("mola_grad", NAMES[:2]), state, ["a", "b"])
    with pytest.raises(ConfigError, match="lora_. is .* here and .* there. Take the base run's"):
        grow(model("mola_grad", NAMES, rank=2), state, ["a", "b"])
    with pytest.raises(ConfigError, match="base_run=<folder"):
        trained(model("mola_grad", NAMES), data(NAMES), AddedTasks(None, tmp_path))


def test_removing_a_task(method: str) -> None:
    whole, rest = (
        model(method, NAMES),
        model(method, ("a", "c"), **({} if method == "mola_grad" else {"num_experts": 3})),
    )
    for name, parameter in whole.named_parameters():
        if name.endswith("lora_B"):
            torch.nn.init.normal_(parameter)
    images = torch.randn(8, 3, 8, 8)
    state = without_task(whole.state_dict(), list(NAMES), "b", by_task_id=method == "mola_grad")
    unused = rest.load_state_dict(state, strict=False)
    assert not unused.unexpected_keys
    assert all(name.startswith(("auxiliary.", "balancer.", "meters.")) for name in unused.missing_keys)
    for before, after in zip(outputs(whole, images, ("a", "c")), outputs(rest, images, ("a", "c")), strict=True):
        torch.testing.assert_close(before, after, atol=1e-6, rtol=1e-5)
    with pytest.raises(ConfigError, match="cannot remove task 'z'"):
        without_task(state, ["a", "c"], "z", by_task_id=True)
