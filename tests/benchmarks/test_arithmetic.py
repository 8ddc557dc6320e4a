"""Multiply-adds are those of the definition, wherever they happen."""

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mola_lightning.backbones import create_small_resnet
from mola_lightning.benchmarks.arithmetic import MultiplyAdds


class Direct(nn.Module):
    """Differentiates inside its forward by parameters that it is handed."""

    def forward(self, loss: Tensor, parameter: nn.Parameter) -> Tensor:
        return torch.autograd.grad(loss, [parameter], retain_graph=True)[0]


def test_products_forward_and_backward() -> None:
    x, weight = torch.randn(5, 3), nn.Parameter(torch.randn(3, 7))
    with MultiplyAdds() as counted:
        (x @ weight).sum().backward()
    assert counted.total == 2 * 5 * 3 * 7


def test_gradients_taken_inside_a_module_count() -> None:
    x, weight = torch.randn(5, 3), nn.Parameter(torch.randn(3, 7))
    with MultiplyAdds() as counted:
        loss = (x @ weight).sum()
        for _ in range(4):
            Direct()(loss, weight)
    assert counted.total == (1 + 4) * 5 * 3 * 7


def test_a_network_counts_as_by_torch() -> None:
    net, images = create_small_resnet(), torch.randn(2, 3, 8, 8)
    with FlopCounterMode(display=False) as theirs:
        net(images).sum().backward()
    with MultiplyAdds() as ours:
        net(images).sum().backward()
    assert ours.total == theirs.get_total_flops() // 2 > 0


def test_nothing_counts_outside_the_context() -> None:
    with MultiplyAdds() as counted:
        pass
    torch.randn(2, 2) @ torch.randn(2, 2)
    assert counted.total == 0


def test_forward_passes_in_inference_mode_count_too() -> None:
    """There convolutions and linear layers come as they were called, not as what they are made of."""
    net = nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.Flatten(), nn.Linear(3 * 4 * 4, 5))
    with torch.inference_mode(), MultiplyAdds() as counted:
        net(torch.randn(2, 2, 6, 6))
    assert counted.total == 2 * (3 * 2 * 9 * 16 + 48 * 5)
