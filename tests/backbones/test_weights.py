"""Weights from a local file fit entirely, or are refused with a report."""

from pathlib import Path

import pytest
import timm
import torch

from mola_lightning.backbones import create_backbone, create_small_resnet
from mola_lightning.core import ConfigError


class Trap:
    """Pickles to a call: what ``weights_only`` is there to refuse."""

    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("sprung"),))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.pth"


@pytest.mark.parametrize("key", [None, "state_dict", "model"])
def test_round_trip(path: Path, key: str | None) -> None:
    state = create_small_resnet().state_dict()
    torch.save(state if key is None else {key: state}, path)
    found = create_small_resnet(checkpoint_path=str(path)).state_dict()
    assert all(torch.equal(found[name], value) for name, value in state.items())


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050"])
def test_the_classifier_of_a_file_is_left_out(path: Path, name: str) -> None:
    whole = timm.create_model(name, num_classes=10)
    torch.save(whole.state_dict(), path)
    net = create_backbone(name, checkpoint_path=str(path))
    assert all(torch.equal(value, whole.state_dict()[key]) for key, value in net.state_dict().items())


def test_everything_that_does_not_fit_is_named(path: Path) -> None:
    state = create_small_resnet().state_dict()
    del state["bn1.bias"]
    state["extra.weight"] = torch.zeros(1)
    torch.save(state, path)
    with pytest.raises(ConfigError) as caught:
        create_small_resnet(in_channels=1, checkpoint_path=str(path))
    for part in (
        "1 missing: bn1.bias",
        "1 unexpected: extra.weight",
        "conv1.weight (8, 3, 3, 3) instead of (8, 1, 3, 3)",
    ):
        assert part in str(caught.value)


def test_no_file(path: Path) -> None:
    with pytest.raises(ConfigError, match="no file"):
        create_small_resnet(checkpoint_path=str(path))


@pytest.mark.parametrize("content", ["code", "list", "text", "empty"])
def test_no_state_dict(path: Path, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    if content in ("text", "empty"):
        path.write_text("hello" if content == "text" else "")
    else:
        torch.save(Trap() if content == "code" else [1, 2], path)
    with pytest.raises(ConfigError, match="holds no state dict"):
        create_small_resnet(checkpoint_path=str(path))
    assert not Path("sprung").exists()
