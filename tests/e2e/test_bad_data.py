"""Images that are odd train; images that are broken stop a run with a message, or are left out and told."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mola_lightning.cli.train import main

Command = Callable[..., Any]
SETTINGS = (
    "data=image_folders",
    "~data.source.entries.camera",
    "+data.source.entries.web.folder=camera",
    "data.source.val_fraction=0.2",
    "data.source.test_fraction=0.2",
    "data.num_workers=0",
    "data.batch_size=8",
    "transform.size=16",
    "architecture=hps",
    "backbone.widths=[4,6]",
    "backbone.blocks=[1,1]",
    "trainer.max_epochs=1",
    "figures=false",
    "hydra.run.dir=run",
)


@pytest.fixture
def root(tmp_path: Path, load_script: Callable[[str], ModuleType]) -> Path:
    """Two domains of photographs, and in one class every mode that an image file can have."""
    folder = tmp_path / "photos ä"
    for name in ("phone", "camera"):
        load_script("own_files").write_folder(folder / name, ["bad", "good"], 10)
    load_script("image_files").write_modes(folder / "phone" / "good")
    return folder


def test_grey_palette_cmyk_and_16_bit_images_train(command: Command, root: Path) -> None:
    outcome = command(main, *SETTINGS, f"data.source.root='{root}'")
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize(("content", "reason"), [(0.5, "truncated"), (0, "empty")])
def test_a_broken_image_stops_a_run_or_is_left_out(command: Command, root: Path, content: float, reason: str) -> None:
    for broken in sorted((root / "camera" / "good").iterdir()):
        data = broken.read_bytes()
        broken.write_bytes(data[: int(len(data) * content)])
    outcome = command(main, *SETTINGS, f"data.source.root='{root}'")
    assert outcome.code == 1
    assert "Traceback" not in outcome.err
    assert f": {reason}" in outcome.err
    assert "on_bad_image=skip" in outcome.err
    skipped = command(main, *SETTINGS, f"data.source.root='{root}'", "data.source.on_bad_image=skip", "hydra.run.dir=b")
    assert skipped.code == 0, skipped.err
    assert f"({reason})" in skipped.err
    assert "images of the train split could not be read and were left out" in " ".join(skipped.err.split())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.source.root=nowhere", "there is no folder nowhere"),
        ("data.source.entries.phone.folder=pone", "there is no folder"),
        ("data.source.entries.phone.class_names=[good,worse]", "none of its classes: 'bad'; expected 'good', 'worse'"),
    ],
)
def test_missing_data_leave_nothing_behind(command: Command, root: Path, override: str, message: str) -> None:
    place = () if "root" in override else (f"data.source.root='{root}'",)
    outcome = command(main, *SETTINGS, *place, override)
    assert outcome.code == 1
    assert message in outcome.err
    assert "Traceback" not in outcome.err
    assert not Path("run").exists()
