"""Contact sheets show what the model sees, whatever kind of dataset it comes of."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mola_lightning.core import DataError, Task
from mola_lightning.data import DenseDataset, ImageTransforms, InMemoryDataset, Manifest, ManifestDataset, Normalize
from mola_lightning.data.contact_sheet import draw_contact_sheet, draw_dense_sheet, shown_rows
from mola_lightning.data.dense import depth_task, normals_task, segmentation_task

SIZE = 16
TASKS = (Task("one", 2), Task("two", 2))


@pytest.fixture
def photos(tmp_path: Path, load_script: Callable[[str], ModuleType]) -> list[Path]:
    """Four files of one colour each, nearly."""
    write = load_script("own_files").write_photo
    return [write(tmp_path / f"{n}.png", n, seed=n) for n in range(4)]


def dataset(photos: list[Path], on_bad_image: str = "error") -> ManifestDataset:
    """Two tasks with two images each; the transforms of each normalise otherwise."""
    transforms = {"one": ImageTransforms(SIZE, mean=0.5, std=0.5), "two": ImageTransforms(SIZE, mean=0.1, std=0.2)}
    items = {name: ([str(p) for p in photos[2 * t : 2 * t + 2]], np.arange(2)) for t, name in enumerate(transforms)}
    return ManifestDataset(TASKS, Manifest.of_domains(items), transforms, True, on_bad_image)


def tiles(sheet: Image.Image, lines: int, columns: int, size: int = SIZE) -> np.ndarray:
    """(lines, columns, size, size, 3) uint8, from the right, where the width of the names does not matter."""
    pixels = np.asarray(sheet)[:, sheet.width - columns * (size + 2) :]
    assert pixels.shape == (lines * (size + 2), columns * (size + 2), 3)
    return pixels.reshape(lines, size + 2, columns, size + 2, 3).swapaxes(1, 2)[:, :, 1:-1, :-2]


def test_files_are_shown_in_their_own_colours(photos: list[Path]) -> None:
    shown = tiles(draw_contact_sheet(dataset(photos), per_task=2, scale=1), 2, 2).reshape(4, SIZE, SIZE, 3)
    for row, path in enumerate(photos):
        pixels = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)
        wanted = ImageTransforms(SIZE).eval(pixels).permute(1, 2, 0).numpy()
        np.testing.assert_allclose(shown[row].astype(int), wanted.astype(int), atol=1)


@pytest.mark.parametrize("on_bad_image", ["error", "skip"])
def test_an_image_that_cannot_be_read_is_grey(photos: list[Path], on_bad_image: str) -> None:
    photos[1].write_bytes(b"x")
    shown = tiles(draw_contact_sheet(dataset(photos, on_bad_image), per_task=2, scale=1), 2, 2)
    assert (shown[0, 1] == 204).all()
    assert all(shown[place].std() > 10 for place in ((0, 0), (1, 0), (1, 1)))
    for path in photos:
        path.unlink(missing_ok=True)
    with pytest.raises(DataError, match="image"):
        draw_contact_sheet(dataset(photos, on_bad_image), per_task=2)


def test_images_of_several_tasks_stand_in_each_ones_row(photos: list[Path]) -> None:
    photos[0].write_bytes(b"x")
    targets = {"one": (np.arange(4), np.zeros(4, int)), "two": (np.array([2, 3]), np.zeros(2, int))}
    data = ManifestDataset(TASKS, Manifest([str(p) for p in photos], targets), ImageTransforms(SIZE))
    assert shown_rows(data, 2) == {"one": [1, 2], "two": [2, 3]}
    shown = tiles(draw_contact_sheet(data, per_task=2, scale=1), 2, 2)
    assert np.array_equal(shown[0, 1], shown[1, 0])


def test_classes_take_turns_where_labels_are_known(photos: list[Path]) -> None:
    order = [1, 1, 0, 2, 0]
    targets = {"one": (np.arange(5), np.array(order)), "two": (np.array([5, 6]), np.zeros(2, int))}
    tasks = (Task("one", 3), Task("two", 2))
    data = ManifestDataset(tasks, Manifest([str(photos[0])] * 7, targets), ImageTransforms(SIZE))
    assert shown_rows(data, 4) == {"one": [2, 0, 3, 4], "two": [5, 6]}
    assert shown_rows(data, 9)["one"] == [2, 0, 3, 4, 1]


def test_images_in_memory(pictures: Tensor) -> None:
    rows = torch.arange(2)
    targets = {"one": (rows, rows), "two": (rows + 2, rows)}
    kept = tiles(draw_contact_sheet(InMemoryDataset(TASKS, pictures, targets, Normalize(0.3, 0.2)), 2, 1), 2, 2, 4)
    wanted = pictures.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).reshape(2, 2, 4, 4, 3).numpy()
    np.testing.assert_array_equal(kept, wanted)
    far = InMemoryDataset(TASKS, 1000 + 7 * pictures.float(), targets)  # numbers that no screen has: spread
    spread = tiles(draw_contact_sheet(far, 2, 1), 2, 2, 4)
    assert spread.reshape(4, -1).min(1).tolist() == [0] * 4
    assert spread.reshape(4, -1).max(1).tolist() == [255] * 4


@pytest.fixture
def pictures() -> Tensor:
    """(4, 1, 4, 4) uint8."""
    return torch.randint(0, 256, (4, 1, 4, 4), dtype=torch.uint8)


def test_a_screen_has_three_colours() -> None:
    rows = torch.arange(2)
    data = InMemoryDataset([TASKS[0]], torch.zeros(2, 2, 4, 4), {"one": (rows, rows)})
    with pytest.raises(DataError, match="1 or 3 channels, found 2"):
        draw_contact_sheet(data)


def test_targets_per_pixel_are_below_their_image() -> None:
    labels = torch.tensor([[0, 1], [2, -1]])
    depth = torch.tensor([[[1.0, 2.0], [4.0, 0.0]]])
    normals = torch.tensor([[[1.0, 0], [0, 0]], [[0, 1.0], [0, 0]], [[0, 0], [-1.0, 0]]])

    def read(row: int) -> tuple[Tensor, dict[str, Tensor]]:
        found = {"segmentation": labels, "depth": depth, "normals": normals}
        return torch.full((3, 2, 2), 100 + row, dtype=torch.uint8), found if row == 0 else {"depth": depth}

    data = DenseDataset((segmentation_task(classes=3), depth_task(), normals_task()), read, 2)
    shown = tiles(draw_dense_sheet(data, count=5, scale=1), 4, 2, 2)
    assert (shown[0, 0] == 100).all()
    assert (shown[0, 1] == 101).all()
    assert len(np.unique(shown[1, 0].reshape(4, 3), axis=0)) == 4
    near, middle, far, hole = shown[2, 0, ..., 0].flatten().tolist()
    assert near > middle > far > hole == 0
    assert shown[3, 0].reshape(4, 3).tolist() == [[255, 128, 128], [128, 255, 128], [128, 128, 0], [0, 0, 0]]
    assert (shown[1, 1] == 0).all()
    assert (shown[3, 1] == 0).all()
