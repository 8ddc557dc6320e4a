"""Every file-based benchmark in its true form, tiny: an epoch of HPS, MoLA-Grad and MoLA-Router as from the command
line, in the paper's settings where it has some.
"""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from mola_lightning.cli.train import train

pytestmark = pytest.mark.slow  # the file, not its single tests

METHODS = ("hps", "mola_grad", "mola_router")
SMALL = (
    "trainer.max_epochs=1",
    "callbacks.last=null",
    "callbacks.records.num_conflict_batches=0",
    "figures=false",
    "data.num_workers=0",
    "data.batch_size=11",
    "data.eval_batch_size=33",
    "num_threads=1",
)
SMALL_NET = ("backbone=small_resnet", "backbone.widths=[4,6]", "backbone.blocks=[1,1]")
TINY_ROUTER = ("router.widths=[4,6]", "router.blocks=1")


Script = Callable[[str], ModuleType]


def vlcs(root: Path, script: Script) -> None:
    files = script("domain_files")
    for domain in ("PASCAL", "LABELME", "CALTECH", "SUN"):
        files.write_list(root, f"{domain}_train.txt", files.numbered(domain, range(5), 4))
        files.write_list(root, f"{domain}_crossval.txt", files.numbered(f"{domain}/kept", range(5), 1))


def office_home(root: Path, script: Script) -> None:
    domains = ["Art", "Clipart", "Product", "Real World"]
    script("domain_files").write_folders(root, domains, ["Alarm_Clock", "TV", "Webcam"], 10)


def medmnist(root: Path, script: Script) -> None:
    script("medmnist_files").write_sets(root)


def radimagenet(root: Path, script: Script) -> None:
    files = script("domain_files")
    train = {f"{n}/{label}.png": label for label in range(0, 165, 2) for n in range(3)}
    files.write_list(root, "rad_train_shuffled.txt", train)
    files.write_list(root, "rad_test.txt", {f"kept/{label}.png": label for label in range(0, 165, 2)})


def nyuv2(root: Path, script: Script) -> None:
    script("nyuv2_files").write_nyuv2(root, train=12, test=3)


def pacs(root: Path, script: Script) -> None:
    domains = ["art_painting", "cartoon", "photo", "sketch"]
    script("domain_files").write_folders(root, domains, ["dog", "house", "person"], 10)


def domainnet(root: Path, script: Script) -> None:
    files = script("domain_files")
    for domain in ("clipart", "infograph", "painting", "quickdraw", "real", "sketch"):
        files.write_list(root, f"{domain}_train.txt", files.numbered(domain, (0, 200, 344), 4))
        files.write_list(root, f"{domain}_test.txt", files.numbered(f"{domain}/kept", (0, 200, 344), 1))


def image_folders(root: Path, script: Script) -> None:
    files = script("own_files")
    files.write_folder(root / "phone", ["bad", "good"], 10)
    rows = [{"file": f"shots/{n}.jpg", "kind": ("bad", "good")[n % 2]} for n in range(20)]
    files.write_table(root / "camera.csv", rows)


# benchmark -> the script that writes it; those with experiments of the paper first
PAPER: dict[str, Callable[[Path, Script], None]] = {
    "vlcs": vlcs, "office_home": office_home, "medmnist": medmnist, "radimagenet": radimagenet, "nyuv2": nyuv2,
}  # fmt: skip
OTHERS: dict[str, Callable[[Path, Script], None]] = {
    "pacs": pacs,
    "domainnet": domainnet,
    "image_folders": image_folders,
}
SIZES = {"nyuv2": ("data.source.size=[12,16]", "head.width=4", "data.batch_size=3")}


# made without files: -> a small part of them
MADE = {
    "glyphs": (
        "data.source.tasks=[orientation,texture]", "data.source.num_train=52", "data.source.image_size=12",
        "data.eval_batch_size=1000",
    ),
    "rooms": (
        "data.source.num_train=12", "data.source.num_val=4", "data.source.num_test=4", "data.source.image_size=16",
        "head.width=4",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory, load_script: Script) -> Callable[[str], Path]:
    """``roots("vlcs")``: the folder that holds ``vlcs``, written once."""
    folder = tmp_path_factory.mktemp("data")

    def root(name: str) -> Path:
        if name not in MADE and not (folder / name).exists():
            (PAPER | OTHERS)[name](folder / name, load_script)
        return folder

    return root


@pytest.fixture(scope="module", autouse=True)
def _hydra_cleared() -> Iterator[None]:
    yield
    GlobalHydra.instance().clear()


def run(folder: Path, data: Path, *overrides: str) -> dict[str, Any]:
    GlobalHydra.instance().clear()
    places = (f"paths.run={folder}", f"paths.data={data}", f"paths.cache={data / 'cache'}")
    with initialize_config_module("mola_lightning.conf", version_base="1.3"):
        cfg = compose("train", [*SMALL, *overrides, *places])
    assert math.isfinite(train(cfg, folder, sweep=True))
    return json.loads((folder / "summary.json").read_text())


def check(summary: dict[str, Any], folder: Path) -> None:
    """All metrics of all tasks are numbers, and the run says what it was trained on."""
    assert summary["status"] == "done"
    for split in ("val", "test"):
        for task in summary["tasks"]:
            assert all(math.isfinite(value) for value in summary[split][task].values()), (split, task)
    record = json.loads((folder / "data.json").read_text())
    assert set(record["sizes"]) == set(summary["tasks"])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", PAPER)
def test_experiments_of_the_paper(name: str, method: str, tmp_path: Path, roots: Callable[[str], Path]) -> None:
    size = SIZES.get(name, ("transform.size=16",))
    if name == "radimagenet":  # whose crop is told apart from its size
        size = (*size, "transform.eval.0.size=18", "transform.train.0.size=18")
    net = (*SMALL_NET, "backbone.pooled=false") if name == "nyuv2" else SMALL_NET
    router = TINY_ROUTER if method == "mola_router" else ()
    adapters = () if method == "hps" else ("adapter.target_modules=null", "adapter.rank_pattern=null")
    experiment = f"experiment=paper/{name}_{method}"
    summary = run(tmp_path, roots(name), experiment, *weights(name), *net, *size, *router, *adapters)
    check(summary, tmp_path)
    assert summary["method"] == method
    if name == "medmnist":
        assert set(summary["test"]["octmnist"]) >= {"accuracy", "auc"}


def weights(name: str) -> tuple[str, ...]:
    """The paper's pretrained weights lie on a server; the small network has none."""
    return () if name == "radimagenet" else ("~backbone.name", "~backbone.pretrained")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", OTHERS)
def test_other_benchmarks(name: str, method: str, tmp_path: Path, roots: Callable[[str], Path]) -> None:
    architecture = "mola" if method == "mola_router" else method
    router = TINY_ROUTER if method == "mola_router" else ()
    own = (f"data={name}", f"architecture={architecture}", "transform.size=16", "sampler=balanced")
    more = ("data.source.test_fraction=0.2",) if name == "image_folders" else ()
    summary = run(tmp_path, roots(name), *own, *SMALL_NET, *router, *more)
    check(summary, tmp_path)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MADE)
def test_benchmarks_without_files(name: str, method: str, tmp_path: Path, roots: Callable[[str], Path]) -> None:
    net = ("backbone.widths=[4,6]", "backbone.blocks=[1,1]")
    router = (*TINY_ROUTER, "router.input_size=null") if method == "mola_router" else ()
    summary = run(tmp_path, roots(name), f"experiment={name}/{method}", *MADE[name], *net, *router)
    assert summary["method"] == method
    for split in ("val", "test"):
        for task in summary["tasks"]:
            assert all(math.isfinite(value) for value in summary[split][task].values()), (split, task)
