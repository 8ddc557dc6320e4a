"""Experts apart from their backbone, and put together again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mola_lightning.core import ConfigError, RunFolderError, Task
from mola_lightning.deployment import Deployable, compose, export, load_model

Make = Callable[..., Deployable]
SHAPE = (3, 16, 16)
FROZEN = {"adapter": {"freeze_backbone": True}}


def predictions(model: Deployable, task: str) -> torch.Tensor:
    return model.module.predict(torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(1)), task)


def trained_apart(deployable: Make, folder: Path, **settings: Any) -> tuple[dict[str, Deployable], dict[str, Path]]:
    """Two models of one task each on the same backbone, and their exported experts."""
    models, files = {}, {}
    for seed, (name, classes) in enumerate({"cats": 3, "dogs": 5}.items()):
        model = deployable("mola_grad", tasks=[Task(name, classes)], **FROZEN, **settings)
        torch.manual_seed(seed)
        for parameter_name, parameter in model.module.named_parameters():
            if "lora_" in parameter_name or parameter_name.startswith("heads."):
                torch.nn.init.normal_(parameter, std=0.3)
        export(model, folder / name, "adapters")
        models[name], files[name] = model, folder / name / f"{name}.safetensors"
    return models, files


def test_experts_that_were_trained_apart(deployable: Make, tmp_path: Path) -> None:
    models, files = trained_apart(deployable, tmp_path)
    composed = compose(tmp_path / "cats/base.safetensors", [files["dogs"], files["cats"]])
    assert composed.module.names == ("dogs", "cats")
    assert composed.module.architecture.method == "mola_grad"
    for name, model in models.items():
        torch.testing.assert_close(predictions(composed, name), predictions(model, name), rtol=1e-5, atol=1e-5)
    assert composed.preprocessing["cats"] == models["cats"].preprocessing["cats"]


def test_a_composed_model_is_exported_as_any(deployable: Make, tmp_path: Path) -> None:
    models, files = trained_apart(deployable, tmp_path)
    export(compose(tmp_path / "dogs/base.safetensors", list(files.values())), tmp_path / "both", "model")
    both = load_model(tmp_path / "both")
    assert export(both, tmp_path / "torch", "torch").manifest["tasks"]["dogs"]["expert"] == 1
    torch.testing.assert_close(predictions(both, "dogs"), predictions(models["dogs"], "dogs"), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["factorised", "full"])
def test_every_kind_of_expert(kind: str, deployable: Make, tmp_path: Path) -> None:
    model = deployable("mola_grad", adapter={"kind": kind, "rank_pattern": {"^conv1": 1}})
    for name, parameter in model.module.named_parameters():
        if name.endswith("expert_weight"):
            torch.nn.init.normal_(parameter, std=0.3)
    export(model, tmp_path, "adapters")
    composed = compose(tmp_path / "base.safetensors", [tmp_path / "a.safetensors", tmp_path / "b.safetensors"])
    for name in "ab":
        torch.testing.assert_close(predictions(composed, name), predictions(model, name), rtol=1e-5, atol=1e-5)


def test_experts_are_small(deployable: Make, tmp_path: Path) -> None:
    """A task costs its expert and head; the backbone is there once."""
    model = deployable("mola_grad", backbone="test_resnet")
    files = export(model, tmp_path, "adapters").manifest["files"]
    numbers = sum(p.numel() for p in model.module.architecture.backbone.net.parameters())
    experts = sum(p.numel() for n, p in model.module.named_parameters() if "lora_" in n)
    assert files["base.safetensors"]["bytes"] == pytest.approx(4 * (numbers - experts), rel=0.05)
    assert files["a.safetensors"]["bytes"] == pytest.approx(4 * experts / 2, rel=0.2)


def test_what_does_not_fit_is_refused_by_name(deployable: Make, tmp_path: Path) -> None:
    _, files = trained_apart(deployable, tmp_path)
    base = tmp_path / "cats/base.safetensors"
    export(deployable("mola_grad", tasks=[Task("birds", 2)], seed=7, **FROZEN), tmp_path / "birds", "adapters")
    with pytest.raises(ConfigError, match=r"birds.safetensors was trained on another backbone.*freeze_backbone=true"):
        compose(base, [files["cats"], tmp_path / "birds/birds.safetensors"])
    export(deployable("mola_grad", tasks=[Task("cows", 2)], rank=3, **FROZEN), tmp_path / "cows", "adapters")
    with pytest.raises(
        ConfigError, match=r"cows.safetensors does not fit .*cats.safetensors: adapters ranks: .*3 and 2"
    ):
        compose(base, [files["cats"], tmp_path / "cows/cows.safetensors"])
    with pytest.raises(ConfigError, match="given twice: cats"):
        compose(base, [files["cats"], files["cats"]])
    with pytest.raises(ConfigError, match=r"dogs.safetensors is no base"):
        compose(files["dogs"], [files["cats"]])
    with pytest.raises(ConfigError, match=r"base.safetensors is no expert"):
        compose(base, [base])
    with pytest.raises(ConfigError, match="which experts"):
        compose(base, [])


def test_damaged_files(deployable: Make, tmp_path: Path) -> None:
    _, files = trained_apart(deployable, tmp_path)
    base, expert = tmp_path / "cats/base.safetensors", files["cats"]
    content = base.read_bytes()
    base.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(RunFolderError, match=r"base.safetensors was changed since it was exported"):
        compose(base, [expert])
    base.write_bytes(content)
    content = expert.read_bytes()
    expert.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(RunFolderError, match=r"cats.safetensors was changed since it was exported"):
        compose(base, [expert])
    expert.write_bytes(content[:-8])
    with pytest.raises(RunFolderError, match=r"cats.safetensors: it is damaged or truncated"):
        compose(base, [expert])
    with pytest.raises(RunFolderError, match="there is no file"):
        compose(base, [tmp_path / "nothing.safetensors"])


def test_experts_belong_to_tasks_under_mola_grad_only(deployable: Make, tmp_path: Path) -> None:
    for method in ("mola_router", "hps"):
        with pytest.raises(ConfigError, match=f"in {method} no expert serves a task"):
            export(deployable(method), tmp_path, "adapters")
    assert not list(tmp_path.iterdir())
