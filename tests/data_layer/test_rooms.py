"""Rooms: geometry in closed form, scenes that depend on nothing but their number, the cache, and runs on them."""

import json
import math
import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from mola_lightning.cli.train import train
from mola_lightning.core import ConfigError, DataError, Regime, RunFolderError, Sample
from mola_lightning.data import MultiTaskDataModule, Rooms, rooms
from mola_lightning.data.base import SPLITS
from mola_lightning.data.parallel import in_processes
from mola_lightning.data.ray_casting import (
    BOX,
    CEILING,
    FLOOR,
    RUG,
    SPHERE,
    VOID,
    WALL,
    Box,
    Camera,
    Room,
    Scene,
    Shape,
    Sphere,
    View,
    render,
    with_voids,
)
from mola_lightning.data.rooms import DIFFICULTIES, cast_view, draw_scene

SMALL: dict[str, Any] = {"num_train": 70, "num_val": 3, "num_test": 4, "image_size": 16}
TASKS = ("segmentation", "depth", "normals")
WHITE = dict.fromkeys((FLOOR, CEILING, WALL, RUG), (1.0, 1.0, 1.0))
ROOM = Room(4, 3, 6, WHITE, (0, 1, 0.5, 0.5))
AHEAD = Camera((0, 1.5, -2), 0, 0, 80)


def view(*objects: Shape, camera: Camera = AHEAD, size: int = 64, **settings: Any) -> View:
    return render(Scene(ROOM, objects, camera, (0, 2.9, 0), **settings), size, np.random.default_rng(0))


def points(found: View, camera: Camera) -> np.ndarray:
    """(3, H, W) in the camera's frame."""
    size = len(found.depth)
    return found.depth * camera.rays(size).reshape(3, size, size)


# ------------------------------------------------------------------------------------------------------------- geometry


@pytest.mark.parametrize("size", [32, 33])  # with an odd one, a ray runs along the axes
def test_an_empty_room_in_closed_form(size: int) -> None:
    found = view(size=size)
    x, y, _ = AHEAD.rays(size).reshape(3, size, size)
    with np.errstate(divide="ignore"):
        expected = {"back": np.full_like(x, 5), "side": 2 / np.abs(x), "level": 1.5 / np.abs(y)}
    np.testing.assert_allclose(found.depth, np.minimum.reduce(list(expected.values())), rtol=1e-6)
    nearest = np.array(list(expected)).take(np.argmin(list(expected.values()), axis=0))
    assert (found.labels[nearest != "level"] == WALL).all()
    assert (found.labels[(nearest == "level") & (y > 0)] == CEILING).all()
    assert set(np.unique(found.labels[(nearest == "level") & (y < 0)])) == {FLOOR, RUG}
    directions = {"back": [0, 0, -1], "left": [1, 0, 0], "floor": [0, 1, 0]}
    for name, normal in directions.items():
        where = {"back": nearest == "back", "left": (nearest == "side") & (x < 0), "floor": found.labels == FLOOR}[name]
        np.testing.assert_allclose(found.normals[:, where].T, np.tile(normal, (where.sum(), 1)), atol=1e-6)


def test_the_rug_lies_where_it_was_put() -> None:
    found = view()
    rug = points(found, AHEAD)[:, found.labels == RUG]
    assert (np.abs(rug[0]) < 0.5).all()
    assert (np.abs(rug[2] + AHEAD.position[2] - 1) < 0.5).all()
    np.testing.assert_allclose(rug[1], -1.5, rtol=1e-6)


def test_a_sphere_in_closed_form() -> None:
    camera = replace(AHEAD, yaw=0.2, pitch=-0.1)
    center, radius = np.array([0.3, 1.2, 1]), 0.6
    found = view(Sphere((0.3, 1.2, 1), radius, (1, 0, 0)), camera=camera)
    seen = found.labels == SPHERE
    away = points(found, camera)[:, seen] - (camera.rotation.T @ (center - camera.position))[:, None]
    np.testing.assert_allclose(np.linalg.norm(away, axis=0), radius, rtol=1e-5)
    np.testing.assert_allclose(found.normals[:, seen], away / radius, atol=1e-5)
    tangent = radius / math.sqrt(np.linalg.norm(center - camera.position) ** 2 - radius**2)
    assert seen.sum() == pytest.approx(math.pi * (tangent * 32 / math.tan(math.radians(40))) ** 2, rel=0.05)


def test_a_box_in_closed_form() -> None:
    found = view(Box((0, 1.5, 1), (0.5, 0.4, 0.3), (1, 0, 0)))
    seen = found.labels == BOX
    np.testing.assert_allclose(found.depth[seen], 2.7, rtol=1e-6)
    corner = points(found, AHEAD)[:, seen].max(1)
    assert 0.42 < corner[0] <= 0.5
    assert 0.32 < corner[1] <= 0.4
    turned = view(Box((0, 1.5, 1), (0.5, 0.4, 0.5), (1, 0, 0), angle=math.pi / 4))
    assert turned.depth[turned.labels == BOX].min() == pytest.approx(3 - 0.5 * math.sqrt(2), abs=0.05)
    normals = np.unique(turned.normals[:, turned.labels == BOX].round(4), axis=1)
    np.testing.assert_allclose(sorted(normals.T.tolist()), [[-0.7071, 0, -0.7071], [0.7071, 0, -0.7071]], atol=1e-4)


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_normals_are_those_of_the_depth(difficulty: str) -> None:
    """On flat surfaces, from the depth of three pixels."""
    angles = []
    for number in range(12):
        rng = np.random.default_rng(number)
        scene = draw_scene(rng, DIFFICULTIES[difficulty])
        found = render(scene, 64, rng)
        np.testing.assert_allclose(np.linalg.norm(found.normals, axis=0), 1, atol=1e-6)
        place, right, down = (
            points(found, scene.camera)[:, y : y + 63, x : x + 63] for y, x in ((0, 0), (0, 1), (1, 0))
        )
        derived = np.cross(right - place, down - place, axis=0)
        derived /= np.linalg.norm(derived, axis=0)
        flat = (found.labels != SPHERE)[:-1, :-1]
        for y, x in ((0, 1), (1, 0)):  # all three pixels are of one surface
            there = (slice(None), slice(y, y + 63), slice(x, x + 63))
            flat &= (found.normals[:, :-1, :-1] == found.normals[there]).all(0)
            flat &= found.labels[:-1, :-1] == found.labels[there[1:]]
        assert flat.mean() > 0.3
        cosine = (derived * found.normals[:, :-1, :-1]).sum(0)[flat]
        angles.append(np.degrees(np.arccos(cosine.clip(-1, 1))))
    every = np.concatenate(angles)
    assert np.quantile(every, 0.995) < 0.1  # the others: one face behind another that is parallel to it


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_a_scene_in_a_mirror_is_its_image_flipped(difficulty: str) -> None:
    """So a flip of the image changes the sign of x in its normals, as the augmentation has it."""
    level = replace(DIFFICULTIES[difficulty], noise=0.0)
    scene = draw_scene(np.random.default_rng(3), level)

    def flip(vector: Any) -> tuple[float, float, float]:
        return -vector[0], vector[1], vector[2]

    mirrored = Scene(
        replace(scene.room, rug=(-scene.room.rug[0], *scene.room.rug[1:])),
        tuple(
            replace(shape, center=flip(shape.center), **({"angle": -shape.angle} if isinstance(shape, Box) else {}))
            for shape in scene.objects
            if isinstance(shape, Box | Sphere)
        ),
        replace(scene.camera, position=flip(scene.camera.position), yaw=-scene.camera.yaw),
        flip(scene.lamp),
        scene.checks,
        scene.texture,
    )
    one, other = (render(s, 32, np.random.default_rng(0)) for s in (scene, mirrored))
    np.testing.assert_array_equal(one.labels[:, ::-1], other.labels)
    np.testing.assert_allclose(one.depth[:, ::-1], other.depth, rtol=1e-5)
    np.testing.assert_allclose(one.normals[..., ::-1] * np.array([-1, 1, 1])[:, None, None], other.normals, atol=1e-5)
    assert np.abs(one.image[..., ::-1].astype(int) - other.image).max() <= 1


def test_what_the_lamp_does_not_reach_is_darker() -> None:
    bare = view(camera=replace(AHEAD, pitch=-0.3))
    ball = view(Sphere((0, 1.2, 0), 0.4, (1, 0, 0)), camera=replace(AHEAD, pitch=-0.3))
    ground = np.isin(bare.labels, (FLOOR, RUG)) & (ball.labels == bare.labels)
    place = points(bare, AHEAD)  # only x is used, and it is not tilted
    darker = ball.image[0].astype(int) < bare.image[0].astype(int) - 20
    assert darker[ground].any()
    assert not darker[~ground & (ball.labels == bare.labels)].any()
    assert np.abs(place[0][darker & ground]).max() < 0.4 * 2.9 / 1.6  # the shadow's width on the floor


def test_texture_and_noise_change_the_image_alone() -> None:
    plain, checked, noisy = view(), view(texture=0.5, checks=2), view(noise=0.1)
    for other in (checked, noisy):
        assert not np.array_equal(other.image, plain.image)
        for name in ("labels", "depth", "normals"):
            np.testing.assert_array_equal(getattr(other, name), getattr(plain, name))
    up = plain.labels == CEILING
    np.testing.assert_array_equal(checked.image[:, up], plain.image[:, up])


def test_holes() -> None:
    whole = view(Box((0, 1, 0), (0.5, 0.5, 0.5), (1, 1, 1)))
    found = with_voids(whole, reach=4.5, dark=0)
    lost = found.depth == 0
    np.testing.assert_array_equal(lost, (found.normals == 0).all(0))
    assert lost[whole.depth > 4.5].all()
    outline = found.labels == VOID
    assert outline.any()
    assert lost[outline].all()
    assert not lost[~outline & (whole.depth <= 4.5)].any()
    jumps = np.abs(np.diff(np.log(whole.depth), axis=1)) > 0.15
    assert outline[:, 1:][jumps].all()
    assert outline[:, :-1][jumps].all()
    for name in ("labels", "depth"):
        kept = ~lost
        np.testing.assert_array_equal(getattr(found, name)[kept], getattr(whole, name)[kept])
    assert (with_voids(whole, dark=256).depth == 0).all()


# --------------------------------------------------------------------------------------------------------------- source


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with SMALL in it."""
    root = tmp_path_factory.mktemp("rooms")
    Rooms(**SMALL, root=root).prepare()
    return root


@pytest.fixture
def source(cache: Path) -> Rooms:
    return Rooms(**SMALL, root=cache)


def test_says_what_it_is_before_anything_is_built(tmp_path: Path) -> None:
    source = Rooms(root=tmp_path)
    assert [(task.name, task.num_outputs, task.monitor) for task in source.tasks] == [
        ("segmentation", 7, "miou"), ("depth", 1, "abs_err"), ("normals", 3, "mean_angle"),
    ]  # fmt: skip
    assert (source.regime, source.image_shape) == (Regime.SINGLE_INPUT, (3, 64, 64))
    assert source.record()["sizes"]["depth"] == {"train": 1000, "val": 200, "test": 300}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_samples(difficulty: str, tmp_path: Path) -> None:
    source = Rooms(num_train=5, num_val=2, num_test=1, image_size=32, difficulty=difficulty, root=tmp_path)
    assert [len(source.dataset(split)) for split in SPLITS] == [5, 2, 1]
    for row in range(5):
        sample = source.dataset("train")[row]
        labels, depth, normals = (sample.targets[name] for name in TASKS)
        assert (sample.image.shape, sample.image.dtype) == ((3, 32, 32), torch.float32)
        assert (labels.shape, labels.dtype) == ((32, 32), torch.int64)
        assert (depth.shape, depth.dtype, normals.shape, normals.dtype) == (
            (1, 32, 32), torch.float32, (3, 32, 32), torch.float32,
        )  # fmt: skip
        assert -1 <= sample.image.min() < sample.image.max() <= 1
        assert (labels.min() >= 0) != (difficulty == "hard")
        assert labels.max() < 7
        measured = depth[0] > 0
        assert measured.all() != (difficulty == "hard")
        torch.testing.assert_close(normals.norm(dim=0)[measured], torch.ones(int(measured.sum())), atol=1e-3, rtol=0)
        assert not normals[:, ~measured].any()


def test_what_is_stored_is_what_was_cast(source: Rooms) -> None:
    part = source.part("test")
    for row in range(4):
        found = cast_view(0, "test", row, size=16, difficulty="medium")
        for name in ("image", "labels", "depth"):
            np.testing.assert_array_equal(getattr(part, name)[row], getattr(found, name))
        np.testing.assert_allclose(part.normals[row], found.normals, atol=5e-4)


def test_every_class_is_to_be_seen_at_every_level() -> None:
    for difficulty in DIFFICULTIES:
        seen = [cast_view(0, "train", row, size=16, difficulty=difficulty).labels for row in range(30)]
        assert set(np.unique(seen)) - {VOID} == set(range(7))


def test_levels_differ_in_what_they_say() -> None:
    counts = {}
    for name, level in DIFFICULTIES.items():
        drawn = [draw_scene(np.random.default_rng(number), level) for number in range(40)]
        counts[name] = sum(len(scene.objects) for scene in drawn)
        assert {scene.texture for scene in drawn} == {level.texture}
        assert all(level.field_of_view[0] <= scene.camera.field_of_view <= level.field_of_view[1] for scene in drawn)
    assert counts["easy"] < counts["medium"] < counts["hard"]


def test_objects_stand_in_the_room_and_apart() -> None:
    for number in range(60):
        scene = draw_scene(np.random.default_rng(number), DIFFICULTIES["hard"])
        grounds = []
        for shape in scene.objects:
            assert isinstance(shape, Box | Sphere)
            radius = shape.radius if isinstance(shape, Sphere) else math.hypot(shape.half[0], shape.half[2])
            x, y, z = shape.center
            assert y == pytest.approx(shape.radius if isinstance(shape, Sphere) else shape.half[1])
            assert abs(x) + radius <= scene.room.width / 2
            assert z + radius <= scene.room.length / 2
            assert math.dist((x, z), (scene.camera.position[0], scene.camera.position[2])) > radius + 0.3
            grounds.append((x, z, radius))
        grounds.sort()
        for i, (x, z, radius) in enumerate(grounds):
            assert all(math.dist((x, z), other[:2]) > radius + other[2] - 0.01 for other in grounds[:i])


def build(root: Path) -> None:
    Rooms(**SMALL, root=root).prepare()


@pytest.mark.parametrize("daemon", [True, False], ids=["in a worker that may start none", "in another process"])
def test_two_builds_are_equal_to_the_last_byte(source: Rooms, tmp_path: Path, daemon: bool) -> None:
    process = multiprocessing.get_context("fork").Process(target=build, args=(tmp_path,), daemon=daemon)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    for split in SPLITS:
        assert source.cache_file(split).read_bytes() == (tmp_path / source.cache_file(split).name).read_bytes()


def test_processes_at_a_time_leave_whole_files(source: Rooms, tmp_path: Path) -> None:
    processes = [multiprocessing.get_context("fork").Process(target=build, args=(tmp_path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(source.cache_file(s).name for s in SPLITS)
    Rooms(**SMALL, root=tmp_path).prepare()


def test_splits_and_seeds_share_no_scene(source: Rooms) -> None:
    pictures = [image.tobytes() for split in SPLITS for image in source.part(split).image]
    pictures += [
        cast_view(1, split, row, size=16, difficulty="medium").image.tobytes() for split in SPLITS for row in (0, 1)
    ]
    assert len(set(pictures)) == len(pictures) == 77 + 6


def test_a_smaller_split_is_the_beginning_of_a_larger_one(source: Rooms, tmp_path: Path) -> None:
    smaller = Rooms(**{**SMALL, "num_train": 9}, root=tmp_path)
    smaller.prepare()
    np.testing.assert_array_equal(smaller.part("train").depth, source.part("train").depth[:9])


def test_the_name_of_a_file_changes_with_what_is_in_it(source: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    others: list[dict[str, Any]] = [{"seed": 1}, {"difficulty": "hard"}, {"image_size": 17}, {"num_train": 71}]
    names = {
        source.cache_file("train"),
        *(Rooms(**{**SMALL, **o}, root=source.root).cache_file("train") for o in others),
    }
    views = [
        Rooms(**SMALL, root=source.root, subset=["depth"], augment=True),
        Rooms(**{**SMALL, "num_val": 9}, root=source.root),
    ]
    assert len(names) == 5
    assert all(viewed.cache_file("train") == source.cache_file("train") for viewed in views)
    monkeypatch.setitem(DIFFICULTIES, "medium", replace(DIFFICULTIES["medium"], noise=0.02))
    monkeypatch.setattr(rooms, "FORMAT", rooms.FORMAT + 1)
    assert source.cache_file("train") not in names


def test_what_is_cached_is_not_cast_again(source: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "render", lambda *_: pytest.fail("cast again"))
    source.prepare()
    assert len(source.dataset("val")) == 3


def test_a_build_that_dies_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cast, done = rooms.render, []

    def dies(*given: Any) -> View:
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(1)
        return cast(*given)

    monkeypatch.setattr(rooms, "render", dies)
    with pytest.raises(KeyboardInterrupt):
        Rooms(num_train=8, num_val=1, num_test=1, image_size=8, root=tmp_path).prepare()
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_named(source: Rooms, tmp_path: Path) -> None:
    other = Rooms(**SMALL, root=tmp_path)
    path = other.cache_file("val")
    whole = source.cache_file("val").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    for use in (other.prepare, lambda: other.part("val"), lambda: other.dataset("val")):
        with pytest.raises(DataError, match=f"{path} is damaged.*Delete the file"):
            use()
    path.unlink()
    other.prepare()
    assert path.read_bytes() == whole


def test_places_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunFolderError, match="option root"):
        Rooms(num_train=1, num_val=1, num_test=1, image_size=4, root=tmp_path / "file").prepare()
    with pytest.raises(RunFolderError, match="call prepare"):
        Rooms(root=tmp_path).part("train")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_train": 0}, "num_train must be an integer >= 1, got 0"),
        ({"num_test": 2.5}, "num_test must be an integer >= 1, got 2.5"),
        ({"image_size": 0}, "image_size must be an integer >= 1, got 0"),
        ({"difficulty": "cruel"}, "difficulty must be one of 'easy', 'medium', 'hard', got 'cruel'"),
        ({"augment": 2}, "augment must be true or false, got 2"),
        ({"seed": "a"}, "seed must be an integer, got 'a'"),
        ({"subset": []}, r"subset must be a list of tasks, got \[\]"),
        ({"subset": "depth"}, "subset must be a list of tasks, got 'depth'"),
        (
            {"subset": ["depth", "edges"]},
            "each of subset must be one of 'segmentation', 'depth', 'normals', got 'edges'",
        ),
        ({"subset": ["depth", "depth"]}, r"the tasks in subset must differ, got \['depth', 'depth'\]"),
    ],
)
def test_settings_that_cannot_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Rooms(**options)


def test_a_split_that_is_none(source: Rooms) -> None:
    for use in (source.dataset, source.part):
        with pytest.raises(ConfigError, match="split must be one of 'train', 'val', 'test'"):
            use("all")  # type: ignore[arg-type]


def test_a_subset_of_the_tasks_in_their_order(cache: Path) -> None:
    source = Rooms(**SMALL, root=cache, subset=["normals", "segmentation"])
    assert [task.name for task in source.tasks] == ["normals", "segmentation"]
    assert set(source.dataset("val")[0].targets) == {"normals", "segmentation"}


def test_augmentation_of_training_rows_alone(cache: Path) -> None:
    plain, moved = (Rooms(**SMALL, root=cache, augment=augment) for augment in (False, True))

    def images(source: Rooms, split: Any) -> list[Sample]:
        return source.dataset(split).__getitems__([(0, row) for row in range(3)])

    def same(a: list[Sample], b: list[Sample]) -> list[bool]:
        return [torch.equal(x.image, y.image) for x, y in zip(a, b, strict=True)]

    assert not all(same(images(plain, "train"), images(moved, "train")))
    assert all(same(images(plain, "val"), images(moved, "val")))
    assert all(same(images(moved, "train"), images(moved, "train")))


@pytest.mark.parametrize("workers", [0, 1])
def test_batches(source: Rooms, workers: int) -> None:
    data = MultiTaskDataModule(source, batch_size=4, num_workers=workers)
    batch = next(iter(data.train_dataloader()))
    assert batch.images.shape == (4, 3, 16, 16)
    assert batch.images.is_contiguous()
    assert batch.targets["segmentation"].shape == (4, 16, 16)
    assert batch.targets["depth"].shape == (4, 1, 16, 16)
    assert batch.targets["normals"].shape == (4, 3, 16, 16)


def test_a_contact_sheet_shows_images_above_their_targets(source: Rooms, tmp_path: Path) -> None:
    path = source.write_contact_sheet(tmp_path / "a" / "sheet.png", count=5)
    sheet = Image.open(path)
    assert sheet.height == 4 * (2 * 16 + 2)
    assert 5 * (2 * 16 + 2) < sheet.width < 5 * (2 * 16 + 2) + 200
    left = sheet.width - 5 * 34
    shown = np.asarray(sheet)[1:33:2, left : left + 32 : 2]
    np.testing.assert_array_equal(shown, source.part("train").image[0].transpose(1, 2, 0))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunFolderError, match="cannot write the contact sheet"):
        source.write_contact_sheet(tmp_path / "file" / "sheet.png")


def test_holes_are_black_in_a_contact_sheet(tmp_path: Path) -> None:
    source = Rooms(num_train=1, num_val=1, num_test=1, image_size=32, difficulty="hard", root=tmp_path)
    sheet = np.asarray(source.contact_sheet(scale=1))[:, -34:-2]
    part = source.part("train")
    for line, hole in ((1, part.labels[0] == VOID), (2, part.depth[0] == 0), (3, part.depth[0] == 0)):
        black = (sheet[34 * line + 1 : 34 * line + 33] == 0).all(-1)
        np.testing.assert_array_equal(black, hole)


def test_work_in_processes_comes_back_in_order() -> None:
    assert list(in_processes(math.factorial, 100, "multiplying")) == [math.factorial(n) for n in range(100)]
    assert list(in_processes(math.factorial, 3, "multiplying")) == [1, 1, 2]
    with pytest.raises(TypeError):
        list(in_processes(len, 100, "counting"))  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------------------------- runs


@pytest.mark.parametrize("difficulty", ["medium", "hard"])
@pytest.mark.parametrize("architecture", ["hps", "mola_grad", "mola"])
def test_runs(architecture: str, difficulty: str, tmp_path: Path) -> None:
    """An epoch of one step, composed as from the command line."""
    sizes = [f"data.source.{name}={size}" for name, size in {**SMALL, "num_train": 8}.items()]
    router = ["auxiliary=none", "router.widths=[4,6]", "router.blocks=1"] if architecture == "mola" else []
    GlobalHydra.instance().clear()
    with initialize_config_module("mola_lightning.conf", version_base="1.3"):
        cfg = compose(
            "train",
            [
                f"architecture={architecture}", "data=rooms", "head=light", "head.width=4", *sizes, *router,
                f"data.source.difficulty={difficulty}", f"paths.cache={tmp_path / 'cache'}", "data.batch_size=8",
                f"paths.run={tmp_path / 'run'}", "backbone.widths=[4,6]", "backbone.blocks=[1,1]", "figures=false",
                "trainer.max_epochs=1", "callbacks.last=null", "callbacks.records.num_conflict_batches=1",
            ],
        )  # fmt: skip
    assert math.isfinite(train(cfg, tmp_path / "run", sweep=True))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    metrics = {"segmentation": "miou", "depth": "abs_err", "normals": "mean_angle"}
    for split in ("val", "test"):
        for task, monitor in metrics.items():
            assert monitor in summary[split][task]
            assert all(math.isfinite(value) for value in summary[split][task].values())
    assert json.loads((tmp_path / "run" / "data.json").read_text())["difficulty"] == difficulty
