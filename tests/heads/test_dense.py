"""Dense heads: the paper's decoder on recorded outputs, maps of the image's size from any batch, clear refusals."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mola_lightning.core import ConfigError, Task
from mola_lightning.heads import DenseHead, HeadFactory, LightDecoder, PSPDecoder
from mola_lightning.heads.dense import MapNorm
from mola_lightning.losses import unit_length

DATA = Path(__file__).parents[1] / "data"
HEADS: list[HeadFactory] = [LightDecoder, PSPDecoder]
TASK = Task("classes", 5)


def _formula_weights() -> ModuleType:
    spec = importlib.util.spec_from_file_location("formula_weights", DATA / "formula_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


formula = _formula_weights()


@pytest.mark.parametrize(("name", "outputs"), [("semantic", 13), pytest.param("normal", 3, marks=pytest.mark.slow)])
def test_the_papers_decoder(name: str, outputs: int) -> None:
    """The record holds log-probabilities and unit vectors, which the head leaves to the loss and the activation."""
    path = DATA / "fixtures" / f"nyu_decoder_{name}"
    info = json.loads(path.with_suffix(".json").read_text())
    with np.load(path.with_suffix(".npz")) as arrays:
        expected = torch.from_numpy(arrays["out"]).double()
    with torch.device("meta"):
        head = PSPDecoder(2048, Task(name, outputs))
    head.to_empty(device="cpu").double().eval()
    assert [parameter for parameter, _ in head.named_parameters()] == info["param_names"]
    formula.fill(head, info["salt"], last_bn=())
    shape = (info["batch"], 2048, info["h"], info["w"])
    features = torch.from_numpy(2 * formula.u("x", shape, info["salt"]))
    with torch.no_grad():
        found = head(features, (8 * info["h"], 8 * info["w"]))
    found = found.log_softmax(1) if name == "semantic" else unit_length(found)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("make", HEADS)
@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize("training", [True, False])
def test_one_map_of_the_images_size_per_row(make: HeadFactory, n: int, training: bool) -> None:
    head = make(6, TASK).train(training)
    features = torch.randn(n, 6, 3, 4, requires_grad=True)
    outputs = head(features, (25, 30))  # no multiple of the map
    assert outputs.shape == (n, 5, 25, 30)
    outputs.sum().backward()
    assert features.grad.shape == features.shape
    assert all(parameter.grad is not None for parameter in head.parameters())
    assert all(buffer.isfinite().all() for buffer in head.buffers())


@pytest.mark.parametrize("make", HEADS)
def test_a_batch_without_any_row_has_no_map(make: HeadFactory) -> None:
    """Architectures then give (0, D): they have run nothing that would have a size."""
    assert make(6, TASK)(torch.zeros(0, 6), (8, 8)).shape == (0, 5, 8, 8)


@pytest.mark.parametrize("make", HEADS)
@pytest.mark.parametrize("shape", [(2, 6), (2, 16, 6)])
def test_refuses_what_is_no_map(make: HeadFactory, shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"takes a feature map \(n, 6, h, w\), got shape .*pooled=false"):
        make(6, TASK)(torch.randn(shape), (8, 8))


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (LightDecoder, {"width": 0}, "width must be"),
        (PSPDecoder, {"width": 2.5}, "width must be"),
        (PSPDecoder, {"grids": []}, "one level or more"),
        (PSPDecoder, {"grids": [1, 0]}, "each of grids"),
    ],
)
def test_refuses_settings(make: type[DenseHead], settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(6, TASK, **settings)


@pytest.mark.parametrize("make", HEADS)
def test_rows_do_not_see_each_other(make: HeadFactory) -> None:
    head = make(6, TASK).eval()
    features = torch.randn(3, 6, 3, 4)
    together, alone = head(features, (12, 16)), [head(row, (12, 16)) for row in features.split(1)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_psp_gives_blocks_and_light_gives_slopes() -> None:
    features = torch.randn(1, 6, 3, 4)
    blocks = PSPDecoder(6, TASK).eval()(features, (24, 32))
    assert torch.equal(blocks, F.interpolate(blocks[..., ::8, ::8], scale_factor=8))
    slopes = LightDecoder(6, TASK).eval()(features, (24, 32))
    assert slopes[0, 0, 12].unique().numel() > 12


def test_pyramid_levels_see_the_whole_map() -> None:
    features = torch.randn(1, 6, 9, 9, requires_grad=True)
    for make, sees in ((PSPDecoder, True), (LightDecoder, False)):
        (gradient,) = torch.autograd.grad(make(6, TASK).eval()(features, (9, 9))[0, :, 0, 0].sum(), features)
        assert bool(gradient[..., 8, 8].any()) == sees


@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (0, 4, 3, 3)])
def test_a_norm_without_statistics_takes_the_running_ones(shape: tuple[int, ...]) -> None:
    norm = MapNorm(4)
    norm(torch.randn(8, 4, 2, 2))
    inputs, state = torch.randn(shape), {name: value.clone() for name, value in norm.state_dict().items()}
    found = norm(inputs)
    assert all(torch.equal(value, state[name]) for name, value in norm.state_dict().items())
    torch.testing.assert_close(found, norm.eval()(inputs))


def test_a_norm_is_torchs_own_otherwise() -> None:
    ours, torchs, inputs = MapNorm(4), nn.BatchNorm2d(4), torch.randn(2, 4, 1, 1)
    torch.testing.assert_close(ours(inputs), torchs(inputs))
    assert ours.state_dict().keys() == torchs.state_dict().keys()
