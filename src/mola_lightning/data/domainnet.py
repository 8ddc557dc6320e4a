"""DomainNet: 345 classes in six styles."""

from pathlib import Path
from typing import Any

from mola_lightning.core.errors import positive_int
from mola_lightning.data.domains import Domain, DomainSource
from mola_lightning.data.transforms import ImageTransforms


class DomainNet(DomainSource):
    """345 classes as clip art, infographics, paintings, drawings, photographs and sketches (Peng et al., ICCV 2019).

    From the official list files ``clipart_train.txt``, ``clipart_test.txt`` and so on, or from folders. Validation
    images are cut from the training split.

    Args:
        root: folder of the domains' folders, and of the lists.
        transforms: of all images.
        num_classes: for a part of the classes.
        options: see :class:`DomainSource` and :class:`ManifestSource`. Folders without lists have no test split unless
            ``test_fraction`` is given.
    """

    known = tuple(
        Domain(name, (), {"train": f"{name}_train.txt", "test": f"{name}_test.txt"})
        for name in ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")
    )
    expects = (
        "Get the archives of the domains (clipart.zip, ...) and their lists (clipart_train.txt, clipart_test.txt, ...) "
        "from the data set's home page (ai.bu.edu, M3SDA), unpack all into one folder, and set root to it."
    )

    def __init__(self, root: str | Path, transforms: ImageTransforms, num_classes: int = 345, **options: Any) -> None:
        positive_int("num_classes", num_classes)
        self.num_classes = num_classes
        super().__init__(root, transforms, **options)
