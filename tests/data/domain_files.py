"""Benchmarks of domains and of radiology in their true layouts, a few pixels a picture."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def write_images(paths: Iterable[Path]) -> None:
    """A small picture at each path, a colour of its own each."""
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((24, 18)).save(path)


def write_folders(root: Path, domains: Iterable[str], classes: Sequence[str], count: int, ending: str = "jpg") -> Path:
    """``root/<domain>/<class>/<n>.jpg``; a domain may hold a split's name, as in ``CALTECH/train``."""
    write_images(root / d / c / f"image {n}.{ending}" for d in domains for c in classes for n in range(count))
    return root


def write_list(root: Path, file: str, lines: Mapping[str, int], absolute: bool = False) -> Path:
    """A list of ``path label`` lines, and the images that it names."""
    root.mkdir(parents=True, exist_ok=True)
    write_images(root / path for path in lines)
    text = "".join(f"{root / path if absolute else path} {label}\n" for path, label in lines.items())
    (root / file).write_text(text, encoding="utf-8")
    return root


def numbered(folder: str, classes: Sequence[int], count: int, start: int = 0) -> dict[str, int]:
    """``folder/<label>/<n>.jpg`` -> label."""
    return {f"{folder}/{label}/{n}.jpg": label for label in classes for n in range(start, start + count)}
