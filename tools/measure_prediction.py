"""``python tools/measure_prediction.py``: images a second of mola-predict and of the evaluation loop, in turn."""

import argparse
import contextlib
import io
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy
from PIL import Image

from mola_lightning.cli.evaluate import evaluate
from mola_lightning.cli.predict import predict

TASKS, CLASSES = ("phone", "camera"), ("good", "scratched")
TRAINING = 64  # images of a class and task to train on: what is measured does not depend on what was learned
CONFIG = """
_target_: mola_lightning.data.MultiTaskDataModule
_convert_: all
source:
  _target_: mola_lightning.data.ImageFolders
  root: {root}
  entries:
    phone: {{folder: phone}}
    camera: {{folder: camera}}
  transforms: ${{transform}}
  val_fraction: 0.25
sampler: ${{sampler}}
batch_size: 32
eval_batch_size: 64
seed: ${{seed}}
"""


def write_images(root: Path, count: int, pixels: int) -> None:
    """JPEG files, of which ``count`` are the test split, evenly from tasks and classes."""
    numbers = numpy.random.default_rng(0)
    for split, each in (("train", TRAINING), ("test", count // (len(TASKS) * len(CLASSES)))):
        for folder in (root / task / split / name for task in TASKS for name in CLASSES):
            folder.mkdir(parents=True)
            for number in range(each):
                coarse = numbers.integers(0, 256, (8, 8, 3), dtype=numpy.uint8)
                Image.fromarray(coarse).resize((pixels, pixels)).save(folder / f"{number:05}.jpg")


def train(folder: Path, architecture: str) -> Path:
    """A run of one epoch on the images."""
    run = folder / architecture
    options = [f"data=parts architecture={architecture} backbone=resnet18 transform.size=64 trainer=cpu"]
    options += ["trainer.max_epochs=1 trainer.enable_progress_bar=false", f"hydra.run.dir={run}"]
    command = [sys.executable, "-m", "mola_lightning.cli.train", "--config-dir", str(folder / "conf")]
    subprocess.run([*command, *" ".join(options).split()], check=True, stdout=subprocess.DEVNULL)
    return run


def predict_anew(run: Path, images: str, folder: Path, **options: str) -> None:
    """A finished table is not made again, so it must go first."""
    shutil.rmtree(folder, ignore_errors=True)
    predict(run, images, folder / "out.csv", **options)


def seconds(work: Callable[[], Any]) -> float:
    """On the wall, with its output thrown away."""
    with contextlib.redirect_stdout(io.StringIO()):
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin


def main() -> int:
    """Measure, and print a row of a Markdown table for each method and way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--pixels", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "photos", arguments.images, arguments.pixels)
        (folder / "conf" / "data").mkdir(parents=True)
        (folder / "conf" / "data" / "parts.yaml").write_text(CONFIG.format(root=folder / "photos"))
        for architecture, ways in (("mola", ("router",)), ("mola_grad", ("mapper", "entropy"))):
            run, images = train(folder, architecture), str(folder / "photos" / "*" / "test" / "*" / "*.jpg")
            asked = partial(predict_anew, run, images, folder / "out")
            works = {"`task=phone`": partial(asked, task="phone")}
            works |= {f"`task=auto choose_by={way}`": partial(asked, task="auto", choose_by=way) for way in ways}
            for work in works.values():  # task classifiers are fitted once
                seconds(work)
            ratios: dict[str, list[float]] = {way: [] for way in works}
            for _ in range(arguments.rounds):
                loop = seconds(partial(evaluate, run))
                for way, work in works.items():
                    ratios[way].append(loop / seconds(work))
            for way, found in ratios.items():
                sys.stdout.write(
                    f"| `{architecture}` | {way} | {median(found):.2f} | {min(found):.2f}-{max(found):.2f} |\n"
                )
                sys.stdout.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
