"""Images a second that reach the training step, side by side with a bare torchvision loader over the same files."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from mola_lightning.benchmarks.measure import CLOCKS, check_clock
from mola_lightning.core import Batch, Regime
from mola_lightning.core.errors import require
from mola_lightning.data import MultiTaskDataModule, Source, Split, make_task
from mola_lightning.data.image_cache import ImageCache
from mola_lightning.data.images import ManifestDataset
from mola_lightning.data.manifest import Manifest
from mola_lightning.data.transforms import ImageTransforms

BARE, OURS, CACHED = "torchvision", "mola_lightning", "with cache=ram"
SIZES = ((256, 256), (500, 375))  # width and height of the files
CROP = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DOMAINS = ("a", "b", "c", "d")
JPEG_QUALITY = 90


@dataclass
class Throughput:
    """Images a second of each loader, one number per round."""

    width: int
    height: int
    workers: int
    images_per_second: dict[str, list[float]]

    def ratios(self, name: str) -> tuple[float, float, float]:
        """Median, least and greatest over rounds, as multiples of the bare loader's in the same round."""
        pairs = zip(self.images_per_second[name], self.images_per_second[BARE], strict=True)
        ratios = [mine / bare for mine, bare in pairs]
        return median(ratios), min(ratios), max(ratios)


def write_images(root: Path, number: int, width: int, height: int) -> None:
    """Write JPEG files that compress like photographs, the same each time, into one folder for each domain.

    Args:
        root: folder of the folders.
        number: of files in all.
        width: in pixels.
        height: in pixels.
    """
    rng = np.random.default_rng(0)
    for i in range(number):
        folder = root / DOMAINS[i % len(DOMAINS)]
        folder.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
        grain = rng.normal(0, 6, (height, width, 1))
        Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(
            folder / f"{i:05d}.jpg", quality=JPEG_QUALITY
        )


class Folders(Source):
    """The written files, a domain in each folder."""

    regime = Regime.DOMAINS
    image_shape = (3, CROP, CROP)

    def __init__(self, root: Path, cached: bool) -> None:
        self.tasks = tuple(make_task(name, num_outputs=2) for name in DOMAINS)
        files = {name: sorted(f"{name}/{path.name}" for path in (root / name).iterdir()) for name in DOMAINS}
        self.manifest = Manifest.of_domains(
            {name: (paths, np.zeros(len(paths), dtype=np.int64)) for name, paths in files.items()}, root
        )
        self.cache = ImageCache.build(self.manifest, 3, "ram") if cached else None

    def dataset(self, split: Split) -> ManifestDataset:
        """The same files for each split."""
        transforms = ImageTransforms(CROP, train=augmentation(), mean=MEAN, std=STD)
        return ManifestDataset(self.tasks, self.manifest, transforms, training=split == "train", cache=self.cache)


def augmentation() -> list[v2.Transform]:
    """What both loaders do to each image."""
    return [v2.RandomResizedCrop(CROP), v2.RandomHorizontalFlip()]


def bare_loader(root: Path, batch_size: int, workers: int) -> DataLoader[tuple[Tensor, int]]:
    """``ImageFolder`` and ``DataLoader``, as torchvision's documentation puts them together."""
    transform = v2.Compose(
        [v2.ToImage(), *augmentation(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    )
    return DataLoader(
        ImageFolder(root, transform),
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def measure_loaders(
    root: Path, width: int, height: int, workers: int, *, batch_size: int = 32, rounds: int = 7, clock: str = "wall"
) -> Throughput:
    """All loaders over the files below ``root``, in turn, an epoch each a round.

    A machine's speed drifts; loaders timed in the same round share it, so ratios within rounds hold where times do not.

    Args:
        root: where :func:`write_images` wrote.
        width: of the files, for the record.
        height: likewise.
        workers: of each loader; 0: in this process.
        batch_size: images of a batch.
        rounds: of timing, after one that starts workers and fills the system's file cache.
        clock: ``wall``, or ``cpu`` for processor time, which other programs on the machine change less.

    """
    check_workers([workers], clock)
    loaders: dict[str, Iterable[Any]] = {BARE: bare_loader(root, batch_size, workers)}
    for name, cached in ((OURS, False), (CACHED, True)):
        data = MultiTaskDataModule(Folders(root, cached), batch_size=batch_size, num_workers=workers)
        loaders[name] = data.train_dataloader()
    found = Throughput(width, height, workers, {name: [] for name in loaders})
    for turn in range(rounds + 1):
        for name, loader in loaders.items():
            speed = _epoch(loader, clock)
            if turn:
                found.images_per_second[name].append(speed)
    return found


def check_workers(workers: Sequence[int], clock: str) -> None:
    """Raise :class:`ConfigError` for numbers of workers that cannot be, or whose processor time is not seen here."""
    check_clock(clock, torch.device("cpu"))
    require(min(workers) >= 0, f"workers must be >= 0, got {min(workers)}")
    ok = clock == "wall" or max(workers) == 0
    require(ok, "processor time is that of the work only without workers; use --workers 0, or the wall clock")


def _epoch(loader: Iterable[Any], clock: str) -> float:
    """Images a second of a pass through the loader."""
    start, images = CLOCKS[clock](), 0
    for batch in loader:
        images += len(batch.images if isinstance(batch, Batch) else batch[0])
    return images / (CLOCKS[clock]() - start)


def throughput_table(measured: Sequence[Throughput]) -> Table:
    """Images a second, and ratios to the bare loader."""
    table = Table(title="Images a second (median), and as a multiple of torchvision's in the same round")
    for j, name in enumerate(("images", "workers", BARE, OURS, "ratio", "min-max", CACHED, "ratio")):
        table.add_column(name, justify="right" if j else "left", no_wrap=True)
    for case in measured:
        speeds = {name: f"{median(values):.0f}" for name, values in case.images_per_second.items()}
        ratio, least, most = case.ratios(OURS)
        table.add_row(
            f"{case.width} x {case.height}",
            str(case.workers),
            speeds[BARE],
            speeds[OURS],
            f"{ratio:.2f}",
            f"{least:.2f}-{most:.2f}",
            speeds[CACHED],
            f"{case.ratios(CACHED)[0]:.2f}",
        )
    return table


def throughput_data(measured: Sequence[Throughput]) -> list[Mapping[str, Any]]:
    """Everything measured, as JSON can hold it."""
    return [
        {
            "width": case.width,
            "height": case.height,
            "workers": case.workers,
            "loaders": {
                name: {"images_per_second": values, "ratio": case.ratios(name)[0]}
                for name, values in case.images_per_second.items()
            },
        }
        for case in measured
    ]
