"""Adapted backbones under ``torch.export`` and ``torch.compile``: one graph that serves every batch."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from mola_lightning.adapters import AdaptedBackbone
from mola_lightning.backbones import create_small_resnet

EXPERTS = 3
PATTERN = r"^layer\d$"


def make(**settings: object) -> AdaptedBackbone:
    backbone = AdaptedBackbone(create_small_resnet((4, 8), (1, 1)), EXPERTS, rank=2, **settings)
    with torch.no_grad():
        for layer in backbone.adapted.values():
            (layer.lora_B if layer.kind.low_rank else layer.expert_weight).normal_(std=0.3)
    return backbone.eval()


def batch(rows: int) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, 3, 16, 16), torch.rand(rows, EXPERTS)


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compiled(backbone: AdaptedBackbone) -> tuple[Callable[..., Tensor], CompileCounterWithBackend]:
    counter = CompileCounterWithBackend("aot_eager")
    return torch.compile(backbone, fullgraph=True, backend=counter), counter


def assert_close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "strict"), [("reshaped", True), ("reshaped", False), ("full", False)])
def test_export_soft(kind: str, strict: bool) -> None:
    """With a dynamic batch size; mixing weights are an input of the exported program."""
    backbone, rows = make(kind=kind), torch.export.Dim("rows", min=2)
    shapes = {"images": {0: rows}, "routing": {0: rows}}
    program = torch.export.export(backbone, batch(4), dynamic_shapes=shapes, strict=strict).module()
    for size in (2, 4, 7):
        inputs = batch(size)
        assert_close(program(*inputs), backbone(*inputs))


class Tokens(nn.Module):
    """Pixels as tokens, a linear layer for each."""

    num_features = 6

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(3, self.num_features)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images.flatten(2).transpose(1, 2)).mean(1)


@pytest.mark.parametrize("strict", [True, False])
def test_export_of_tokens(strict: bool) -> None:
    backbone, rows = AdaptedBackbone(Tokens(), 3, rank=2).eval(), torch.export.Dim("rows", min=2)
    nn.init.normal_(backbone.net.proj.lora_B)
    shapes = {"images": {0: rows}, "routing": {0: rows}}
    program = torch.export.export(backbone, batch(4), dynamic_shapes=shapes, strict=strict).module()
    for size in (2, 5):
        inputs = batch(size)
        assert_close(program(*inputs), backbone(*inputs))


@pytest.mark.parametrize("strict", [True, False])
def test_export_hard(strict: bool) -> None:
    backbone, rows = make(), torch.export.Dim("rows", min=2)
    shapes = {"images": {0: rows}, "routing": {0: rows}}
    example = batch(4)[0], torch.tensor([0, 2, 2, 1])
    program = torch.export.export(backbone, example, dynamic_shapes=shapes, strict=strict).module()
    for ids in ([0, 2, 2, 1], [1, 1, 1], [2, 0, 0, 1, 2]):
        inputs = batch(len(ids))[0], torch.tensor(ids)
        assert_close(program(*inputs), backbone(*inputs))


@pytest.mark.slow
def test_compile_soft() -> None:
    """One graph in training, and no other for other values; gradients reach experts and mixing weights."""
    backbone = make().train()
    run, counter = compiled(backbone)
    for _ in range(2):
        images, mixing = batch(4)
        gradients = []
        for call in (run, backbone):
            leaf = mixing.clone().requires_grad_()
            loss = call(images, leaf).square().sum()
            gradients.append([loss, *torch.autograd.grad(loss, [leaf, *backbone.parameters()])])
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(other.detach().abs().max()))
    assert counter.frame_count == 1


@pytest.mark.slow
def test_compile_hard() -> None:
    """How many rows each expert has is no property of the graph."""
    backbone = make()
    run, counter = compiled(backbone)
    for ids in ([0, 2, 2, 1], [1, 1, 1, 1], [2, 0, 0, 0]):
        images, ids = batch(4)[0], torch.tensor(ids)
        assert_close(run(images, ids), backbone(images, ids))
    assert counter.frame_count == 1


@pytest.mark.slow
def test_compile_checkpointed() -> None:
    """The compiler lifts the mixing into the checkpointed blocks; gradients equal those without checkpointing."""
    plain, checkpointed = make(), make(checkpoint_modules=[PATTERN])
    checkpointed.load_state_dict(plain.state_dict())
    run, counter = compiled(checkpointed.train())
    plain.train()
    for _ in range(2):
        images, mixing = batch(4)
        found, wanted = run(images, mixing), plain(images, mixing)
        assert_close(found, wanted)
        parameters = [[p for _, p in net.named_parameters()] for net in (checkpointed, plain)]
        pairs = zip(
            torch.autograd.grad(found.square().sum(), parameters[0]),
            torch.autograd.grad(wanted.square().sum(), parameters[1]),
            strict=True,
        )
        for one, other in pairs:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(other.detach().abs().max()))
    assert counter.frame_count == 1


def test_merged_network_exports() -> None:
    """What is deployed for one expert is a plain network."""
    backbone = make()
    merged, images = backbone.merge(expert=1), batch(4)[0]
    assert type(merged.conv1) is nn.Conv2d
    program = torch.export.export(merged, (images,)).module()
    assert_close(program(images), backbone(images, torch.ones(4, dtype=torch.long)))
