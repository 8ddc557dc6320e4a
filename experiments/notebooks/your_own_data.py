# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own data
#
# **How do I get from two folders of photographs to a trained model?**
#
# The same steps as in [docs/own_data.md](../../docs/own_data.md), run. Parts were photographed with a telephone and
# with a camera; each photograph shows a good part or a scratched one. So that you need no photographs to begin with,
# the first cells make some; put your own folders in their place. `call("mola-train ...")` is the command as you would
# type it in a shell. It takes minutes on a CPU.

# %%
import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import PIL.Image
import PIL.ImageDraw
from IPython.display import Image, Markdown, display
from sklearn.datasets import load_sample_image

from mola_lightning.analysis import comparison, comparison_bars, load_runs, save, to_markdown
from mola_lightning.cli.call import call

# %% [markdown]
# What you may change. The tests of this project run the notebook with smaller numbers.

# %% tags=["parameters"]
PHOTOGRAPHS = 200  # of each class, by each camera
EPOCHS = 15
SIZE = 48  # pixels: the photographs, and what the model sees
BASELINES = "single_task,hps"
MOLA = "mola_grad,mola"

# %% [markdown]
# ## Two folders
#
# All lies in a temporary folder, which goes when this notebook is closed. The camera sees sharply; the telephone sees
# half as much, and everything a little yellow.

# %%
HERE = TemporaryDirectory(prefix="own-data-")
os.chdir(HERE.name)
SURFACE = PIL.Image.fromarray(load_sample_image("flower.jpg"))


def photograph(draw: np.random.Generator, camera: str, scratched: bool) -> PIL.Image.Image:
    left, top = draw.integers(0, [SURFACE.width - 2 * SIZE, SURFACE.height - 2 * SIZE])
    part = SURFACE.crop((left, top, left + 2 * SIZE, top + 2 * SIZE))
    if scratched:
        start, end = draw.integers(SIZE // 4, 7 * SIZE // 4, 2)
        PIL.ImageDraw.Draw(part).line((0, start, 2 * SIZE, end), fill=(240, 240, 250), width=SIZE // 5)
    part = part.resize((SIZE, SIZE))
    if camera == "phone":
        yellow = PIL.Image.new("RGB", part.size, (250, 210, 90))
        part = PIL.Image.blend(part.reduce(2).resize((SIZE, SIZE)), yellow, 0.35)
    return part


draw = np.random.default_rng(0)
for camera in ("phone", "camera"):
    for label in ("good", "scratched"):
        folder = Path("photos", camera, label)
        folder.mkdir(parents=True)
        for number in range(PHOTOGRAPHS):
            photograph(draw, camera, label == "scratched").save(folder / f"{number:03}.png")

# %% [markdown]
# Above the telephone's, below the camera's; good parts on the left, scratched ones on the right.

# %%
seen = [
    [*Path("photos", name).glob("good/00[0-5].png"), *Path("photos", name).glob("scratched/00[0-5].png")]
    for name in ("phone", "camera")
]
sheet = np.vstack([np.hstack([np.asarray(PIL.Image.open(path)) for path in sorted(row)]) for row in seen])
display(PIL.Image.fromarray(sheet))

# %% [markdown]
# ## One file
#
# It says where the folders are and how much is kept for validation and test; classes are found.

# %%
CONFIG = """\
# Parts, good or scratched, seen by two cameras.
_target_: mola_lightning.data.MultiTaskDataModule
_convert_: all
source:
  _target_: mola_lightning.data.ImageFolders
  root: photos
  entries:
    phone: {folder: phone}
    camera: {folder: camera}
  transforms: ${transform}
  test_fraction: 0.2 # there is no test folder: it is cut, the same part of each class and domain
  val_fraction: 0.2
sampler: ${sampler}
batch_size: 16
seed: ${seed}
"""
Path("my_conf/data").mkdir(parents=True)
Path("my_conf/data/parts.yaml").write_text(CONFIG)

# %% [markdown]
# Look before training: sizes of the splits, and the first images of each domain as the model will see them (all good,
# as folders are read in order).

# %%
call(f"mola-data --config-dir my_conf describe parts transform.size={SIZE}")
display(Image("parts.png"))

# %% [markdown]
# ## Train, and what MoLA must beat
#
# One network per camera (`single_task`), one for both (`hps`), and MoLA with the camera known (`mola_grad`) and not
# (`mola`). A sweep is a single command; here there are two, as only MoLA has an `adapter`. Its experts are scaled by
# `alpha / rank`: a small network that is trained from nothing wants 1 or 2.

# %%
COMMAND = (
    f"mola-train -m --config-dir my_conf data=parts transform.size={SIZE} backbone=small_resnet optimizer.lr=5e-3 "
    f"trainer.max_epochs={EPOCHS} hydra.sweep.dir=runs/compare"
)
call(f"{COMMAND} architecture={BASELINES}")
call(f"{COMMAND} architecture={MOLA} adapter.rank=4 adapter.alpha=4")

# %% [markdown]
# ## Compare
#
# One seed says little: with `seed=0,1,2` in the command above the table gets standard deviations. Guessing would give
# 50 %; these scratches are easy to see, so that every method comes far above it.

# %%
runs = load_runs(["runs/compare"])
table = comparison(runs)
display(Markdown(to_markdown(table)))
display(Image(save(comparison_bars(table), "runs/compare/accuracy"), retina=True))

# %% [markdown]
# The table is made of the runs' own files. Each folder holds `summary.json`, the figures of the run, and `data.json`:
# how many photographs each split got.

# %%
for run in runs:
    summary = json.loads((run.folder / "summary.json").read_text())
    for camera in ("phone", "camera"):
        assert table.loc[run.method, (camera, "mean")] == summary["test"][camera]["accuracy"]
assert len(table) == len(runs) == len(BASELINES.split(",")) + len(MOLA.split(","))
assert table[("mean", "mean")].max() > 0.6, "no method is better than guessing"
sizes = json.loads((runs[0].folder / "data.json").read_text())["sizes"]
assert all(sum(size.values()) == 2 * PHOTOGRAPHS for size in sizes.values())
display(sizes)

# %% [markdown]
# Which experts the cameras use, under MoLA-Router, and what it mistakes.

# %%
last = max((run for run in runs if run.routing), key=lambda run: run.method)  # mola_router, if it is there
display(Image(last.folder / "figures" / "mixing_weights.png", retina=True))
display(Image(last.folder / "figures" / "confusion_phone.png", retina=True))
