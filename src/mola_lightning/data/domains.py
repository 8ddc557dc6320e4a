"""Benchmarks of several domains with the same classes, from list files or from folders."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mola_lightning.core import DataError, Regime, Task
from mola_lightning.core.errors import one_of, require
from mola_lightning.data.base import SPLITS, Split
from mola_lightning.data.listing import folded, read_list, scan_classes, split_folders, subfolders
from mola_lightning.data.manifest import Manifest
from mola_lightning.data.manifest_source import ManifestSource
from mola_lightning.data.string_table import StringTable
from mola_lightning.data.transforms import ImageTransforms

Rows = tuple[StringTable, np.ndarray]  # paths, labels (n,) int64


class Domain(NamedTuple):
    """A domain and how it is called elsewhere.

    Attributes:
        name: of the task.
        aliases: other names of its folder. Upper and lower case, ``_``, ``-`` and spaces make no difference.
        lists: list file of each published split.
    """

    name: str
    aliases: tuple[str, ...] = ()
    lists: Mapping[Split, str] = {}


class DomainSource(ManifestSource):
    """Domains with the same classes. A subclass names them, in :attr:`known`, and its classes.

    Two layouts are read:

    - ``lists``: list files in ``root``, a line an image: its path, relative to ``root`` or absolute, and its label.
    - ``folders``: ``root/<domain>/<class>/...`` or ``root/<domain>/<split>/<class>/...``, with images at any depth.

    A domain is found by its exact name or an alias, never by a part of a path.

    Args:
        root: folder of the benchmark.
        transforms: of all images.
        domains: which domains, in task order; all by default.
        layout: ``lists``, ``folders``, or ``auto``: lists where ``root`` holds those of the first domain.
        options: see :class:`ManifestSource`.

    Raises:
        ConfigError: for settings that cannot work.
    """

    known: tuple[Domain, ...]
    num_classes: int
    class_names: tuple[str, ...] = ()  # in the order of the labels; empty: their folders' names, sorted
    class_aliases: Mapping[str, str] = {}
    first_label: int = 0  # of the list files

    def __init__(
        self,
        root: str | Path,
        transforms: ImageTransforms,
        domains: Sequence[str] | None = None,
        layout: str = "auto",
        **options: Any,
    ) -> None:
        one_of("layout", layout, ("auto", "lists", "folders"))
        names = tuple(domain.name for domain in self.known) if domains is None else tuple(domains)
        require(not isinstance(domains, str), f"domains must be a list of names, got {domains!r}; write [{domains}]")
        require(bool(names), "domains must name one at least, got none")
        for name in names:
            one_of("each of domains", name, [domain.name for domain in self.known])
        self.domains = tuple(domain for name in names for domain in self.known if domain.name == name)
        self.layout = layout
        tasks = [Task(name, self.num_classes, self.class_names) for name in names]
        super().__init__(tasks, Regime.DOMAINS, root, transforms, **options)

    def manifests(self) -> dict[Split, Manifest]:
        """What the lists or the folders hold."""
        assert self.root is not None
        read = self._lists if self._has_lists() else self._folders
        found: dict[Split, dict[str, Rows]] = {}
        for domain in self.domains:
            for split, rows in read(domain).items():
                found.setdefault(split, {})[domain.name] = rows
        same_splits(self.name, found, [domain.name for domain in self.domains])
        return {split: Manifest.of_domains(found[split], self.root) for split in SPLITS if split in found}

    def _has_lists(self) -> bool:
        assert self.root is not None
        first = self.domains[0].lists.get("train")
        return self.layout == "lists" or (self.layout == "auto" and first is not None and (self.root / first).is_file())

    def _lists(self, domain: Domain) -> dict[Split, Rows]:
        assert self.root is not None
        require(bool(domain.lists), f"{self.name} has no published lists: layout must be 'folders' or 'auto'")
        found: dict[Split, Rows] = {}
        for split, file in domain.lists.items():
            path = self.root / file
            if split == "val" and not path.exists():
                continue  # one is cut from train
            paths, labels = read_list(path)
            found[split] = paths, local_labels(labels, self.num_classes, self.first_label, path, paths)
        return found

    def _folders(self, domain: Domain) -> dict[Split, Rows]:
        assert self.root is not None
        folder = domain_folder(self.root, domain, self.name)
        parts = split_folders(folder) or {"train": folder}
        return {split: self._scan(place) for split, place in parts.items()}

    def _scan(self, folder: Path) -> Rows:
        assert self.root is not None
        return scan_classes(folder, self.class_names or self._found_classes, self.root, self.class_aliases)

    @cached_property
    def _found_classes(self) -> list[str]:
        """Names of the class folders of all domains, sorted."""
        assert self.root is not None
        names: dict[str, str] = {}
        for domain in self.domains:
            folder = domain_folder(self.root, domain, self.name)
            for part in (split_folders(folder) or {"train": folder}).values():
                names |= {folded(name): name for name in subfolders(part)}
        if len(names) != self.num_classes:
            raise DataError(
                f"{self.name}: {self.num_classes} classes are expected, but the domains "
                f"{', '.join(domain.name for domain in self.domains)} have {len(names)} class folders in {self.root}; "
                "set num_classes, or look for folders that are no classes or are missing"
            )
        return [names[key] for key in sorted(names)]


def domain_folder(root: Path, domain: Domain, source: str) -> Path:
    """The folder of a domain.

    Raises:
        DataError: when there is none, or there are several that it may be.
    """
    names = {folded(name) for name in (domain.name, *domain.aliases)}
    inside = subfolders(root)
    found = [name for name in inside if folded(name) in names]
    if len(found) != 1:
        what = f"{len(found)} folders" if found else "no folder"
        raise DataError(
            f"{source}: there is {what} of the domain {domain.name!r} in {root}"
            f"{': ' + ', '.join(found) if found else ''}; it may be called "
            f"{', '.join((domain.name, *domain.aliases))}. The folders there: {', '.join(inside[:10]) or 'none'}."
        )
    return root / found[0]


def same_splits(source: str, found: Mapping[Split, Mapping[str, Any]], names: Sequence[str]) -> None:
    """Raise :class:`DataError` when a split is published for some of the tasks ``names`` only."""
    for split, items in found.items():
        if missing := [name for name in names if name not in items]:
            raise DataError(
                f"{source}: {', '.join(items)} come with a {split} split, {', '.join(missing)} without. All must have "
                "the same splits: add the missing one, or put the images of all splits together, and one is cut."
            )


def local_labels(labels: np.ndarray, count: int, first: int, path: Path, paths: StringTable) -> np.ndarray:
    """Labels counted from 0.

    Raises:
        DataError: for one outside of ``first .. first + count - 1``; it names file and image.
    """
    bad = (labels < first) | (labels >= first + count)
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(
            f"{path}: labels must lie in {first}..{first + count - 1} ({count} classes), "
            f"found {int(labels[row])} for {paths[row]}. Mend the line or remove it."
        )
    return labels - first
