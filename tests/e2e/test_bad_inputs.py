"""What cannot work is refused with a message that says what to do, and leaves nothing behind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mola_lightning.cli import build
from mola_lightning.cli.train import main
from mola_lightning.data import Digits, MultiTaskDataModule, TensorSource

Command = Callable[..., Any]
SMALL = ("data.source.num_train=24", "data.source.image_size=14", "debug=quick")

REFUSED = [
    (["nonsense=1"], ["error: this config has no key 'nonsense'. mola-train --cfg job", "nonsense=1"]),
    (["adapter.rnak=2"], ["error: this config has no key 'adapter.rnak'. Did you mean adapter.rank"]),
    (["callbacks.last={a:1}"], ["no key 'callbacks.last.a', and a mapping"]),
    (["rank=2"], ["no key 'rank'. Did you mean adapter.rank?"]),
    (["optimzer.lr=1"], ["Did you mean optimizer.lr"]),
    (["experimnt=digits/hps"], ["no key 'experimnt'. Did you mean experiment?"]),
    (["experiment=digits/mola_ruter"], ["Did you mean experiment=digits/mola_router"]),
    (["experiment=nothing"], ["There are: digits/", "digits/base, digits/cgc, "]),
    (["hydra.swep.dir=here"], ["no key 'hydra.swep.dir'. Did you mean hydra."]),
    (["architecture=mula"], ["mula", "mola_grad", "single_task"]),
    (["experiment=digits/mula"], ["experiment/digits/mula"]),
    (["adapter.rank=0"], ["rank must be", ">= 1", "got 0 (config key: adapter.rank)"]),
    (["adapter.rank=two"], ["rank must be", "'two'"]),
    (["adapter.target_modules=[nothing]"], ["nothing", "layer1"]),
    (["adapter.plan=fast"], ["plan", "'fast'", "'auto'"]),
    (["architecture.num_experts=0"], ["num_experts", "got 0"]),
    (["architecture=mola_grad", "architecture.num_experts=3"], ["3", "4"]),
    (["architecture=hps", "auxiliary=twd"], ["HPS", "auxiliary=none"]),
    (["architecture=mola_grad", "auxiliary=twd"], ["mola_grad", "auxiliary=none"]),
    (["auxiliary.twd.weight=-1"], ["weight", "-1"]),
    (["data.source.num_train={mnist:100000}"], ["num_train of mnist", "100000", "at most"]),
    (["data.source.domains=[mnist,letters]"], ["'letters'", "'photo'"]),
    (["data.batch_size=0"], ["batch_size", "got 0"]),
    (["data.num_workers=-1"], ["num_workers", "got -1"]),
    (["backbone.widths=[3,8,8]"], ["widths must be even", "(3, 8, 8)"]),
    (["parameter_groups={nothing:{lr:1}}"], ["parameter_groups", "'nothing'"]),
    (["data.batch_size=1000"], ["batch_size is 1000", "96 rows"]),
    (
        [
            "data=rooms",
            "head=light",
            "architecture=hps",
            "sampler=balanced",
            "data.batch_size=8",
            "data.source.num_val=2",
            "data.source.num_test=2",
        ],
        [
            "BalancedSampler chooses rows by their task, but here a row carries targets of several",
            "sampler=proportional",
        ],
    ),
]


def check_refusal(outcome: Any, working: Path, named: list[str]) -> None:
    text = outcome.out + outcome.err
    assert outcome.code != 0
    assert "Traceback" not in text
    for part in named:
        assert part in text, text
    assert list(working.iterdir()) == [], "something was left behind"


@pytest.mark.parametrize(("overrides", "named"), REFUSED, ids=[" ".join(overrides) for overrides, _ in REFUSED])
def test_it_is_refused(overrides: list[str], named: list[str], command: Command, tmp_path: Path) -> None:
    check_refusal(command(main, *SMALL, *overrides), tmp_path / "working", named)


def test_a_folder_that_cannot_be_written(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    outcome = command(main, *SMALL, f"paths.runs={tmp_path / 'file' / 'runs'}")
    check_refusal(outcome, tmp_path / "working", [str(tmp_path / "file" / "runs"), "paths.runs="])
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("override", ["adapter.rank=0", "parameter_groups={nothing:{lr:1}}"])
def test_what_lay_in_the_run_folder_stays(override: str, command: Command, tmp_path: Path) -> None:
    """A run in the working directory itself must not clean up what is not its own."""
    kept = tmp_path / "working" / "thesis" / "chapter.txt"
    kept.parent.mkdir()
    kept.write_text("years of work")
    assert command(main, *SMALL, "hydra.run.dir=.", override).code == 1
    assert kept.read_text() == "years of work"


def test_a_damaged_cache(command: Command, tmp_path: Path) -> None:
    source = Digits(num_train=24, root=tmp_path / "cache")
    damaged = source.cache_file("optdigits")
    damaged.parent.mkdir()
    damaged.write_bytes(b"not an archive")
    overrides = [
        "data.batch_size=24",
        "data.source.domains=[optdigits,mnist]",
        "data.source.rotations=0",
        f"paths.cache={tmp_path / 'cache'}",
    ]
    outcome = command(main, *SMALL, *overrides)
    check_refusal(outcome, tmp_path / "working", [damaged.name, "damaged", "Delete the file"])
    damaged.unlink()
    assert command(main, *SMALL, *overrides, "test=false").code == 0


class Mislabelled(TensorSource):
    """A user's data with labels from 1 to 3 instead of 0 to 2."""

    def __init__(self) -> None:
        parts = {name: (torch.rand(8, 3, 14, 14), torch.arange(8) % 3 + 1) for name in ("a", "b")}
        super().__init__({"train": parts, "val": parts, "test": parts}, num_classes=3)


def test_a_label_out_of_range(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mislabelled(*_: Any) -> MultiTaskDataModule:
        data = MultiTaskDataModule(Mislabelled(), batch_size=4)
        data.setup("fit")
        return data

    monkeypatch.setattr(build, "build_data", mislabelled)
    named = ["task 'a'", "0..2", "found 3", "train split"]
    check_refusal(command(main, *SMALL), tmp_path / "working", named)
