"""Office-Home: objects of 65 classes in four styles."""

from pathlib import Path
from typing import Any

from mola_lightning.data.domains import Domain, DomainSource
from mola_lightning.data.transforms import ImageTransforms

_CLASSES = """
Alarm_Clock Backpack Batteries Bed Bike Bottle Bucket Calculator Calendar Candles Chair Clipboards Computer Couch
Curtains Desk_Lamp Drill Eraser Exit_Sign Fan File_Cabinet Flipflops Flowers Folder Fork Glasses Hammer Helmet Kettle
Keyboard Knives Lamp_Shade Laptop Marker Monitor Mop Mouse Mug Notebook Oven Pan Paper_Clip Pen Pencil Postit_Notes
Printer Push_Pin Radio Refrigerator Ruler Scissors Screwdriver Shelf Sink Sneakers Soda Speaker Spoon TV Table Telephone
ToothBrush Toys Trash_Can Webcam
"""


class OfficeHome(DomainSource):
    """65 classes of objects as product pictures, art, clip art and photographs (Venkateswara et al., CVPR 2017).

    From the list files ``Product_img_label_list.txt`` and so on, whose paths are absolute or relative to ``root``, or
    from the official folders. Neither publishes splits: test and validation images are cut, the same fraction of each
    class of each domain. The released code takes every tenth image of all, shuffled, whatever its class and domain, and
    selects models on it. Class names of list files are those of the official folders if their labels follow the
    alphabet.

    Args:
        root: folder of the lists, or of the domains' folders.
        transforms: of all images.
        test_fraction: of all images; the paper's is 0.1.
        options: see :class:`DomainSource` and :class:`ManifestSource`.
    """

    known = (
        Domain("product", (), {"train": "Product_img_label_list.txt"}),
        Domain("art", (), {"train": "Art_img_label_list.txt"}),
        Domain("clipart", (), {"train": "Clipart_img_label_list.txt"}),
        Domain("real_world", ("RealWorld",), {"train": "Real_World_img_label_list.txt"}),
    )
    class_names = tuple(_CLASSES.split())
    num_classes = len(class_names)
    expects = (
        "Get OfficeHomeDataset_10072016.zip from the data set's home page (hemanthdv.org, Office-Home), unpack it, and "
        "set root to the folder that holds Art, Clipart, Product and 'Real World', or the lists "
        "Art_img_label_list.txt, ... of the MoLA paper's code."
    )

    def __init__(
        self, root: str | Path, transforms: ImageTransforms, test_fraction: float | None = 0.1, **options: Any
    ) -> None:
        super().__init__(root, transforms, test_fraction=test_fraction, **options)
