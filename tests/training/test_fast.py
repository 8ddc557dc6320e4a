"""Networks compiled, and laid out for CUDA: the same training."""

from collections.abc import Iterator
from functools import partial

import pytest
import torch

from mola_lightning import MoLAGrad, MoLARouter, MultiTaskModule
from mola_lightning.architectures import HPS, CrossStitch
from mola_lightning.backbones import create_small_resnet
from mola_lightning.core import Batch, ConfigError, Task, TaskRows
from mola_lightning.routers import ConvRouter
from mola_lightning.training.fast import compile_networks, lay_out_channels_last

TASKS = [Task(f"task{t}", 5) for t in range(3)]
SMALL_ROUTER = partial(ConvRouter, widths=(4, 8), blocks=1)


def make(method: str, plan: str = "auto") -> MultiTaskModule:
    torch.manual_seed(0)
    net = create_small_resnet((4, 8), (1, 1))
    if method == "hps":
        return MultiTaskModule(TASKS, HPS(TASKS, net))
    module = (
        MoLAGrad(TASKS, net, adapter={"plan": plan})
        if method == "mola_grad"
        else MoLARouter(TASKS, net, router=SMALL_ROUTER)
    )
    with torch.no_grad():
        for layer in module.architecture.backbone.adapted.values():
            layer.lora_B.normal_(std=0.1)
    return module


def batch(ids: list[int], seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    rows = TaskRows.from_task_ids(torch.tensor(ids), [task.name for task in TASKS])
    labels = {name: torch.randint(5, (count,), generator=generator) for name, count in rows.counts.items()}
    return Batch(torch.randn(len(ids), 3, 16, 16, generator=generator), labels, rows)


def gradients(module: MultiTaskModule, of: Batch) -> dict[str, torch.Tensor]:
    module.zero_grad()
    module.training_step(of, 0).backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize(
    ("method", "plan"),
    [("mola_grad", "merged"), ("mola_grad", "low_rank"), ("mola_router", "auto")],
)
def test_compiled_steps_give_the_same_gradients_and_one_graph_serves_every_mixture(method: str, plan: str) -> None:
    plain, compiled = make(method), make(method, plan)
    compile_networks(compiled, backend="aot_eager")
    for step, ids in enumerate(([0, 1, 2, 0, 1, 2], [0, 0, 0, 0, 1, 2], [2, 2, 2, 2, 2, 2], [1, 0, 1, 0, 1, 0])):
        with torch.compiler.set_stance("fail_on_recompile" if step else "default"):
            found = gradients(compiled, batch(ids, step))
        wanted = gradients(plain, batch(ids, step))
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4 * float(value.abs().max() + 1e-3))


def test_state_dict_keys_stay() -> None:
    plain, compiled = make("mola_router"), make("mola_router")
    compile_networks(compiled)
    assert list(compiled.state_dict()) == list(plain.state_dict())


def test_a_scheme_of_many_backbones_is_refused() -> None:
    module = MultiTaskModule(TASKS, CrossStitch(TASKS, "test_resnet"))
    with pytest.raises(ConfigError, match="no single backbone to compile"):
        compile_networks(module)


def test_layout_leaves_the_numbers() -> None:
    """Only the convolutions' kernels: a factor with five axes has no such layout."""
    plain, other = make("mola_grad"), make("mola_grad")
    lay_out_channels_last(other)
    kernel = other.architecture.backbone.net.conv1.weight
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), other.parameters(), strict=True))
