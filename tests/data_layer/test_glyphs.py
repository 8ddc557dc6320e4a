import itertools
import string
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate

from mola_lightning.cli.build import build_data, build_module
from mola_lightning.core import Batch, ConfigError, DataError, Regime, RunFolderError
from mola_lightning.data import Glyphs, MultiTaskDataModule, glyph_sources
from mola_lightning.data.base import SPLITS
from mola_lightning.data.fonts import draw_character, font_folder, has_characters
from mola_lightning.data.glyph_sources import CONTENTS, FAMILIES, FONTS, ORIENTED, GlyphBuilder

SMALL = {"digits": 40, "letters": 52, "family": 40, "orientation": 30, "texture": 50}
PRINTED = ("letters", "family", "orientation")
PAIRS = list(itertools.product(CONTENTS, SPLITS))


@pytest.fixture(scope="module")
def glyph_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with the tasks of SMALL in it."""
    root = tmp_path_factory.mktemp("glyphs")
    Glyphs(num_train=SMALL, root=root).prepare()
    return root


@pytest.fixture
def glyphs(glyph_cache: Path) -> Glyphs:
    return Glyphs(num_train=SMALL, root=glyph_cache)


def test_says_what_it_is_before_anything_is_built(tmp_path: Path) -> None:
    glyphs = Glyphs(root=tmp_path, channels=1, image_size=20)
    outputs = {"digits": 10, "letters": 26, "family": 4, "orientation": 4, "texture": 4}
    assert {task.name: task.num_outputs for task in glyphs.tasks} == outputs
    assert (glyphs.regime, glyphs.image_shape) == (Regime.MULTI_INPUT, (1, 20, 20))
    assert glyphs.num_train == {"digits": 1000, "letters": 1040, "family": 800, "orientation": 600, "texture": 400}
    assert not list(tmp_path.iterdir())


def test_sizes_and_shapes(glyphs: Glyphs) -> None:
    assert glyphs.dataset("train").task_sizes() == SMALL
    assert glyphs.dataset("val").task_sizes() == {name: content.num_val for name, content in CONTENTS.items()}
    assert glyphs.dataset("test").task_sizes() == {name: content.num_test for name, content in CONTENTS.items()}
    sample = glyphs.dataset("train")[0]
    assert sample.image.shape == glyphs.image_shape
    assert sample.image.dtype == torch.float32
    assert -1 <= sample.image.min() < -0.9
    assert 0.5 < sample.image.max() <= 1 + 1e-6


def test_each_image_is_of_one_task(glyphs: Glyphs) -> None:
    ids = glyphs.dataset("val").task_ids()
    assert ids is not None
    assert np.bincount(ids).tolist() == [content.num_val for content in CONTENTS.values()]


def test_two_builds_are_equal_to_the_last_byte(glyphs: Glyphs, tmp_path: Path) -> None:
    rendered = [name for name in CONTENTS if name != "digits"]  # that one takes seconds to read
    other = Glyphs(tasks=rendered, num_train=SMALL, root=tmp_path)
    other.prepare()
    for task in rendered:
        assert glyphs.cache_file(task).read_bytes() == other.cache_file(task).read_bytes()


def test_the_seed_changes_the_data_and_the_options_of_the_view_do_not(tmp_path: Path) -> None:
    plain = Glyphs(root=tmp_path)
    viewed = Glyphs(root=tmp_path, image_size=16, channels=1, augment=2)
    fewer = Glyphs(tasks=["texture", "letters"], num_train={"letters": 30}, root=tmp_path)
    other = Glyphs(root=tmp_path, seed=1)
    for task in CONTENTS:
        assert plain.cache_file(task) == viewed.cache_file(task)
        assert plain.cache_file(task) != other.cache_file(task)
    assert plain.cache_file("texture") == fewer.cache_file("texture")
    assert plain.cache_file("letters") != fewer.cache_file("letters")


def test_a_smaller_training_set_is_the_beginning_of_a_larger_one(glyphs: Glyphs, tmp_path: Path) -> None:
    for task in ("letters", "texture"):
        smaller = Glyphs(tasks=[task], num_train=11, root=tmp_path)
        smaller.prepare()
        assert np.array_equal(smaller.part(task, "train").images, glyphs.part(task, "train").images[:11])
        assert np.array_equal(smaller.part(task, "val").images, glyphs.part(task, "val").images)
    fewer = Glyphs(tasks=["digits"], num_train=11, root=glyphs.root)
    assert fewer.cache_file("digits") == glyphs.cache_file("digits")
    assert np.array_equal(fewer.part("digits", "train").images, glyphs.part("digits", "train").images[:11])


def test_digits_share_no_image(glyphs: Glyphs) -> None:
    origins = np.concatenate([glyphs.part("digits", split).origin[:, 0] for split in SPLITS])
    assert len(np.unique(origins)) == len(origins)


def test_no_task_is_tested_on_a_font_that_another_trains_on(glyphs: Glyphs) -> None:
    fonts = [
        set(np.concatenate([glyphs.part(task, split).origin[:, 0] for task in PRINTED]).tolist()) for split in SPLITS
    ]
    assert sum(map(len, fonts)) == len(set.union(*fonts)) <= len(FONTS)


@pytest.mark.parametrize("seed", range(4))
def test_every_family_has_fonts_of_both_weights_and_slants_in_training_and_others_after(seed: int) -> None:
    fonts = GlyphBuilder(seed).fonts
    for family, names in FAMILIES.items():
        assert [FONTS[font] for font in fonts["train"][family]] == [names[0], names[3]]
        held_out = fonts["val"][family] + fonts["test"][family]
        assert sorted(FONTS[font] for font in held_out) == sorted(names[1:3])
    dealt = sorted(font for shares in fonts.values() for family in shares.values() for font in family)
    assert dealt == list(range(len(FONTS)))


def test_labels_are_what_was_drawn(glyphs: Glyphs) -> None:
    for split in SPLITS:
        letters, family, turned = (glyphs.part(task, split) for task in PRINTED)
        assert [chr(code) for code in letters.origin[:, 1]] == [string.ascii_uppercase[i] for i in letters.labels]
        for label, font in zip(family.labels, family.origin[:, 0], strict=True):
            assert FONTS[font] in tuple(FAMILIES.values())[label]
        assert {chr(code) for code in turned.origin[:, 1]} <= set(ORIENTED)


def test_the_label_of_orientation_is_its_angle(monkeypatch: pytest.MonkeyPatch) -> None:
    mark = np.zeros((28, 28), dtype=np.uint8)
    mark[2, 20] = 255  # top right
    monkeypatch.setattr(glyph_sources, "draw_character", lambda *args: mark)
    part = GlyphBuilder(0).build("orientation", 4)["train"]
    assert part.labels.tolist() == [0, 1, 2, 3]
    assert CONTENTS["orientation"].class_names == ("0", "90", "180", "270")
    corners = [tuple(np.argwhere(image)[0] // 14) for image in part.images]
    assert corners == [(0, 1), (0, 0), (1, 0), (1, 1)]  # counter-clockwise: top right, top left, bottom left and right


def test_nothing_is_cut_off_or_empty(glyphs: Glyphs) -> None:
    for task in PRINTED:
        for split in SPLITS:
            images = glyphs.part(task, split).images
            border = np.concatenate([images[:, [0, -1]].ravel(), images[:, :, [0, -1]].ravel()])
            assert border.max() < 10
            assert (images > 128).sum(axis=(1, 2)).min() > 5


def test_turned_capitals_are_unlike_each_other() -> None:
    """No two characters that orientation shows are the same picture at different angles."""
    for path in GlyphBuilder(0).paths:
        drawn = [_standing(character, path) for character in ORIENTED]
        for a, b in itertools.product(drawn, drawn):
            for turns in (1, 2, 3):
                assert (a * np.rot90(b, turns)).sum() < 0.9
    s = _standing("S", font_folder() / "DejaVuSans-Bold.ttf")
    assert (s * np.rot90(s, 2)).sum() > 0.9


def _standing(character: str, path: Path) -> np.ndarray:
    """(28, 28), of length 1: the character upright in the middle."""

    class Still:
        def integers(self, low: int, high: int, size: int | None = None) -> int | list[int]:
            return 22 if size is None else [0] * size

        def normal(self, mean: float, std: float) -> float:
            return mean

    image = draw_character(character, path, Still(), max_side=18).astype(float)  # type: ignore[arg-type]
    return image / np.linalg.norm(image)


def test_texture_splits_share_no_pixel_and_labels_are_halves(glyphs: Glyphs) -> None:
    covered = np.zeros((3, 2, 427, 640), dtype=bool)
    for s, split in enumerate(SPLITS):
        part = glyphs.part("texture", split)
        for label, (photograph, top, left) in zip(part.labels, part.origin, strict=True):
            assert photograph == label // 2
            assert (top + 28 <= 213) if label % 2 == 0 else (210 <= top <= 427 - 28)
            covered[s, photograph, top : top + 28, left : left + 28] = True
    assert covered.sum(axis=0).max() == 1


def test_texture_is_a_crop(glyphs: Glyphs) -> None:
    from sklearn.datasets import load_sample_images

    part = glyphs.part("texture", "test")
    photograph, top, left = part.origin[9]
    crop = load_sample_images().images[photograph][top : top + 28, left : left + 28]
    assert np.array_equal(part.images[9], crop)


@pytest.mark.parametrize(("task", "split"), PAIRS)
def test_labels_are_balanced(glyphs: Glyphs, task: str, split: str) -> None:
    counts = np.bincount(glyphs.part(task, split).labels, minlength=len(CONTENTS[task].class_names))
    assert counts.max() - counts.min() <= 1
    assert counts.min() > 0


def test_grey_and_size(glyphs: Glyphs) -> None:
    small = Glyphs(num_train=SMALL, root=glyphs.root, channels=1, image_size=16)
    assert small.dataset("val")[0].image.shape == (1, 16, 16)
    colour = glyphs.dataset("val").images.float()
    grey = Glyphs(num_train=SMALL, root=glyphs.root, channels=1).dataset("val").images.float()
    luma = (colour * torch.tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)).sum(1, keepdim=True)
    assert (grey - luma).abs().max() <= 1


def test_only_training_rows_are_shifted(glyphs: Glyphs) -> None:
    source = Glyphs(num_train=SMALL, root=glyphs.root, augment=2)
    train, val = source.dataset("train"), source.dataset("val")
    moved = [not torch.equal(train[(epoch, 0)].image, train[0].image) for epoch in range(5)]
    assert any(moved)
    assert torch.equal(val[(1, 0)].image, val[0].image)


def test_a_font_that_lacks_letters_is_seen() -> None:
    assert not has_characters(font_folder() / "LastResortHE-Regular.ttf", "AB")  # draws the same box for all
    assert not has_characters(font_folder() / "STIXSizOneSymReg.ttf", "AB")
    assert has_characters(font_folder() / "cmr10.ttf", string.ascii_letters)


def test_a_missing_font_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(glyph_sources, "font_folder", lambda: tmp_path)
    source = Glyphs(tasks=["letters"], root=tmp_path / "cache")
    with pytest.raises(DataError, match=r"DejaVuSans\.ttf .*not there; reinstall matplotlib"):
        source.prepare()
    assert not (tmp_path / "cache").exists()


def test_a_damaged_cache_is_refused(glyphs: Glyphs, tmp_path: Path) -> None:
    source = Glyphs(tasks=["texture"], num_train=SMALL, root=tmp_path)
    whole = glyphs.cache_file("texture").read_bytes()
    path = source.cache_file("texture")
    path.write_bytes(whole[: len(whole) // 2])
    for use in (source.prepare, lambda: source.dataset("train")):
        with pytest.raises(DataError, match="Delete the file"):
            use()
    path.unlink()
    with pytest.raises(RunFolderError, match=r"missing; call prepare\(\) first"):
        source.part("texture", "val")
    source.dataset("train")
    assert path.read_bytes() == whole


def test_contact_sheet(glyphs: Glyphs, tmp_path: Path) -> None:
    path = glyphs.write_contact_sheet(tmp_path / "sheets" / "glyphs.png", per_task=5)
    assert path.read_bytes().startswith(b"\x89PNG")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot write the contact sheet"):
        glyphs.write_contact_sheet(tmp_path / "file" / "glyphs.png")


def test_a_batch_of_the_data_module(glyphs: Glyphs) -> None:
    data = MultiTaskDataModule(glyphs, batch_size=32, seed=3)
    batch = next(iter(data.train_dataloader()))
    assert isinstance(batch, Batch)
    assert batch.images.shape == (32, 3, 28, 28)
    assert sum(batch.rows.counts.values()) == 32
    assert list(batch.rows.counts) == list(CONTENTS)


def test_the_config_trains_a_step(glyphs: Glyphs, tmp_path: Path) -> None:
    GlobalHydra.instance().clear()
    with initialize_config_module("mola_lightning.conf", version_base="1.3"):
        config = compose("train", ["data=glyphs", "architecture=hps", "seed=5", f"paths.run={tmp_path}"])
    config.data.source.root = str(glyphs.root)
    plain = Glyphs(root=glyphs.root)
    assert instantiate(config.data).source.num_train == plain.num_train  # what the file lists are the defaults
    config.data.source.num_train = SMALL
    data = build_data(config)
    assert isinstance(data.source, Glyphs)
    assert (data.seed, data.regime, data.image_shape) == (5, Regime.MULTI_INPUT, (3, 28, 28))
    module = build_module(config, data)
    loss = module.training_step(next(iter(data.train_dataloader())), 0)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_train": 3801}, "digits is 3801.*3800 training images at most"),
        ({"num_train": {"letters": 0}}, "num_train of letters must be an integer >= 1"),
        ({"num_train": {"leters": 3}}, "'leters'"),
        ({"num_train": "many"}, "num_train of digits"),
        ({"tasks": ["digits", "faces"]}, "'faces'"),
        ({"tasks": []}, "at least one of digits"),
        ({"tasks": "digits"}, r"write \[digits\]"),
        ({"tasks": ["digits", "digits"]}, "must differ"),
        ({"channels": 2}, "channels must be one of 1, 3, got 2"),
        ({"image_size": 0}, "image_size"),
        ({"augment": -1}, "shift"),
        ({"seed": 0.5}, "seed must be an integer"),
    ],
)
def test_impossible_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Glyphs(**options)
