"""RadImageNet: pathologies in eleven groups of radiological images."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from mola_lightning.core import DataError, Regime, Task
from mola_lightning.core.errors import one_of, require
from mola_lightning.data.base import SPLITS, Split
from mola_lightning.data.domains import local_labels
from mola_lightning.data.listing import read_list, scan_classes, subfolders
from mola_lightning.data.manifest import Manifest
from mola_lightning.data.manifest_source import ManifestSource
from mola_lightning.data.transforms import ImageTransforms

# Task -> (its classes, its folder), in the order of the labels of the released lists.
TASKS: dict[str, tuple[int, str]] = {
    "ct_lung": (6, "CT/lung"),
    "ct_abdomen": (28, "CT/abd"),
    "us_thyroid": (2, "US/thyroid"),
    "us_abdomen": (13, "US/abd"),
    "mr_knee": (18, "MR/knee"),
    "mr_shoulder": (14, "MR/shoulder"),
    "mr_spine": (9, "MR/spine"),
    "mr_ankle": (25, "MR/af"),
    "mr_abdomen": (26, "MR/abd"),
    "mr_brain": (10, "MR/brain"),
    "mr_hip": (14, "MR/hip"),
}
STARTS = dict(zip(TASKS, accumulate((width for width, _ in TASKS.values()), initial=0), strict=False))
NUM_LABELS = sum(width for width, _ in TASKS.values())  # 165


class RadImageNet(ManifestSource):
    """165 pathologies in eleven tasks, each a body part in CT, MR or ultrasound (Mei et al., Radiology: AI 2022).

    - ``lists``: the released ``rad_train_shuffled.txt`` and ``rad_test.txt``, and ``rad_val.txt`` where there is one;
      labels 0..164, of which each task has a range. They become labels of the task: 0, 1, ...
    - ``folders``: ``CT/lung/<class>/...`` and so on, as the archive has it; validation and test images are cut.

    The released lists do not name the tasks. The names here follow from the numbers of classes, which the data set's
    paper gives for each body part; only ``mr_shoulder`` and ``mr_hip``, which both have 14, may be exchanged.

    Args:
        root: folder of the lists, whose paths are absolute or relative to it, or of the folders CT, MR and US.
        transforms: of all images.
        subset: which tasks, in task order; all by default.
        layout: ``lists``, ``folders``, or ``auto``: lists where ``root`` holds them.
        folders: task -> its folder below ``root``, where it is another than CT/lung, CT/abd, US/thyroid, US/abd,
            MR/knee, MR/shoulder, MR/spine, MR/af, MR/abd, MR/brain, MR/hip.
        options: see :class:`ManifestSource`.

    Raises:
        ConfigError: for settings that cannot work.
    """

    TRAIN_LIST = "rad_train_shuffled.txt"
    expects = (
        "RadImageNet is given on request (radimagenet.com). Unpack it, and set root to the folder that holds CT, MR "
        "and US, or the lists rad_train_shuffled.txt and rad_test.txt of the MoLA paper's code."
    )

    def __init__(
        self,
        root: str | Path,
        transforms: ImageTransforms,
        subset: Sequence[str] | None = None,
        layout: str = "auto",
        folders: Mapping[str, str] | None = None,
        test_fraction: float | None = 0.1,
        **options: Any,
    ) -> None:
        one_of("layout", layout, ("auto", "lists", "folders"))
        names = tuple(TASKS) if subset is None else tuple(subset)
        require(bool(names), "subset must name one task at least, got none")
        for kind, given in (("each of subset", names), ("each key of folders", tuple(folders or ()))):
            for name in given:
                one_of(kind, name, TASKS)
        self.layout = layout
        self.folders = {name: (folders or {}).get(name, TASKS[name][1]) for name in names}
        tasks = [Task(name, TASKS[name][0]) for name in names]
        super().__init__(tasks, Regime.MULTI_INPUT, root, transforms, test_fraction=test_fraction, **options)

    def manifests(self) -> dict[Split, Manifest]:
        """What the lists or the folders hold."""
        assert self.root is not None
        if self.layout == "lists" or (self.layout == "auto" and (self.root / self.TRAIN_LIST).is_file()):
            return self._lists(self.root)
        return {"train": self._folders(self.root)}

    def _lists(self, root: Path) -> dict[Split, Manifest]:
        files: dict[Split, Path] = {
            "train": root / self.TRAIN_LIST, "val": root / "rad_val.txt", "test": root / "rad_test.txt",
        }  # fmt: skip
        found: dict[Split, Manifest] = {}
        for split in SPLITS:
            if split == "val" and not files[split].exists():
                continue  # one is cut from train
            paths, labels = read_list(files[split])
            labels = local_labels(labels, NUM_LABELS, 0, files[split], paths)
            targets, wanted = {}, np.zeros(len(labels), dtype=bool)
            for name in self.folders:
                here = (labels >= STARTS[name]) & (labels < STARTS[name] + TASKS[name][0])
                targets[name] = (np.flatnonzero(here), labels[here] - STARTS[name])
                wanted |= here
            whole = Manifest(paths, targets, root)
            found[split] = whole if wanted.all() else whole.select(np.flatnonzero(wanted))
        return found

    def _folders(self, root: Path) -> Manifest:
        items = {}
        for name, place in self.folders.items():
            classes = subfolders(root / place)
            if len(classes) != TASKS[name][0]:
                raise DataError(
                    f"{self.name}: task {name!r} has {TASKS[name][0]} classes, but {root / place} holds {len(classes)} "
                    "folders; the archive has one for each class. Is the task's folder another one (option folders)?"
                )
            items[name] = scan_classes(root / place, classes, root)
        return Manifest.of_domains(items, root)
