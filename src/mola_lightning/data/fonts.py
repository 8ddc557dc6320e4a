"""Printed characters, rendered from the fonts that matplotlib ships."""

from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mola_lightning.core import DataError

# Fonts without digits of their own: boxes for missing glyphs, mathematical symbols and extensions, size variants.
_NO_DIGITS = ("LastResort", "cmex", "cmsy", "cmmi", "STIXSiz", "STIXNonUni", "Display")
_MISSING = "\U000ffffe"  # a code point that no font has: shows what a font draws for a glyph that it lacks
_CANVAS, _SIZE = 40, 28  # drawn on 40 x 40 so that a rotation cuts no corner, then the 28 x 28 in the middle


@lru_cache(maxsize=1024)
def _load(path: Path, size: int) -> ImageFont.FreeTypeFont:
    # The basic layout engine: the other one depends on a system library.
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def font_folder() -> Path:
    """Where matplotlib keeps its fonts."""
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def has_characters(path: Path, characters: str) -> bool:
    """Whether the font draws these characters, all different, none of them as its sign for a missing glyph."""
    font = _load(path, 32)
    drawn = [bytes(font.getmask(text)) for text in (*characters, _MISSING)]
    return len(set(drawn)) == len(drawn) and all(map(any, drawn[:-1]))


def has_digits(path: Path) -> bool:
    """Whether the font draws ten different digits."""
    return has_characters(path, "0123456789")


def digit_fonts() -> list[Path]:
    """The fonts with real digits, by name.

    Raises:
        DataError: when fewer than three are found, too few for three splits.
    """
    folder = font_folder()
    named = [path for path in sorted(folder.glob("*.ttf")) if not any(word in path.name for word in _NO_DIGITS)]
    fonts = [path for path in named if has_digits(path)]
    if len(fonts) < 3:
        raise DataError(
            f"found {len(fonts)} fonts with digits in {folder}, at least 3 are needed; reinstall matplotlib"
        )
    return fonts


def draw_digit(digit: int, path: Path, rng: np.random.Generator) -> np.ndarray:
    """(28, 28) uint8, white on black, in the font ``path``; size, slant and place vary lightly with ``rng``."""
    return draw_character(str(digit), path, rng)


def draw_character(
    text: str, path: Path, rng: np.random.Generator, max_side: int | None = None, max_angle: float = 180.0
) -> np.ndarray:
    """A character, moved, scaled and slanted a little.

    Args:
        text: the character.
        path: of the font.
        rng: draws the size (18 to 25 pixels), the place and the angle.
        max_side: pixels that the upright character may be wide and high; larger ones are drawn in a smaller size. None:
            as large as the font has it, which suits digits; wide letters such as W would be cut off.
        max_angle: degrees that it is slanted at most.

    Returns:
        (28, 28) uint8, white on black.
    """
    size = int(rng.integers(18, 26))
    font = _load(path, size)
    image = Image.new("L", (_CANVAS, _CANVAS))
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    while max_side is not None and max(right - left, bottom - top) > max_side:
        size -= 1
        font = _load(path, size)
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    middle = _CANVAS / 2
    draw.text((middle - (left + right) / 2, middle - (top + bottom) / 2), text, fill=255, font=font)
    down, across = (int(shift) for shift in rng.integers(-2, 3, size=2))
    angle = min(max(float(rng.normal(0, 8)), -max_angle), max_angle)
    image = image.rotate(angle, resample=Image.Resampling.BICUBIC, translate=(across, down))
    margin = (_CANVAS - _SIZE) // 2
    return np.asarray(image)[margin : margin + _SIZE, margin : margin + _SIZE]
