"""Image transforms: on whole batches where all images have one size, else one image at a time."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchvision.transforms import v2

from mola_lightning.core.errors import ConfigError, DataError, one_of, positive_int, require
from mola_lightning.core.seeding import seed_of
from mola_lightning.data.seeded import reseed

Transform = Callable[[Tensor], Tensor]


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

    def undo(self, images: Tensor) -> Tensor:
        """(..., C, H, W) normalised -> the same as they were, uint8 ones in [0, 1]."""
        return images * self.std + self.mean


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


class ImageTransforms:
    """What happens to an image between its file and the model, at training and at evaluation.

    Args:
        size: height and width of the images that the model sees, in pixels.
        train: transforms of torchvision.transforms.v2, or other callables, on uint8 tensors (C, H, W). They may draw
            from the global generators of torch, numpy and Python: those are seeded for each image. Empty: the shorter
            side is resized to ``size``, and the middle taken.
        eval: likewise for evaluation, where nothing is random.
        mean: per channel, or one for all, on the scale of [0, 1].
        std: likewise, positive.
        channels: 3 for colour, 1 for grey.

    Attributes:
        image_shape: (channels, size, size).
        normalize: applied to each batch of transformed images.
    """

    def __init__(
        self,
        size: int,
        train: Sequence[Transform] = (),
        eval: Sequence[Transform] = (),
        mean: float | Sequence[float] = 0.5,
        std: float | Sequence[float] = 0.5,
        channels: int = 3,
    ) -> None:
        positive_int("size", size)
        one_of("channels", channels, (1, 3))
        self.size, self.channels = size, channels
        self.image_shape = (channels, size, size)
        self.normalize = Normalize(mean, std)
        for name, values in (("mean", self.normalize.mean), ("std", self.normalize.std)):
            ok = len(values) in (1, channels)
            require(ok, f"{name} must be one number or {channels}, one a channel; got {len(values)}")
        self._pipelines = {"train": self._pipeline("train", train), "eval": self._pipeline("eval", eval)}

    def _pipeline(self, name: str, transforms: Sequence[Transform]) -> tuple[Transform, ...]:
        for transform in transforms:
            require(callable(transform), f"{name} must be a list of transforms, got {transform!r} in it")
        return tuple(transforms) or (v2.Resize(self.size), v2.CenterCrop(self.size))

    @property
    def eval_steps(self) -> tuple[str, ...]:
        """What is done to an image at evaluation, in words, before it is normalised."""
        return tuple(" ".join(repr(transform).split()) for transform in self._pipelines["eval"])

    def augment(self, image: Tensor, seed: int, epoch: int, index: int) -> Tensor:
        """Augment an image: a pure function of the arguments.

        The global generators are seeded for it; a caller puts them back by :func:`generators_restored`, which takes
        some time and so is entered once a batch.

        Args:
            image: (C, H, W) uint8 of any size.
            seed: of the run.
            epoch: of training.
            index: the image's row in its data set.

        Returns:
            (channels, size, size) uint8, or float where the transforms make it so.
        """
        reseed(seed_of(seed, "augment", epoch, index))
        return self._run("train", image)

    def eval(self, image: Tensor) -> Tensor:
        """(C, H, W) uint8 of any size -> (channels, size, size)."""
        return self._run("eval", image)

    def _run(self, name: str, image: Tensor) -> Tensor:
        shape = tuple(image.shape)
        for transform in self._pipelines[name]:
            image = transform(image)
        if not isinstance(image, Tensor) or tuple(image.shape) != self.image_shape:
            found = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
            raise ConfigError(
                f"the {name} transforms made {found} of an image {shape}, but images must become {self.image_shape} "
                "(channels, size, size): end the list with a crop or a Resize([size, size]) to the transforms' size, "
                "or change size or channels"
            )
        return image
