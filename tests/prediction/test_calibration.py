"""Temperatures and calibration errors where the right answer is known."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mola_lightning.core import ModelOutput, Task, TaskRows
from mola_lightning.data import TensorSource
from mola_lightning.prediction.calibration import (
    BOUNDS,
    calibrate,
    calibration_error,
    fit_temperature,
    load_temperatures,
    save_calibration,
)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_a_wrong_scale(factor: float) -> None:
    right = 2 * torch.randn(20000, 4)
    targets = torch.multinomial(right.softmax(dim=1), 1)[:, 0]
    found = fit_temperature(factor * right, targets)
    assert found == pytest.approx(factor, rel=0.05)
    losses = [float(F.cross_entropy(factor * right / (found * step), targets)) for step in (0.98, 1.0, 1.02)]
    assert losses[1] == min(losses)


def test_the_bounds_of_a_temperature() -> None:
    targets = torch.arange(30) % 3
    certain = 5.0 * F.one_hot(targets, 3)
    assert fit_temperature(certain, targets) == pytest.approx(BOUNDS[0])
    assert fit_temperature(-certain, targets) == pytest.approx(BOUNDS[1])


def test_the_error_of_known_confidence() -> None:
    """Always 80 % sure, and right in 60 % of the rows: an error of 0.2."""
    logits = torch.tensor([0.8, 0.2]).log().repeat(100, 1)
    targets = torch.tensor([0] * 60 + [1] * 40)
    assert calibration_error(logits, targets) == pytest.approx(0.2, abs=1e-5)
    fitted = fit_temperature(logits, targets)
    assert calibration_error(logits, targets, fitted) == pytest.approx(0.0, abs=1e-3)


class Echo(torch.nn.Module):
    """Takes images for logits."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.tasks, self.nothing = (task,), torch.nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor, rows: TaskRows) -> ModelOutput:
        return ModelOutput({"dark": images.flatten(1)}, rows)


def test_nothing_is_fitted_on_the_test_split() -> None:
    """Logits are twice as large as they should be in validation, and three times in the test."""

    def part(count: int, factor: float) -> dict[str, tuple[Tensor, Tensor]]:
        right = torch.randn(count, 4)
        targets = torch.multinomial(right.softmax(dim=1), 1)[:, 0]
        return {"dark": (factor * right.reshape(count, 4, 1, 1), targets)}

    source = TensorSource({"train": part(4, 1), "val": part(2000, 2), "test": part(2000, 3)}, 4)
    module = Echo(source.tasks[0])
    found = calibrate(module, source.dataset("val"), source.dataset("test"))["dark"]
    assert found["temperature"] == pytest.approx(2, rel=0.1)
    assert found["ece_after"] < found["ece_before"]
    assert found["nll_after"] < found["nll_before"]
    itself = calibrate(module, source.dataset("test"), source.dataset("test"))["dark"]
    assert itself["temperature"] == pytest.approx(3, rel=0.1)
    assert itself["ece_after"] < 0.05


def test_temperatures_belong_to_their_checkpoint_and_data(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = tmp_path / "best.ckpt"
    checkpoint.write_bytes(b"weights")
    assert load_temperatures(tmp_path, checkpoint, "data", ()) == {}
    path = save_calibration(tmp_path, checkpoint, "data", ["data.source.root=there"], {"dark": {"temperature": 1.5}})
    assert load_temperatures(tmp_path, checkpoint, "data", ()) == {"dark": 1.5}
    assert not caplog.messages
    assert load_temperatures(tmp_path, checkpoint, "other", ["data.source.root=here"]) == {"dark": 1.5}
    assert all(f"root={where}'" in caplog.text for where in ("there", "here"))
    caplog.clear()
    checkpoint.write_bytes(b"other weights")
    assert load_temperatures(tmp_path, checkpoint, "data", ()) == {}
    assert f"{path} is of another checkpoint" in caplog.text
