"""PACS: seven classes as art, cartoons, photographs and sketches."""

from pathlib import Path
from typing import Any

from mola_lightning.data.domains import Domain, DomainSource
from mola_lightning.data.transforms import ImageTransforms


class PACS(DomainSource):
    """Seven classes in four styles (Li et al., ICCV 2017).

    From the official list files ``art_painting_train_kfold.txt`` and ``art_painting_crossval_kfold.txt``, whose labels
    count from 1, or from folders. ``crossval`` is the validation split. The test split is cut from the training images:
    the official ``test_kfold`` lists hold all images of a domain, those for training included, and are not read.

    Args:
        root: folder of the domains' folders, and of the lists.
        transforms: of all images.
        test_fraction: of the training images.
        options: see :class:`DomainSource` and :class:`ManifestSource`.
    """

    known = tuple(
        Domain(name, aliases, {"train": f"{name}_train_kfold.txt", "val": f"{name}_crossval_kfold.txt"})
        for name, aliases in {"art_painting": ("art",), "cartoon": (), "photo": (), "sketch": ()}.items()
    )
    class_names = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
    num_classes = len(class_names)
    first_label = 1
    expects = (
        "Get the PACS images (a folder for each of art_painting, cartoon, photo and sketch, with folders of the seven "
        "classes in it), and set root to the folder that holds the four; the official lists "
        "art_painting_train_kfold.txt, ... may lie beside them."
    )

    def __init__(
        self, root: str | Path, transforms: ImageTransforms, test_fraction: float | None = 0.1, **options: Any
    ) -> None:
        super().__init__(root, transforms, test_fraction=test_fraction, **options)
