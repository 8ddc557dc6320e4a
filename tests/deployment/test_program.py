"""Graphs are read without a pickle, and without a line of code that somebody wrote into the file."""

import contextlib
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export.pt2_archive import PT2ArchiveWriter

from mola_lightning.core import ConfigError, RunFolderError
from mola_lightning.deployment import load_program
from mola_lightning.deployment.graphs import trace
from mola_lightning.deployment.program import program_content
from mola_lightning.deployment.program_graph import check_operator

SHAPE = (3, 8, 8)
Archive = dict[str, bytes]


class Small(nn.Module):
    """A graph with weights, a constant, sizes that follow the batch, and an operator in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 2, 3), nn.Linear(2, 4)
        self.register_buffer("order", torch.tensor([1, 0]))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.conv(images).relu_().mean(dim=(2, 3))[:, self.order]
        every = torch.arange(images.shape[0])
        return {"a": self.head(features)[every] + torch.tensor([0.5]), "b": features.repeat(2, 1)}


@pytest.fixture(scope="module")
def small() -> nn.Module:
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture(scope="module")
def archive(small: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """The entries of a file of ours, without those that its writer makes."""
    path = tmp_path_factory.mktemp("program") / "small.pt2"
    path.write_bytes(program_content(trace(small, torch.rand(2, *SHAPE), "small"), "small"))
    with zipfile.ZipFile(path) as file:
        entries = {name.partition("/")[2]: file.read(name) for name in file.namelist()}
    return {name: content for name, content in entries.items() if name != "byteorder" and not name.startswith(".data")}


def write(entries: Archive, path: Path) -> Path:
    buffer = io.BytesIO()
    with PT2ArchiveWriter(buffer) as writer:
        for name, content in entries.items():
            writer.write_bytes(name, content)
    path.write_bytes(buffer.getvalue())
    return path


def test_answers_for_any_number_of_images(small: nn.Module, archive: Archive, tmp_path: Path) -> None:
    program = load_program(write(archive, tmp_path / "small.pt2"))
    for rows in (1, 2, 5):
        images = torch.rand(rows, *SHAPE)
        torch.testing.assert_close(program.module()(images), small(images))
    with pytest.raises(RuntimeError, match="8"):
        program.module()(torch.rand(2, 3, 9, 9))


def test_nothing_is_pickled(archive: Archive) -> None:
    assert archive["data/sample_inputs/model.pt"] == b""
    assert not any(content.startswith((b"PK", b"\x80")) for content in archive.values())


def test_a_file_of_torch_itself_is_read_too(small: nn.Module, tmp_path: Path) -> None:
    """It holds its example, as tensors and plain values."""
    torch.export.save(trace(small, torch.rand(2, *SHAPE), "small"), tmp_path / "small.pt2")
    images = torch.rand(3, *SHAPE)
    torch.testing.assert_close(load_program(tmp_path / "small.pt2").module()(images), small(images))


class Bomb:
    """What a malicious pickle would hold."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("exploded",)


def bomb() -> bytes:
    buffer = io.BytesIO()
    torch.save(((torch.rand(2, *SHAPE), Bomb()), {}), buffer)
    return buffer.getvalue()


def graph(change: Callable[[dict[str, Any]], None]) -> Callable[[Archive], None]:
    """A change of the graph alone."""

    def on(entries: Archive) -> None:
        content = json.loads(entries["models/model.json"])
        change(content)
        entries["models/model.json"] = json.dumps(content).encode()

    return on


def nodes(program: dict[str, Any]) -> list[dict[str, Any]]:
    return program["graph_module"]["graph"]["nodes"]


def pickled_example(entries: Archive) -> None:
    entries["data/sample_inputs/model.pt"] = bomb()


def pickled_weight(entries: Archive) -> None:
    config = json.loads(entries["data/weights/model_weights_config.json"])
    tensor = config["config"]["head.weight"]
    tensor["use_pickle"] = True
    entries["data/weights/" + tensor["path_name"]] = bomb()
    entries["data/weights/model_weights_config.json"] = json.dumps(config).encode()


def another_entry(name: str, entries: Archive) -> None:
    entries[name] = bomb()


EVIL = "__import__('os').mkdir('exploded')"


@graph
def evaluated_size(program: dict[str, Any]) -> None:
    sizes = program["graph_module"]["graph"]["tensor_values"]["images"]["sizes"]
    sizes[0]["as_expr"]["expr_str"] = EVIL


@graph
def condition(program: dict[str, Any]) -> None:
    program["guards_code"] = [EVIL]


def function(target: str, program: dict[str, Any]) -> None:
    nodes(program)[-1]["target"] = target


@graph
def name_of_a_value(program: dict[str, Any]) -> None:
    """Which becomes a name in Python source."""
    nodes(program)[0]["name"] = f"x = {EVIL}"


@graph
def keyword_as_a_name(program: dict[str, Any]) -> None:
    nodes(program)[0]["name"] = "lambda"


@graph
def another_weight(program: dict[str, Any]) -> None:
    """Of which there is no tensor."""
    for spec in program["graph_module"]["signature"]["input_specs"]:
        if "parameter" in spec:
            spec["parameter"]["parameter_name"] = "absent"


@graph
def name_of_a_weight(program: dict[str, Any]) -> None:
    weight = next(
        spec["parameter"] for spec in program["graph_module"]["signature"]["input_specs"] if "parameter" in spec
    )
    weight["parameter_name"] = f'x", {EVIL}) #'


def tree(kind: str, context: Any, program: dict[str, Any]) -> None:
    signature = program["graph_module"]["module_call_graph"][0]["signature"]
    protocol, out = json.loads(signature["out_spec"])
    signature["out_spec"] = json.dumps([protocol, {**out, "type": kind, "context": json.dumps(context)}])


@graph
def subgraph(program: dict[str, Any]) -> None:
    nodes(program)[-1]["inputs"][0]["arg"] = {"as_graph": {"name": "x", "graph": {}}}


HOSTILE = {
    "a pickle of more than tensors": pickled_example,
    "the pickle of 'head.weight'": pickled_weight,
    "the entries data/aotinductor/model/x.so": partial(another_entry, "data/aotinductor/model/x.so"),
    "the entries data/weights/model.pt": partial(another_entry, "data/weights/model.pt"),
    "the entries data/constants/opaque_obj_0": partial(another_entry, "data/constants/opaque_obj_0"),
    "the entries models/other.json": partial(another_entry, "models/other.json"),
    "the entries serialized_example_inputs.pt": partial(another_entry, "serialized_example_inputs.pt"),
    "the size": evaluated_size,
    "Python conditions": condition,
    "the function 'torch.os.mkdir'": graph(partial(function, "torch.os.mkdir")),
    "the function 'torch.load'": graph(partial(function, "torch.load")),
    "the operator 'torch.ops.aten.from_file.default'": graph(partial(function, "torch.ops.aten.from_file.default")),
    "the operator 'torch.ops.aten.relu.__call__'": graph(partial(function, "torch.ops.aten.relu.__call__")),
    "the function 'torch.ops.mkldnn": graph(partial(function, "torch.ops.mkldnn._linear_pointwise.default")),
    'the name "x = ': name_of_a_value,
    "the name 'lambda'": keyword_as_a_name,
    "as parameter_name": name_of_a_weight,
    "the container 'collections.defaultdict'": graph(
        partial(tree, "collections.defaultdict", {"default_factory_module": "os", "default_factory_name": "abort"})
    ),
    "the container 'builtins.dict'": graph(
        partial(tree, "builtins.dict", {"__enum__": True, "fqn": "antigravity:x", "name": "x"})
    ),
    "'as_graph' in its graph": subgraph,
}


@pytest.mark.parametrize("message", HOSTILE)
def test_what_may_run_is_refused(
    message: str, archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    entries = dict(archive)
    HOSTILE[message](entries)
    with pytest.raises(RunFolderError, match="bad.pt2 is not loaded: it holds .*") as caught:
        load_program(write(entries, tmp_path / "bad.pt2"))
    assert message in str(caught.value)
    assert not Path("exploded").exists()


@pytest.mark.parametrize("change", [pickled_example, pickled_weight, evaluated_size])
def test_torch_alone_runs_it(
    change: Callable[[Archive], None], archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the test above would prove nothing."""
    monkeypatch.chdir(tmp_path)
    entries = dict(archive)
    change(entries)
    write(entries, tmp_path / "bad.pt2")
    with contextlib.suppress(Exception):  # whatever it says afterwards
        torch.export.load(tmp_path / "bad.pt2").module()(torch.rand(2, *SHAPE))
    assert Path("exploded").exists()


# Of timm's ResNet, ConvNeXt, ViT, Swin, CoaT, MobileNetV3, MobileViT, EfficientNet-lite and PoolFormer.
TRACED = (
    "adaptive_avg_pool2d.default add.Tensor add_.Tensor alias.default avg_pool2d.default batch_norm.default "
    "cat.default contiguous.default conv1d.default conv2d.default dropout.default expand.default "
    "flatten.using_ints gelu.default group_norm.default hardsigmoid.default hardswish_.default "
    "hardtanh_.default index.Tensor layer_norm.default linear.default matmul.default max_pool2d.default "
    "mean.dim mul.Tensor pad.default permute.default relu_.default reshape.default roll.default "
    "scaled_dot_product_attention.default select.int silu.default silu_.default slice.Tensor softmax.int "
    "split_with_sizes.default squeeze.dim stack.default sub.Tensor sym_size.int transpose.int unbind.int "
    "unsqueeze.default upsample_bilinear2d.vec view.default "
)


def test_operators_of_common_networks_are_known() -> None:
    for name in TRACED.split():
        check_operator(f"torch.ops.aten.{name}")
    check_operator("_operator.mul")


def test_a_graph_that_would_be_refused_is_not_written() -> None:
    class Rounds(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.special.bessel_j0(images)

    with pytest.raises(ConfigError, match=r"graph of rounds holds the operator .*bessel_j0.*use format=onnx"):
        program_content(trace(Rounds(), torch.rand(2, *SHAPE), "rounds"), "rounds")


def test_damaged_files(archive: Archive, tmp_path: Path) -> None:
    path = write(archive, tmp_path / "small.pt2")
    content = path.read_bytes()
    with pytest.raises(RunFolderError, match="was changed since it was exported"):
        load_program(path, "0" * 64)
    middle = len(content) // 3
    for damaged in (b"", b"nothing", content[:-100], content[:middle] + b"\x00\xff" * 8 + content[middle + 16 :]):
        path.write_bytes(damaged)
        with pytest.raises(RunFolderError, match="small.pt2: it is damaged, or not one of ours"):
            load_program(path)
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(RunFolderError, match="damaged"):
        load_program(path)
    entries = dict(archive)
    another_weight(entries)
    with pytest.raises(RunFolderError, match="damaged, or not one of ours"):
        load_program(write(entries, tmp_path / "other.pt2"))
    for name in set(archive) - {"archive_format", "archive_version"}:  # which the writer of the test adds
        path = write({other: content for other, content in archive.items() if other != name}, tmp_path / "less.pt2")
        with pytest.raises(RunFolderError, match=r"less\.pt2"):
            load_program(path)
    with pytest.raises(RunFolderError, match="cannot read"):
        load_program(tmp_path / "absent.pt2")
