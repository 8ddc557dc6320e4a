"""Image transforms on whole batches: a call per batch instead of one per sample keeps the loader out of the profile."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mola_lightning.core.errors import DataError, require
from mola_lightning.core.seeding import seed_of


class Normalize:
    """``(image - mean) / std`` in float32, where uint8 images are first brought to [0, 1].

    Args:
        mean: per channel, or one for all, on the scale of [0, 1] for uint8 images.
        std: likewise, positive.
    """

    def __init__(self, mean: float | Sequence[float] = 0.0, std: float | Sequence[float] = 1.0) -> None:
        self.mean = torch.as_tensor(mean, dtype=torch.float32).reshape(-1, 1, 1)
        self.std = torch.as_tensor(std, dtype=torch.float32).reshape(-1, 1, 1)
        require(bool((self.std > 0).all()), f"std must be positive, got {std!r}")
        # One multiply-add instead of three operations a batch.
        self._scale: dict[bool, Tensor] = {}
        self._shift: dict[bool, Tensor] = {}
        for integer in (False, True):
            unit = 255.0 if integer else 1.0
            self._scale[integer] = 1.0 / (unit * self.std)
            self._shift[integer] = -self.mean / self.std

    def __call__(self, images: Tensor) -> Tensor:
        """(B, C, H, W) uint8 or float -> (B, C, H, W) float32."""
        if max(len(self.mean), len(self.std)) not in (1, images.shape[1]):
            raise DataError(f"mean and std are given for {len(self.mean)} channels, the images have {images.shape[1]}")
        integer = images.dtype == torch.uint8
        return torch.addcmul(self._shift[integer], images.to(torch.float32), self._scale[integer])


class RandomShift:
    """Move each image by a whole number of pixels in each direction; the border is repeated into the gap.

    Args:
        max_shift: largest shift in pixels; 0 does nothing.
    """

    def __init__(self, max_shift: int) -> None:
        ok = isinstance(max_shift, int) and not isinstance(max_shift, bool) and max_shift >= 0
        require(ok, f"the largest shift must be an integer number of pixels >= 0, got {max_shift!r}")
        self.max_shift = max_shift

    def offsets(self, seed: int, keys: Sequence[tuple[int, int]]) -> Tensor:
        """(B, 2) shifts (down, right): a pure function of (seed, epoch, index) for each key ``(epoch, index)``."""
        generator = torch.Generator()
        size = 2 * self.max_shift + 1
        drawn = [
            torch.randint(size, (2,), generator=generator.manual_seed(seed_of(seed, "augment", epoch, index)))
            for epoch, index in keys
        ]
        return torch.stack(drawn) - self.max_shift

    def __call__(self, images: Tensor, seed: int, keys: Sequence[tuple[int, int]]) -> Tensor:
        """Shift images (B, C, H, W), one key ``(epoch, index)`` each."""
        if self.max_shift == 0:
            return images
        down, right = self.offsets(seed, keys)[:, :, None].unbind(1)  # (B, 1) each
        height, width = images.shape[-2:]
        rows = (torch.arange(height) - down).clamp_(0, height - 1)  # (B, H)
        columns = (torch.arange(width) - right).clamp_(0, width - 1)  # (B, W)
        batch = torch.arange(len(images))[:, None, None, None]
        channels = torch.arange(images.shape[1])[None, :, None, None]
        return images[batch, channels, rows[:, None, :, None], columns[:, None, None, :]]
