"""NYUv2 in its pre-processed form, a few pixels large: a floor and a wall, with holes."""

from pathlib import Path

import numpy as np


def scene(number: int, height: int = 24, width: int = 32) -> dict[str, np.ndarray]:
    """Maps of one image: a wall above a floor, void and unmeasured pixels at the left; image 1 has no valid pixel."""
    rng = np.random.default_rng(number)
    rows, columns = np.mgrid[:height, :width]
    floor = rows > height // 2
    label = np.where(floor, 4, 11).astype(np.float64)
    label[: 4 + number % 3, -5:] = number % 13
    depth = np.where(floor, 3 - 2 * (rows - height / 2) / height, 3.0)[..., None] + 0.1 * (number % 4)
    normal = np.where(floor[..., None], [0.0, 1.0, 0.0], [0.6, 0.0, 0.8])
    void = (columns < 3) | (number == 1)
    label[void], depth[void], normal[void] = -1, 0.0, 0.0
    image = np.stack([depth[..., 0] / 4, floor * 0.5, columns / width], axis=2) + rng.normal(
        0, 0.02, (height, width, 3)
    )
    return {"image": image.clip(0, 1), "label": label, "depth": depth, "normal": normal}


def write_nyuv2(root: Path, train: int = 10, test: int = 4, height: int = 24, width: int = 32) -> Path:
    """``train`` and ``val`` with as many images."""
    for folder, count, first in (("train", train, 0), ("val", test, 100)):
        for kind in ("image", "label", "depth", "normal"):
            (root / folder / kind).mkdir(parents=True, exist_ok=True)
        for row in range(count):
            for kind, array in scene(first + row, height, width).items():
                np.save(root / folder / kind / f"{row}.npy", array)
    return root
