"""VLCS: photographs of five classes from four collections."""

from mola_lightning.data.domains import Domain, DomainSource


class VLCS(DomainSource):
    """Five classes in the collections PASCAL VOC2007, LabelMe, Caltech-101 and SUN09 (Fang et al., ICCV 2013).

    From the list files ``PASCAL_train.txt``, ``PASCAL_crossval.txt`` and so on, or from folders, of which archives
    circulate with and without splits, and with the classes' names or numbers. The paper reports on the images of the
    ``crossval`` lists, so these are the test split, and validation images are cut from the training lists: the released
    code selects models on the split that it reports. Of split folders, ``crossval`` is the validation split.

    The arguments are those of :class:`DomainSource`.
    """

    known = tuple(
        Domain(name, aliases, {"train": f"{name.upper()}_train.txt", "test": f"{name.upper()}_crossval.txt"})
        for name, aliases in {
            "pascal": ("VOC2007", "VOC"),
            "labelme": (),
            "caltech": ("Caltech101",),
            "sun": ("SUN09",),
        }.items()
    )
    class_names = ("bird", "car", "chair", "dog", "person")
    num_classes = len(class_names)
    class_aliases = {str(label): name for label, name in enumerate(class_names)}  # noqa: RUF012
    expects = (
        "VLCS circulates as an archive with a folder for each domain (PASCAL or VOC2007, LABELME, CALTECH or "
        "Caltech101, SUN or SUN09), in it folders of the classes bird, car, chair, dog and person, or of the splits "
        "train, crossval and test with these in them. Unpack it, and set root to the folder that holds the domains, or "
        "the lists PASCAL_train.txt, PASCAL_crossval.txt, ... of the MoLA paper's code beside the images."
    )
