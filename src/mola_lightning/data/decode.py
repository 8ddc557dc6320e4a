"""From an image file to pixels."""

import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from mola_lightning.core import DataError
from mola_lightning.core.errors import one_of

# Why an image cannot be read; the place of a reason in this tuple is its code in shared memory and cache files.
REASONS = (
    "", "missing", "not a file", "no permission", "unreadable", "empty", "not an image", "truncated", "damaged",
    "too large", "unsupported pixels",
)  # fmt: skip

# What the parsers of Pillow raise on bytes that are not what they announce.
_DAMAGE = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, AttributeError,
    struct.error, zlib.error,
)  # fmt: skip
_GREY_16 = ("I;16", "I;16L", "I;16B", "I;16N", "I")


class ImageError(DataError):
    """An image file that cannot be read.

    Attributes:
        reason: one of ``REASONS``.
    """

    reason: str = "damaged"


def image_error(path: str | Path, reason: str, detail: str = "") -> ImageError:
    """The error for ``path``, with its reason and what else is known."""
    error = ImageError(
        f"cannot read the image {path}: {reason}{f' ({detail})' if detail else ''}. "
        "Replace or remove the file, or leave such images out with on_bad_image=skip."
    )
    error.reason = reason
    return error


def read_image(path: str | Path, channels: int = 3) -> Tensor:
    """Read an image file as (C, H, W) uint8, upright as its EXIF orientation says.

    Any format and mode that Pillow knows: transparent pixels are blended with white, 16-bit grey is scaled from
    0..65535 to 0..255, of several frames the first is read. Nothing is decoded at a lower resolution to save time, so
    training and evaluation see the same pixels.

    Args:
        path: of the file.
        channels: 3 for RGB, 1 for grey.

    Raises:
        ImageError: when there is no file, or no image in it; it names the file and the reason.
    """
    return spread(decode(path, channels), channels)


def spread(pixels: Tensor, channels: int) -> Tensor:
    """(1 or C, H, W) -> (C, H, W), the channels of a pixel side by side in memory, as resizing wants them."""
    if pixels.shape[0] == channels:
        return pixels
    return pixels.permute(1, 2, 0).expand(-1, -1, channels).contiguous().permute(2, 0, 1)


def decode(path: str | Path, channels: int) -> Tensor:
    """As :func:`read_image`, but a grey image keeps its one channel."""
    one_of("channels", channels, (1, 3))
    content = _content(path)
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            with suppress(*_DAMAGE):  # damage of the EXIF part alone costs no image
                ImageOps.exif_transpose(image, in_place=True)
            return _pixels(image, channels)
    except Image.DecompressionBombError as error:
        raise image_error(path, "too large", str(error)) from error
    except UnidentifiedImageError as error:
        raise image_error(path, "not an image") from error
    except _UnsupportedPixels as error:
        raise image_error(path, "unsupported pixels", str(error)) from error
    except _DAMAGE as error:
        truncated = isinstance(error, EOFError) or "truncated" in str(error).lower()
        raise image_error(path, "truncated" if truncated else "damaged", str(error)) from error


class _UnsupportedPixels(Exception):
    """Numbers of which nobody can say how bright they are."""


def _content(path: str | Path) -> bytes:
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise image_error(path, "missing") from error
    except (IsADirectoryError, NotADirectoryError) as error:
        raise image_error(path, "not a file") from error
    except PermissionError as error:
        raise image_error(path, "no permission") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise image_error(path, "unreadable", str(error)) from error
    if not content:
        raise image_error(path, "empty")
    return content


def _pixels(image: Image.Image, channels: int) -> Tensor:
    """(C, H, W), one channel where the image is grey."""
    if image.mode in _GREY_16:
        values = np.asarray(image).astype(np.int64)
        if values.size and not 0 <= values.min() <= values.max() <= 65535:
            raise _UnsupportedPixels(
                f"32-bit integers from {values.min()} to {values.max()}; store 8 or 16 bits a pixel"
            )
        return torch.from_numpy(((values * 255 + 32767) // 65535).astype(np.uint8))[None]
    if image.mode == "F":
        raise _UnsupportedPixels("floating point numbers, of which no range is agreed on; store 8 or 16 bits a pixel")
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, "white")
        opaque.alpha_composite(image.convert("RGBA"))
        image = opaque
    if image.mode not in ("L", "RGB" if channels == 3 else "L"):
        grey = channels == 1 or image.mode in ("1", "LA", "La")
        image = image.convert("L" if grey else "RGB")
    array = np.array(image)
    return torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1)
