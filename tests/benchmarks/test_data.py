"""The benchmark of loaders: what it compares sees the same images, and its numbers are what they say."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from mola_lightning.benchmarks import data as bench
from mola_lightning.cli.bench_data import main
from mola_lightning.data import MultiTaskDataModule


@pytest.fixture
def images(tmp_path: Path) -> Path:
    bench.write_images(tmp_path, 8, 48, 40)
    return tmp_path


def test_files_are_jpegs_of_all_domains(images: Path) -> None:
    files = sorted(images.rglob("*.jpg"))
    assert len(files) == 8
    assert {path.parent.name for path in files} == set(bench.DOMAINS)
    with Image.open(files[0]) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (48, 40))


@pytest.mark.parametrize("cached", [False, True])
def test_all_loaders_give_the_same_kind_of_images(images: Path, cached: bool) -> None:
    (theirs, _), *_ = bench.bare_loader(images, 8, 0)
    ours = next(iter(MultiTaskDataModule(bench.Folders(images, cached), batch_size=8).train_dataloader())).images
    assert ours.shape == theirs.shape == (8, 3, bench.CROP, bench.CROP)
    assert ours.dtype == theirs.dtype == torch.float32
    torch.testing.assert_close(ours.mean(), theirs.mean(), atol=0.3, rtol=0)


def test_ratios_are_taken_within_rounds() -> None:
    speeds = {bench.BARE: [10.0, 100.0, 50.0], bench.OURS: [20.0, 100.0, 150.0]}
    assert bench.Throughput(1, 1, 0, speeds).ratios(bench.OURS) == (2.0, 1.0, 3.0)


def test_prints_a_table_and_writes_all_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mola_lightning.cli.bench_data.SIZES", ((48, 40),))
    path, threads = tmp_path / "data.json", torch.get_num_threads()
    options = ["--images", "8", "--batch-size", "4", "--rounds", "2", "--workers", "0", "--json", str(path)]
    assert main(options) == 0
    assert torch.get_num_threads() == threads
    shown, errors = capsys.readouterr()
    assert "48 x 40" in shown
    assert errors == ""
    (case,) = json.loads(path.read_text())["cases"]
    assert (case["width"], case["height"], case["workers"]) == (48, 40, 0)
    assert set(case["loaders"]) == {bench.BARE, bench.OURS, bench.CACHED}
    for values in case["loaders"].values():
        assert len(values["images_per_second"]) == 2
        assert min(values["images_per_second"]) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--images", "0"], "images must be an integer >= 1"),
        (["--images", "3"], "--images must be at least as many as a batch has, 32"),
        (["--workers", "-1"], "workers must be >= 0"),
        (["--workers", "0", "2", "--clock", "cpu"], "processor time is that of the work only without workers"),
        (["--threads", "0"], "threads must be an integer >= 1"),
    ],
)
def test_wrong_settings_are_said(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(options) == 1
    assert message in capsys.readouterr().err
