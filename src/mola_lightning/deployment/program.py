"""Graphs of ``torch.export`` in files: written without a pickle, and read without running anything of the file."""

import io
import json
import pickle
import re
import sys
import zipfile
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch._export.verifier import SpecViolationError
from torch.export.pt2_archive import PT2ArchiveWriter
from torch.export.pt2_archive.constants import ARCHIVE_FORMAT_VALUE, ARCHIVE_VERSION_VALUE

from mola_lightning.core import ConfigError, RunFolderError
from mola_lightning.core.errors import first_line
from mola_lightning.deployment.program_graph import Refused, check_values, checked_graph

GRAPH, EXAMPLES = "models/model.json", "data/sample_inputs/model.pt"
TENSORS = {"data/weights/": "model_weights_config.json", "data/constants/": "model_constants_config.json"}
MARKS = {"archive_format": ARCHIVE_FORMAT_VALUE.encode(), "archive_version": ARCHIVE_VERSION_VALUE.encode()}
# What is of the zip file, and not of the program.
CONTAINER = (".data/version", ".data/serialization_id", "version", "byteorder")
TENSOR = re.compile(r"(data/weights/weight|data/constants/tensor)_\d+")
FAILURES = (
    zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, ValueError, LookupError, TypeError, AttributeError,
    AssertionError, NotImplementedError, EOFError, OSError, RecursionError, SpecViolationError,
)  # fmt: skip


def program_content(program: torch.export.ExportedProgram, what: str) -> bytes:
    """A graph as a file for :func:`load_program` and ``torch.export.load``.

    The example that it was traced with is left out: it is the one thing that torch would pickle.

    Args:
        program: the graph.
        what: its name, for the error.

    Raises:
        ConfigError: for a graph that :func:`load_program` would refuse.
    """
    program.example_inputs = None
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    try:
        _checked(_entries(buffer.getvalue()))
    except Refused as error:
        raise ConfigError(
            f"the graph of {what} holds {error}, which is not on the list of what load_program takes; use format=onnx"
        ) from error
    return buffer.getvalue()


def load_program(path: Path | str, checksum: str | None = None) -> torch.export.ExportedProgram:
    """Read what :func:`program_content` gave, without running code from the file.

    ``torch.export.load`` unpickles examples, tensors of unusual types and constants, loads compiled libraries and
    evaluates parts of the graph. Here the file is read once. What it may hold is a fixed list: tensors as bytes, their
    descriptions and a graph; and each string of these is checked, see :mod:`mola_lightning.deployment.program_graph`.
    Torch is then given a new archive, in memory, of the checked parts alone; it holds no pickle.

    Args:
        path: a ``.pt2`` file.
        checksum: SHA-256 that the file must have, in hex digits; of any when None.

    Returns:
        The program; its ``module()`` maps images in [0, 1] to outputs by name of the task.

    Raises:
        RunFolderError: when it is missing, damaged, another file than that of the checksum, or holds anything else.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunFolderError(f"cannot read {path}: {error.strerror}; give a file of format=torch_export") from error
    if checksum is not None and sha256(content).hexdigest() != checksum:
        raise RunFolderError(f"{path} was changed since it was exported; copy it again, or export again")
    try:
        return torch.export.load(_archive(_checked(_entries(content))))
    except Refused as error:
        raise RunFolderError(
            f"{path} is not loaded: it holds {error}. Such a file may run code of its own, and mola-export on this "
            "machine, with this torch, writes none like it; export again here, or take format=onnx"
        ) from error
    except FAILURES as error:
        raise RunFolderError(f"cannot read {path}: it is damaged, or not one of ours ({first_line(error)})") from error


def _entries(content: bytes) -> dict[str, bytes]:
    """Name below the archive's one folder -> bytes, whose checksums (of the zip format) are right."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        infos = archive.infolist()
        if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
            raise Refused("compressed entries")
        names = [info.filename.partition("/")[2] for info in infos]
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice or len({info.filename.partition("/")[0] for info in infos}) > 1:
            raise Refused(f"entries twice, or in several folders ({', '.join(twice)})")
        return {name: archive.read(info) for name, info in zip(names, infos, strict=True)}


def _checked(entries: dict[str, bytes]) -> dict[str, bytes]:
    """The entries that torch is given."""
    known = {GRAPH, EXAMPLES, *MARKS, *CONTAINER, *(folder + file for folder, file in TENSORS.items())}
    odd = sorted(name for name in entries if name not in known and not TENSOR.fullmatch(name))
    if odd:
        raise Refused(f"the entries {', '.join(odd[:5])}")
    if any(entries[name] != mark for name, mark in MARKS.items()):
        raise Refused(f"an archive of another version of torch's format than {ARCHIVE_VERSION_VALUE}")
    if entries["byteorder"] != sys.byteorder.encode():
        raise Refused(
            f"{entries['byteorder'].decode()[:10]}-endian tensors, and this machine is {sys.byteorder}-endian"
        )
    _check_examples(entries[EXAMPLES])
    found = {name: entries[name] for name in entries if name in MARKS or TENSOR.fullmatch(name)}
    for folder, file in TENSORS.items():
        found[folder + file] = _checked_tensors(json.loads(entries[folder + file]), folder, found)
    return found | {GRAPH: checked_graph(entries[GRAPH]), EXAMPLES: b""}


def _check_examples(content: bytes) -> None:
    """Refuse a pickle that may run code. Torch is given none, but whoever hid one there is not to be trusted."""
    if not content:
        return
    try:
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except FAILURES as error:
        raise Refused(f"a pickle of more than tensors and plain values ({first_line(error)})") from error


def _checked_tensors(config: dict[str, Any], folder: str, entries: dict[str, bytes]) -> bytes:
    """The description of tensors, each of which lies in the archive as bytes."""
    check_values(config)
    for name, tensor in config["config"].items():
        if tensor["use_pickle"] is not False or tensor["tensor_meta"] is None:
            raise Refused(f"the pickle of {name!r}")
        if folder + tensor["path_name"] not in entries:
            raise Refused(f"a description of {name!r}, which is not there")
    return json.dumps({"config": config["config"]}).encode()


def _archive(entries: dict[str, bytes]) -> io.BytesIO:
    buffer = io.BytesIO()
    with PT2ArchiveWriter(buffer) as writer:
        for name, content in entries.items():
            writer.write_bytes(name, content)
    buffer.seek(0)
    return buffer
