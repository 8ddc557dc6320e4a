"""A user's folders and tables, a few pixels a picture."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = ((220, 60, 40), (40, 180, 60), (50, 80, 220), (230, 200, 40))


def write_photo(path: Path, label: int = 0, seed: int = 0) -> Path:
    """A small photograph whose colour tells its class."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).normal(0, 30, (18, 24, 3))
    Image.fromarray(np.uint8(np.clip(np.array(COLOURS[label % 4]) + noise, 0, 255))).save(path)
    return path


def write_folder(root: Path, classes: Sequence[str], count: int) -> Path:
    """``root/<class>/<n>.jpg``."""
    for label, name in enumerate(classes):
        for n in range(count):
            write_photo(root / name / f"{n}.jpg", label, seed=label * 100 + n)
    return root


def write_table(path: Path, rows: Iterable[Mapping[str, object]]) -> Path:
    """A CSV file, and a photograph for each different path in its column ``file``."""
    rows = list(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
    for n, name in enumerate(dict.fromkeys(str(row["file"]) for row in rows)):
        if name and not (path.parent / name).exists():
            write_photo(path.parent / name, n, seed=n)
    return path
