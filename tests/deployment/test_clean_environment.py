"""Where nothing of this package, Lightning or Hydra is installed, exported networks run."""

import json
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from mola_lightning.deployment import Deployable, export

pytestmark = pytest.mark.soak

SHAPE = (3, 32, 32)
PROGRAM = """
import sys
sys.path.append({packages!r})
for absent in ("mola_lightning", "lightning", "hydra", "omegaconf", "torchmetrics"):
    try:
        __import__(absent)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{{absent}} can be imported")
{lines}
given = torch.load("given.pt", weights_only=True)
with torch.no_grad():
    difference = (net((given["images"] - given["mean"]) / given["std"]) - given["wanted"]).abs().max()
    difference = float(difference / given["wanted"].abs().max())
print(difference)
"""


def needs_of(*names: str) -> set[str]:
    """Names of these distributions and of all that they require."""
    found, left = set(), list(names)
    while left:
        name = left.pop()
        if name in found:
            continue
        found.add(name)
        for requirement in map(Requirement, distribution(name).requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                left.append(requirement.name)
    return found


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with torch, timm, safetensors and their needs alone."""
    folder, site = tmp_path_factory.mktemp("packages"), Path(sysconfig.get_path("purelib"))
    for name in needs_of("torch", "timm", "safetensors"):
        for top in {Path(file).parts[0] for file in distribution(name).files or ()} - {"..", "__pycache__"}:
            link = folder / top
            if not link.exists():
                link.symlink_to(site / top)
    return folder


@pytest.mark.parametrize("format", ["torch", "safetensors"])
@pytest.mark.parametrize("backbone", [None, "resnet18", "convnext_atto", "vit_tiny_patch16_224"])
def test_the_lines_of_the_readme(
    backbone: str | None, format: str, deployable: Callable[..., Deployable], packages: Path, tmp_path: Path
) -> None:
    model = deployable("mola_grad", shape=SHAPE, **({} if backbone is None else {"backbone": backbone}))
    export(model, tmp_path, format, task="b")
    entry = json.loads((tmp_path / "manifest.json").read_text())["tasks"]["b"]
    images = torch.rand(2, *SHAPE)
    mean, std = (torch.tensor(entry["preprocessing"][key])[:, None, None] for key in ("mean", "std"))
    wanted = model.module.predict(images, "b")
    torch.save({"images": images, "mean": mean, "std": std, "wanted": wanted}, tmp_path / "given.pt")
    program = PROGRAM.format(packages=str(packages), lines="\n".join(entry["load"]))
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout
    assert float(done.stdout) < 1e-5
