"""A table of a million images, or a quarter of that: what it costs before the first batch."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

MILLION = 1_000_000
ONE = {"a": {"table": "large.csv"}}
TWO = {**ONE, "b": {"table": "large.csv", "label": "age", "kind": "regression"}}
CODE = """
import json, resource, sys, time
import torch

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MB

before = peak()
from mola_lightning.data import ImageFolders, ImageTransforms, MultiTaskDataModule

started = time.process_time()
source = ImageFolders(sys.argv[1], json.loads(sys.argv[2]), ImageTransforms(16))
data = MultiTaskDataModule(source, batch_size=32)
data.setup("fit")
batch = next(iter(data.train_dataloader()))
seconds = time.process_time() - started
print(json.dumps({"rows": len(source.dataset("train")), "batch": len(batch), "mb": peak() - before, "s": seconds}))
"""


@pytest.fixture(scope="session")
def files(load_script: Callable[[str], ModuleType]) -> ModuleType:
    """The script that writes photographs."""
    return load_script("own_files")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit elsewhere")
@pytest.mark.parametrize(
    ("rows", "entries"),
    [
        pytest.param(MILLION // 4, TWO, id="a quarter, two entries of one table"),
        pytest.param(MILLION, ONE, id="one entry", marks=pytest.mark.soak),
        pytest.param(MILLION, TWO, id="two entries of one table", marks=pytest.mark.soak),
    ],
)
def test_a_million_rows(rows: int, entries: dict[str, dict[str, str]], tmp_path: Path, files: ModuleType) -> None:
    """Below 500 MB over an interpreter with torch, our own imports included, and 10 s of processor time; of fewer rows
    in proportion, but for what any number takes.
    """
    photo = files.write_photo(tmp_path / "photographs" / "0000.jpg")
    for n in range(1, 1000):
        os.link(photo, photo.with_name(f"{n:04d}.jpg"))
        (tmp_path / f"day {n:04d}").symlink_to("photographs")
    (tmp_path / "day 0000").symlink_to("photographs")
    with open(tmp_path / "large.csv", "w") as table:
        table.write("image,label,age\n")
        table.writelines(f"day {n % 1000:04d}/{n // 1000:04d}.jpg,class {n % 7},{n % 90}\n" for n in range(rows))
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path), json.dumps(entries)],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["rows"], found["batch"]) == (0.9 * rows, 32)
    assert found["mb"] < 100 + 400 * rows / MILLION
    assert found["s"] < 1 + 9 * rows / MILLION
