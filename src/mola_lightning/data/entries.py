"""What a user says of one of her domains or tasks."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from mola_lightning.core import ConfigError
from mola_lightning.core.errors import one_of, require
from mola_lightning.data.kinds import KINDS


@dataclass(frozen=True)
class Entry:
    """One domain or task of :class:`ImageFolders`.

    Attributes:
        name: of the task.
        folder: of its images, below root: ``<folder>/<class>/...`` or ``<folder>/<split>/<class>/...``.
        table: instead, a CSV or TSV file below root, a row an image.
        image: the table's column of paths, relative to ``images``.
        label: its column of labels, or several: one for each label of ``multi_label`` (0 or 1) or number of
            ``regression``. A row with an empty cell has no target of this task.
        split: its column of splits: train, val, test and other names of these.
        group: its column of whatever must not be parted when a split is cut, such as a patient.
        images: folder of the table's paths, below root; by default the table's own.
        separator: between cells; by default a tab in .tsv files, else a comma.
        kind: see :func:`make_task`, as for the following.
        class_names: in the order of the labels; by default those that are found, sorted.
        metrics: names of metrics, the monitored one first.
        class_weights: a number for each class.
    """

    name: str
    folder: str | None = None
    table: str | None = None
    image: str = "image"
    label: str | tuple[str, ...] = "label"
    split: str | None = None
    group: str | None = None
    images: str | None = None
    separator: str | None = None
    kind: str = "single_label"
    class_names: tuple[str, ...] = ()
    metrics: tuple[str, ...] | None = None
    class_weights: tuple[float, ...] | None = None

    @classmethod
    def parse(cls, name: str, given: Mapping[str, Any]) -> "Entry":
        """An entry of a config.

        Raises:
            ConfigError: for an unknown key, or keys that do not go together.
        """
        known = [field.name for field in fields(cls) if field.name != "name"]
        require(
            isinstance(given, Mapping), f"entry {name!r} must be a mapping such as {{folder: {name}}}, got {given!r}"
        )
        for key in given:
            one_of(f"each key of entry {name!r}", key, known)
        lists = {key: tuple(value) for key, value in given.items() if isinstance(value, list | tuple)}
        if "class_names" in lists:  # in yaml, names may be numbers
            lists["class_names"] = tuple(str(value) for value in lists["class_names"])
        entry = cls(name, **{**given, **lists})
        one_of(f"the kind of entry {name!r}", entry.kind, KINDS)
        require(
            (entry.folder is None) != (entry.table is None),
            f"entry {name!r} must have either a folder of images or a table of them, got "
            f"folder={entry.folder!r} and table={entry.table!r}",
        )
        if entry.folder is not None:
            of_tables = [key for key in ("image", "label", "split", "group", "images", "separator") if key in given]
            require(not of_tables, f"entry {name!r} is a folder; {', '.join(of_tables)} are for tables")
            require(
                entry.kind in ("single_label", "ordinal"),
                f"entry {name!r}: a folder gives each image one class, so its kind cannot be {entry.kind!r}; "
                "use a table",
            )
        if isinstance(entry.label, tuple) and entry.kind not in ("multi_label", "regression"):
            raise ConfigError(f"entry {name!r} of kind {entry.kind} has one column of labels, got {list(entry.label)}")
        return entry
