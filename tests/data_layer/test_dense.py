"""Augmentation of images with targets per pixel: what stays true of a scene."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from mola_lightning.core import ConfigError
from mola_lightning.data import (
    DenseDataset,
    DenseTransforms,
    Normalize,
    depth_task,
    make_task,
    normals_task,
    segmentation_task,
)
from mola_lightning.data.dense_transforms import target_kind

TASKS = (segmentation_task(classes=5), depth_task(), normals_task())
KINDS = {task.name: target_kind(task) for task in TASKS}
SIZE = (24, 30)


def scene(seed: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    """Noise of all kinds, with holes."""
    generator = torch.Generator().manual_seed(seed)
    normals = torch.nn.functional.normalize(torch.randn(3, *SIZE, generator=generator), dim=0)
    depth = 1 + torch.rand(1, *SIZE, generator=generator)
    labels = torch.randint(0, 5, SIZE, generator=generator)
    holes = torch.rand(SIZE, generator=generator) < 0.2
    labels[holes], depth[:, holes], normals[:, holes] = -1, 0.0, 0.0
    image = torch.rand(3, *SIZE, generator=generator)
    return image, {"segmentation": labels, "depth": depth, "normals": normals}


def augmented(transforms: DenseTransforms, epoch: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    return transforms.augment(*scene(), KINDS, 0, epoch, 0)


def test_without_scales_and_flip_nothing_changes() -> None:
    image, targets = augmented(DenseTransforms(scales=(1,), flip=0))
    assert torch.equal(image, scene()[0])
    assert all(torch.equal(targets[name], target) for name, target in scene()[1].items())


def test_a_flip_mirrors_everything_and_twice_is_none() -> None:
    flip = DenseTransforms(scales=(1,), flip=1)
    image, targets = augmented(flip)
    original, before = scene()
    assert torch.equal(image, original.flip(-1))
    assert torch.equal(targets["segmentation"], before["segmentation"].flip(-1))
    assert torch.equal(targets["normals"][0], -before["normals"][0].flip(-1))
    assert torch.equal(targets["normals"][1:], before["normals"][1:].flip(-1))
    again = flip.augment(image, targets, KINDS, 0, 0, 0)
    assert torch.equal(again[0], original)
    assert all(torch.equal(again[1][name], target) for name, target in before.items())


@pytest.mark.parametrize("epoch", range(5))
def test_a_scale_invents_no_label_no_depth_and_no_measurement(epoch: int) -> None:
    image, targets = augmented(DenseTransforms(scales=(1.5,), flip=0), epoch)
    _, before = scene()
    assert image.shape == (3, *SIZE)
    assert set(targets["segmentation"].unique().tolist()) <= set(before["segmentation"].unique().tolist())
    known = set((before["depth"] / 1.5).unique().tolist())
    assert set(targets["depth"].unique().tolist()) <= known
    holes = targets["segmentation"] == -1
    assert holes.any()
    assert torch.equal(targets["depth"][0] == 0, holes)
    assert torch.equal((targets["normals"] == 0).all(0), holes)
    assert targets["normals"].norm(dim=0).max() <= 1 + 1e-6


def test_a_surface_stays_where_its_image_is() -> None:
    """The image shows depth: after scaling it still does, up to the factor."""
    transforms = DenseTransforms(scales=(1.2,), flip=0.5)
    ramp = torch.linspace(1, 2, SIZE[1]).expand(1, *SIZE).contiguous()
    image, targets = transforms.augment(ramp.expand(3, -1, -1), {"depth": ramp}, KINDS, 3, 1, 7)
    step = 1 / (SIZE[1] - 1)
    torch.testing.assert_close(targets["depth"] * 1.2, image[:1], atol=2 * step, rtol=0)


def test_it_is_a_function_of_seed_epoch_and_row() -> None:
    transforms, state = DenseTransforms(scales=(1.2, 1.5)), torch.get_rng_state()
    drawn = {
        key: transforms.augment(*scene(), KINDS, *key)[0]
        for key in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (2, 0, 0))
    }
    for key, image in drawn.items():
        assert torch.equal(transforms.augment(*scene(), KINDS, *key)[0], image)
    assert len({(float(image.sum()), float(image[0, 0, 0])) for image in drawn.values()}) >= 4
    assert torch.equal(torch.get_rng_state(), state)


def test_size() -> None:
    transforms = DenseTransforms(size=(12, 15))
    image, targets = transforms.eval(*scene(), KINDS)
    assert image.shape == (3, 12, 15)
    assert {name: tuple(target.shape) for name, target in targets.items()} == {
        "segmentation": (12, 15), "depth": (1, 12, 15), "normals": (3, 12, 15),
    }  # fmt: skip
    assert transforms.augment(*scene(), KINDS, 0, 0, 0)[0].shape == (3, 12, 15)
    pixels, _ = transforms.eval((255 * scene()[0]).byte(), {}, KINDS)
    assert pixels.dtype == torch.uint8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": (3,)}, r"size must be \[height, width\], got \(3,\)"),
        ({"size": (0, 3)}, "the height in size must be an integer >= 1"),
        ({"scales": ()}, "scales must be factors of 1 or more"),
        ({"scales": (0.5,)}, r"scales must be factors of 1 or more, got \[0.5\]"),
        ({"flip": 2}, "flip must be a probability"),
    ],
)
def test_settings_that_cannot_work(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DenseTransforms(**settings)


def test_tasks_that_cannot_be_augmented_are_refused() -> None:
    with pytest.raises(ConfigError, match="task 'x' has a target per pixel that is neither class labels nor depth"):
        DenseDataset([make_task("x", "regression")], lambda row: scene(row), 3)
    assert target_kind(replace(TASKS[0], name="other")) == "labels"


def test_the_dataset_augments_training_rows_only_where_they_come_with_their_epoch() -> None:
    made = [
        DenseDataset(TASKS, scene, 3, DenseTransforms(flip=1, scales=(1,)), training, Normalize(0.5, 0.5))
        for training in (True, False)
    ]
    for dataset in made:
        plain = dataset[1]
        torch.testing.assert_close(plain.image, (scene(1)[0] - 0.5) / 0.5)
        assert set(plain.targets) == set(KINDS)
        batch = dataset.__getitems__([(0, 1), (4, 2)])
        assert torch.equal(batch[0].image, plain.image.flip(-1)) == dataset.training
        assert torch.equal(batch[0].image, dataset[(0, 1)].image)
    assert made[0].task_ids() is None
    assert made[0].task_sizes() == dict.fromkeys(KINDS, 3)
    assert np.isfinite(float(made[0][0].image.sum()))
