"""Augmentation of an image: a function of its keys, whatever its authors draw from."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torchvision.transforms import v2

from mola_lightning.core import ConfigError
from mola_lightning.data import ImageTransforms
from mola_lightning.data.seeded import generators_restored, reseed

CONF = Path(__file__).parents[2] / "conf" / "transform"


def noise(channels: int = 3, height: int = 20, width: int = 30) -> torch.Tensor:
    return torch.randint(256, (channels, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def states() -> tuple:
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002


def augmented(transforms: ImageTransforms, image: torch.Tensor, *key: int) -> torch.Tensor:
    with generators_restored():
        return transforms.augment(image, *key)


def drawn() -> tuple[float, float, float]:
    return torch.rand(1).item(), np.random.rand(), random.random()  # noqa: NPY002


def test_by_default_the_middle_is_taken() -> None:
    transforms = ImageTransforms(10)
    assert transforms.image_shape == (3, 10, 10)
    for image in (noise(), noise(height=10, width=10), noise(height=100, width=12)):
        assert transforms.eval(image).shape == (3, 10, 10)
        assert torch.equal(augmented(transforms, image, 0, 0, 0), transforms.eval(image))
    assert torch.equal(transforms.eval(noise(height=10, width=10)), noise(height=10, width=10))
    wide = torch.zeros(3, 10, 30, dtype=torch.uint8)
    wide[..., 10:20] = 255
    assert transforms.eval(wide).min() == 255


def test_black_and_white_become_minus_one_and_one() -> None:
    normalize = ImageTransforms(4).normalize
    seen = normalize(torch.tensor([0, 255], dtype=torch.uint8).expand(1, 3, 4, 2)).unique()
    assert seen.tolist() == pytest.approx([-1, 1], abs=1e-6)


@pytest.mark.parametrize(
    "draw",
    [
        lambda image: image + torch.randint(256, (1,)).byte(),
        lambda image: image + np.uint8(np.random.randint(256)),  # noqa: NPY002
        lambda image: image + random.randrange(256),
    ],
    ids=["torch", "numpy", "python"],
)
def test_a_draw_is_a_function_of_its_keys(draw: Callable[[torch.Tensor], torch.Tensor]) -> None:
    transforms = ImageTransforms(8, train=[draw])
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    before = states()
    keys = [(seed, epoch, index) for seed in range(4) for epoch in range(4) for index in range(4)]
    first = [augmented(transforms, image, *key).unique().item() for key in keys]
    torch.manual_seed(1), np.random.seed(1), random.seed(1)  # noqa: NPY002
    assert [augmented(transforms, image, *key).unique().item() for key in reversed(keys)] == first[::-1]
    assert len(set(first)) > 40  # of 256 values in 64 draws
    torch.manual_seed(0), np.random.seed(0), random.seed(0)  # noqa: NPY002
    assert states() == before


def test_generators_are_restored_after_an_error_too() -> None:
    def fail() -> None:
        with generators_restored():
            reseed(2**62)
            drawn()
            raise ZeroDivisionError

    before = states()
    with pytest.raises(ZeroDivisionError):
        fail()
    assert states() == before


def test_grey_images() -> None:
    transforms = ImageTransforms(8, train=[v2.RandomCrop(8)], channels=1)
    assert augmented(transforms, noise(1), 0, 0, 0).shape == (1, 8, 8)
    assert transforms.eval(noise(1)).shape == (1, 8, 8)


def test_transforms_that_make_another_shape_are_told() -> None:
    transforms = ImageTransforms(8, train=[v2.Resize(8)], eval=[v2.CenterCrop(7)])
    with pytest.raises(ConfigError, match=r"train transforms made \(3, 8, 12\) of an image \(3, 20, 30\).*\(3, 8, 8\)"):
        augmented(transforms, noise(), 0, 0, 0)
    with pytest.raises(ConfigError, match=r"eval transforms made \(3, 7, 7\)"):
        transforms.eval(noise())
    with pytest.raises(ConfigError, match="made str"):
        ImageTransforms(8, eval=[lambda image: "image"]).eval(noise())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size must be an integer >= 1"),
        ({"size": 8, "channels": 4}, "channels must be one of 1, 3"),
        ({"size": 8, "train": ["flip"]}, "train must be a list of transforms, got 'flip'"),
        ({"size": 8, "mean": [0.5, 0.5]}, "mean must be one number or 3, one a channel; got 2"),
        ({"size": 8, "channels": 1, "std": [1, 1, 1]}, "std must be one number or 1"),
        ({"size": 8, "std": 0.0}, "std must be positive"),
    ],
)
def test_settings_that_cannot_work(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ImageTransforms(**options)


@pytest.mark.parametrize("size", [224, 64])
@pytest.mark.parametrize("name", sorted(path.stem for path in CONF.glob("*.yaml")))
def test_the_shipped_transforms(name: str, size: int) -> None:
    config = OmegaConf.create({"transform": OmegaConf.load(CONF / f"{name}.yaml")})
    config.transform.size = size
    transforms = instantiate(config.transform, _convert_="all")
    for image in (noise(height=300, width=320), noise(height=size, width=size)):
        assert transforms.eval(image).shape == (3, size, size)
        assert augmented(transforms, image, 0, 0, 0).shape == (3, size, size)
    assert torch.equal(transforms.eval(image), transforms.eval(image))
    several = {augmented(transforms, image, 0, 0, index).numpy().tobytes() for index in range(12)}
    assert len(several) == 1 if name == "plain" else len(several) > 1
