"""``python tools/measure_exports.py > rows.md``: the rows of the table of docs/export.md, measured on this machine."""

import gc
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mola_lightning.backbones import create_small_resnet
from mola_lightning.core import Task
from mola_lightning.deployment import Deployable, Preprocessing, compose, export, load, load_model
from mola_lightning.training import MoLAGrad, MoLARouter

LOADS = 5
TASKS = tuple(Task(name, 10) for name in ("mnist", "optdigits", "printed", "photo"))
GRAD = ("torch", "safetensors", "torch_export", "onnx", "adapters", "model")
CASES: tuple[tuple[str, Any, Any, tuple[int, int, int], tuple[str, ...]], ...] = (
    ("MoLA-Grad, `small_resnet`, 28 px", MoLAGrad, create_small_resnet, (1, 28, 28), GRAD),
    ("MoLA-Router, `small_resnet`, 28 px", MoLARouter, create_small_resnet, (1, 28, 28), GRAD[2:4] + GRAD[5:]),
    ("MoLA-Grad, `resnet18`, 64 px", MoLAGrad, "resnet18", (3, 64, 64), GRAD),
    ("MoLA-Router, `resnet18`, 64 px", MoLARouter, "resnet18", (3, 64, 64), GRAD[2:4]),
    ("MoLA-Grad, `convnext_atto`, 64 px", MoLAGrad, "convnext_atto", (3, 64, 64), GRAD[:4]),
    ("MoLA-Grad, `vit_tiny`, 64 px", MoLAGrad, "vit_tiny_patch16_224", (3, 64, 64), GRAD[:4]),
)


def seconds(work: Callable[[], Any]) -> float:
    """Processor time of a call, which a busy machine does not stretch as it does the clock on the wall."""
    gc.collect()
    begin = time.process_time()
    work()
    return time.process_time() - begin


def size(number: int) -> str:
    """Bytes in words."""
    return f"{number / 2**20:.1f} MiB" if number >= 2**20 else f"{number / 2**10:.0f} KiB"


def row(model: Deployable, format: str, folder: Path) -> str:
    """The cells of a format: size, seconds of the export, milliseconds of the fastest load."""
    # Weights are a file a task, of which one is measured; graphs of a router, experts and models are of all tasks.
    task = TASKS[0].name if model.expert_of(TASKS[0].name) is not None and format not in ("adapters", "model") else None
    exporting = seconds(partial(export, model, folder, format, task))
    files = {path.name: path.stat().st_size for path in folder.iterdir()}
    if format == "adapters":
        base, experts = folder / "base.safetensors", [folder / f"{each.name}.safetensors" for each in TASKS]
        work: Callable[[], Any] = partial(compose, base, experts)
        said = f"{size(files[base.name])} and {size(files[experts[0].name])} a task"
    elif format == "model":
        work, said = partial(load_model, folder), size(files["model.safetensors"])
    else:
        work = partial(load, folder, TASKS[0].name)
        said = size(sum(files.values()) - files["manifest.json"] - files["README.md"])
    loading = min(seconds(work) for _ in range(LOADS))
    return f"`{format}` | {said} | {exporting:.1f} | {1000 * loading:.0f}"


def rows() -> Iterator[str]:
    """Lines of the table, as they are measured."""
    for name, method, backbone, shape, formats in CASES:
        torch.manual_seed(0)
        module = method(TASKS, backbone, shape, rank=4, alpha=4)
        model = Deployable(module, shape, {task.name: Preprocessing((0.5,), (0.5,)) for task in TASKS})
        for number, format in enumerate(formats):
            with tempfile.TemporaryDirectory() as folder:
                yield f"| {'' if number else name} | {row(model, format, Path(folder))} |\n"


def main() -> int:
    """Measure with one thread."""
    torch.set_num_threads(1)
    for line in rows():
        sys.stdout.write(line)
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
