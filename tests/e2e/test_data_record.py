"""What a run remembers of its data."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mola_lightning.data import Digits

QUICK = ("architecture=hps", "test=false", "figures=false", "trainer.max_epochs=1")


def test_a_run_keeps_what_its_source_says(
    tmp_path: Path, train_small: Callable[..., float], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = {"splits": {"train": {"mnist": 24}}, "cut": {"val": {"fraction": 0.1, "seed": 3}}, "digests": {"val": "é"}}
    train_small(tmp_path / "silent", *QUICK)
    assert not (tmp_path / "silent" / "data.json").exists()
    monkeypatch.setattr(Digits, "record", lambda self: record)
    train_small(tmp_path / "run", *QUICK)
    assert json.loads((tmp_path / "run" / "data.json").read_text()) == record
