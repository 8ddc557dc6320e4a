"""Exported networks read back, checksums first. No code from a file is run."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mola_lightning.backbones import Recipe
from mola_lightning.core import ConfigError, RunFolderError
from mola_lightning.core.errors import first_line, one_of
from mola_lightning.deployment.artefact import read_artefact
from mola_lightning.deployment.deployable import Normalized, Preprocessing, need
from mola_lightning.deployment.experts import read_tensors
from mola_lightning.deployment.program import load_program

Answer = Callable[[Tensor], Tensor]
Answers = Callable[[Tensor], dict[str, Tensor]]


def load(folder: Path | str, task: str) -> Answer:
    """The exported network of a task: images (B, C, H, W) in [0, 1] -> its outputs (B, ...).

    Weights and descriptions are plain values, and nothing of them is run; graphs are made of known operators, see
    :func:`load_program`.

    Args:
        folder: what ``mola-export`` wrote, in one of the formats torch, safetensors, torch_export, onnx.
        task: its name.

    Raises:
        RunFolderError: when a file is missing, truncated or altered.
        ConfigError: for an unknown task, or a format that is no network.
    """
    manifest = read_artefact(folder)
    one_of("task", task, manifest["tasks"])
    answers = load_file(Path(folder), manifest, task)
    return lambda images: answers(images)[task]


def load_file(folder: Path, manifest: dict[str, Any], task: str) -> Answers:
    """The file that serves a task: images -> {task: outputs} of all that it serves. The caller looked at checksums."""
    entry = manifest["tasks"][task]
    path, format = folder / entry["file"], manifest["format"]
    if format == "onnx":
        return _onnx(path)
    if format == "torch_export":
        listed = manifest.get("files", {}).get(entry["file"], {})
        return _without_gradient(load_program(path, listed.get("sha256")).module())
    if format not in ("torch", "safetensors"):
        raise ConfigError(
            f"{folder} holds the format {format}, which is no network by itself; use mola-compose for adapters, and "
            "load_model for model"
        )
    said, state = _torch(path) if format == "torch" else read_tensors(path)
    try:
        kwargs = dict(said["kwargs"])
        net = Recipe(said["model"], {k: v for k, v in kwargs.items() if k != "num_classes"}, said["edits"]).build(
            kwargs["num_classes"]
        )
        net.load_state_dict(state)
    except (KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise RunFolderError(f"{path} does not hold the network that it says ({error}); export again") from error
    whole = torch.nn.Sequential(Normalized(Preprocessing.of(entry["preprocessing"])), net).eval()
    return _without_gradient(lambda images: {task: whole(images)})


def _torch(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        return saved, saved["state_dict"]
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError, OSError) as error:
        raise RunFolderError(f"cannot read {path}: it is damaged, or not one of ours ({first_line(error)})") from error


def _without_gradient(net: Answers) -> Answers:
    def answer(images: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            return net(images)

    return answer


def _onnx(path: Path) -> Answers:
    runtime = need("onnxruntime", "an ONNX file")
    failures: tuple[type[Exception], ...] = (RuntimeError, ValueError, *_runtime_errors(runtime))
    try:
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except failures as error:
        raise RunFolderError(f"cannot read {path}: it is damaged, or not one of ours ({first_line(error)})") from error
    names = [output.name for output in session.get_outputs()]

    def answer(images: Tensor) -> dict[str, Tensor]:
        outputs = session.run(names, {"images": images.numpy()})
        return {name: torch.from_numpy(output) for name, output in zip(names, outputs, strict=True)}

    return answer


def _runtime_errors(runtime: Any) -> tuple[type[Exception], ...]:
    state = runtime.capi.onnxruntime_pybind11_state
    return tuple(getattr(state, name) for name in ("InvalidProtobuf", "InvalidGraph", "Fail", "NoSuchFile"))
