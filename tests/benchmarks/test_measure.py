"""What is measured is what is claimed: bytes, multiply-adds, ratios, plans."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from mola_lightning.adapters.grouped import grouped_conv2d, grouped_linear
from mola_lightning.benchmarks import (
    CASES,
    METHODS,
    Case,
    Measurement,
    TimedStep,
    build_module,
    measure_case,
    time_layers,
)
from mola_lightning.benchmarks.arithmetic import MultiplyAdds
from mola_lightning.benchmarks.measure import peak_allocated
from mola_lightning.core import ConfigError

FLOATS = 1 << 20


@pytest.fixture(scope="module")
def tiny() -> Case:
    """Case d with timm's smallest ResNet."""
    return replace(CASES["d"], backbone="test_resnet", rows=4, experts=2, rounds=1)


def test_peak_counts_temporaries_and_not_what_was_there_before() -> None:
    before = torch.ones(FLOATS)

    def run() -> torch.Tensor:
        first = before + 1
        second = first * 2
        del first
        return second + 1  # two alive at any time, three made

    assert 2 * 4 * FLOATS <= peak_allocated(run) < 2 * 4 * FLOATS + 100  # the scalars are tensors too


def test_peak_counts_what_backward_keeps() -> None:
    x = torch.ones(FLOATS, requires_grad=True)
    shallow, deep = (peak_allocated(lambda n=n: nested_sigmoid(x, n).sum().backward()) for n in (1, 5))
    assert deep - shallow == pytest.approx(4 * 4 * FLOATS, rel=0.01)


def nested_sigmoid(x: torch.Tensor, times: int) -> torch.Tensor:
    for _ in range(times):
        x = x.sigmoid()  # each keeps its output
    return x


def test_peak_is_the_same_every_time(tiny: Case) -> None:
    step = TimedStep(build_module("soft", tiny), tiny.batch(), torch.device("cpu"))
    step()
    assert step.peak_bytes() == step.peak_bytes() > step.resident_bytes()


def test_resident_bytes_are_weights_optimiser_and_batch(tiny: Case) -> None:
    step = TimedStep(build_module("plain", tiny), tiny.batch(), torch.device("cpu"))
    parameters = sum(p.numel() for p in step.module.parameters())
    other = sum(b.nbytes for b in step.module.buffers()) + step.batch.images.nbytes
    assert step.resident_bytes() == 4 * parameters + other
    step()
    counters = 4 * len(list(step.module.parameters()))  # AdamW's step counts
    assert step.resident_bytes() == pytest.approx(3 * 4 * parameters + counters + other, abs=1000)


def test_multiply_adds_of_the_plain_step(tiny: Case) -> None:
    step = TimedStep(build_module("plain", tiny), tiny.batch(), torch.device("cpu"))
    forward = 0

    def count(layer: nn.Module, args: tuple, y: torch.Tensor) -> None:
        nonlocal forward
        forward += y.numel() * layer.weight[0].numel()

    for layer in step.module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(count)
    counted = step.multiply_adds()
    assert 2.5 * forward < counted < 3 * forward  # the first layer needs no gradient of its input


def test_multiply_adds_of_groups_of_rows() -> None:
    """As if the layer had run once, whatever the groups."""
    x = torch.randn(5, 3, 6, 6, requires_grad=True)
    kernels, matrices = torch.randn(2, 4, 3, 3, 3, requires_grad=True), torch.randn(2, 7, 4, requires_grad=True)
    with MultiplyAdds() as counted:
        y = grouped_conv2d(x, kernels, torch.tensor([1, 4]), [1, 1], [0, 0], [1, 1], 1)
        grouped_linear(y.permute(0, 2, 3, 1).flatten(0, 2), matrices, torch.tensor([16, 64])).sum().backward()
    assert counted.total == 3 * (5 * 4 * 16 * 27 + 80 * 4 * 7)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("input_gradient", [True, False])
def test_multiply_adds_of_grouped_convolutions(groups: int, input_gradient: bool) -> None:
    x = torch.randn(2, 8, 5, 5, requires_grad=input_gradient)
    conv = nn.Conv2d(8, 12, 3, padding=1, groups=groups)
    with MultiplyAdds() as counted:
        conv(x).sum().backward()
    forward = 2 * 12 * 5 * 5 * (8 // groups) * 9
    assert counted.total == forward * (3 if input_gradient else 2)


def test_every_method_takes_its_turn(tiny: Case) -> None:
    found = measure_case(tiny)
    assert list(found) == list(tiny.methods)
    assert all(len(own.seconds) == 1 and own.peak_bytes > 0 for own in found.values())
    assert {name for name, own in found.items() if own.plans} == {"grad", "soft", "router"}
    plain = found["plain"]
    assert plain.time_ratios(plain) == (1, 1, 1)
    assert found["stacked"].multiply_adds > found["soft"].multiply_adds > plain.multiply_adds
    assert found["kernels"].peak_bytes > found["grad"].peak_bytes


def test_a_prescribed_family_is_run_and_others_left_out(tiny: Case) -> None:
    found = measure_case(tiny, plan="merged")
    assert set(found) == {"plain", "grad", "soft", "router"}
    assert set(found["grad"].plans.values()) == {"Merged"}


def test_equal_weights_in_equal_backbones(tiny: Case) -> None:
    plain, grad = (build_module(name, tiny).architecture.backbone for name in ("plain", "grad"))
    weights = dict(grad.net.named_parameters())
    assert all(torch.equal(parameter, weights[name]) for name, parameter in plain.named_parameters())


def test_ratios_are_taken_within_rounds() -> None:
    plain = Measurement([1.0, 10.0, 2.0], 1, 1, {})
    slow = Measurement([3.0, 20.0, 2.0], 1, 1, {})
    assert slow.time_ratios(plain) == (2.0, 1.0, 3.0)
    assert Measurement([3.0], 1, 1, {}).time_ratios(plain) == (3.0, 3.0, 3.0)  # slow methods skip later rounds


def test_what_cannot_be_measured_is_refused(tiny: Case) -> None:
    with pytest.raises(ConfigError, match="rounds"):
        measure_case(tiny, rounds=0)
    with pytest.raises(ConfigError, match="plan"):
        measure_case(tiny, plan="cheap")
    with pytest.raises(ConfigError, match="method"):
        build_module("magic", tiny)


def test_layers_of_one_shape_are_timed_once(tiny: Case) -> None:
    timings = time_layers(tiny, rounds=1)
    hard = [timing for timing in timings if timing.hard]
    layers = build_module("grad", tiny).architecture.backbone.adapted
    assert sum(timing.count for timing in hard) == len(layers)
    assert len(timings) == 2 * len(hard)
    assert len(hard) < len(layers)
    for timing in timings:
        assert timing.chosen in timing.extra_seconds
        assert timing.extra_seconds[timing.fastest] == min(timing.extra_seconds.values())


def test_cases_name_methods_that_exist() -> None:
    for name, case in CASES.items():
        assert case.name == name
        assert case.methods[0] == "plain"
        assert set(case.methods) <= set(METHODS)
        assert case.batch().rows.disjoint != case.single_input


def test_images_with_several_targets(tiny: Case) -> None:
    """MoLA-Grad passes once for each task, the plain network once."""
    found = measure_case(replace(tiny, single_input=True, methods=("plain", "grad")))
    assert found["grad"].multiply_adds > 1.5 * found["plain"].multiply_adds
    assert found["grad"].plans
