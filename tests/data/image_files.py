"""Image files of every kind that photographs and scans come in, a few pixels large, and some that are broken."""

from pathlib import Path

import numpy as np
from PIL import Image


def picture(width: int = 20, height: int = 12, seed: int = 0) -> np.ndarray:
    """(height, width, 3) uint8: smooth colours, so that JPEG keeps them."""
    phase = np.random.default_rng(seed).uniform(0, 2 * np.pi, (3, 2))
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / width * 4 + a) + np.cos(y / height * 3 + b) for a, b in phase]
    return np.uint8(np.clip(np.stack(waves, axis=2) * 60 + 127, 0, 255))


def write_picture(path: Path, width: int = 20, height: int = 12, seed: int = 0) -> Path:
    """A picture in the format of the file's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(width, height, seed)).save(path)
    return path


def write_modes(folder: Path) -> dict[str, Path]:
    """The same picture in every mode that a file can have, by a name for it."""
    colour = Image.fromarray(picture())
    grey = colour.convert("L")
    alpha = Image.fromarray(np.tile(np.uint8(np.linspace(0, 255, 20)), (12, 1)))
    sixteen = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    modes = {
        "rgb.png": colour,
        "rgb.jpg": colour,
        "progressive.jpg": colour,
        "grey.png": grey,
        "grey.jpg": grey,
        "palette.png": colour.quantize(64),
        "palette.gif": colour.quantize(64),
        "cmyk.jpg": colour.convert("CMYK"),
        "cmyk.tif": colour.convert("CMYK"),
        "alpha.png": _with_alpha(colour, alpha),
        "grey_alpha.png": _with_alpha(grey, alpha),
        "one_bit.png": grey.convert("1"),
        "sixteen.png": sixteen,
        "sixteen.tif": sixteen,
        "rgb.bmp": colour,
        "lossless.webp": colour,
    }
    folder.mkdir(parents=True, exist_ok=True)
    options = {"progressive.jpg": {"progressive": True}, "lossless.webp": {"lossless": True}}
    for name, image in modes.items():
        image.save(folder / name, **options.get(name, {}))
    return {name: folder / name for name in modes}


def write_broken(folder: Path) -> dict[str, Path]:
    """Files that cannot be read, by the reason."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = write_picture(folder / "whole.jpg", 64, 48).read_bytes()
    png = write_picture(folder / "whole.png", 64, 48).read_bytes()
    float_image = Image.fromarray(np.full((4, 4), 0.5, dtype=np.float32))
    contents = {
        "truncated": ("half.jpg", whole[: len(whole) // 2]),
        "empty": ("empty.jpg", b""),
        "not an image": ("page.jpg", b"<html>404</html>"),
        "damaged": ("damaged.png", png[:60] + b"\xff" * 20 + png[80:]),
    }
    for name, content in contents.values():
        (folder / name).write_bytes(content)
    float_image.save(folder / "float.tif")
    (folder / "folder.jpg").mkdir(exist_ok=True)
    found = {reason: folder / name for reason, (name, _) in contents.items()}
    return {
        **found,
        "missing": folder / "nowhere.jpg",
        "not a file": folder / "folder.jpg",
        "unsupported pixels": folder / "float.tif",
    }


def _with_alpha(image: Image.Image, alpha: Image.Image) -> Image.Image:
    image = image.copy()
    image.putalpha(alpha)
    return image
