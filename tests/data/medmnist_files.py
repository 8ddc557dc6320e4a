"""Archives of MedMNIST in their true form, a few images each."""

from pathlib import Path

import numpy as np

# name -> classes (labels of chestmnist), colour
SETS = {
    "pathmnist": (9, True), "octmnist": (4, False), "organcmnist": (11, False), "bloodmnist": (8, True),
    "breastmnist": (2, False), "dermamnist": (7, True), "organamnist": (11, False), "organsmnist": (11, False),
    "pneumoniamnist": (2, False), "chestmnist": (14, False), "retinamnist": (5, True),
}  # fmt: skip


def arrays(name: str, size: int = 28, rounds: int = 2) -> dict[str, np.ndarray]:
    """Each class as often as ``rounds`` in training, once in validation and test; brightness tells the class."""
    classes, colour = SETS[name]
    found = {}
    for s, split in enumerate(("train", "val", "test")):
        labels = np.tile(np.arange(classes), rounds if split == "train" else 1)[:, None]
        rng = np.random.default_rng(sum(map(ord, name)) + s)
        shape = (len(labels), size, size, 3) if colour else (len(labels), size, size)
        light = (labels[:, 0] + 0.5) / classes * 255
        images = light.reshape(-1, *[1] * (len(shape) - 1)) + rng.normal(0, 10, shape)
        if name == "chestmnist":
            labels = (rng.random((len(labels), classes)) < 0.5).astype(np.int64)
        found[f"{split}_images"] = np.uint8(images.clip(0, 255))
        found[f"{split}_labels"] = labels.astype(np.uint8)
    return found


def write_sets(root: Path, names: list[str] | None = None, size: int = 28) -> Path:
    """``root/<name>.npz``, or ``<name>_<size>.npz`` for other sizes than 28."""
    root.mkdir(parents=True, exist_ok=True)
    for name in names or SETS:
        np.savez_compressed(root / f"{name}{'' if size == 28 else f'_{size}'}.npz", **arrays(name, size))
    return root
