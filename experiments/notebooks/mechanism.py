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
# # Mechanism
#
# **Why should low-rank experts help: what do the tasks do to each other, and what do the experts do about it?**
#
# Three runs on Digits, whose four domains are turned against each other: hard sharing (`hps`), MoLA-Grad and
# MoLA-Router. Then the looks of `mola-analyze`, one question each; [docs/analysis.md](../../docs/analysis.md) says
# how each number is made. It takes minutes on two CPU cores; runs that are there already are taken as they are.

# %%
import os
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import Image, display

import mola_lightning
from mola_lightning.analysis import Run, load_runs
from mola_lightning.cli.analyze import analyze
from mola_lightning.cli.call import call

# %% [markdown]
# What you may change. The tests of this project run the notebook with smaller numbers.

# %% tags=["parameters"]
NUM_TRAIN = 800  # training images of each domain
EPOCHS = 8
IMAGE_SIZE = 28  # pixels
IMAGES = 256  # of each domain that the runs are looked at with
RUNS = Path(mola_lightning.__file__).parents[2] / "runs" / "notebooks"  # in the checkout, wherever Jupyter was started

# %% [markdown]
# ## Three runs

# %%
RUNS.mkdir(parents=True, exist_ok=True)
os.chdir(RUNS)
SWEEP = f"digits_{NUM_TRAIN}x{IMAGE_SIZE}px_{EPOCHS}_epochs"
call(
    f"mola-train -m experiment=digits/hps,digits/mola_grad,digits/mola_router seed=0 trainer.max_epochs={EPOCHS} "
    f"data.source.num_train={NUM_TRAIN} data.source.image_size={IMAGE_SIZE} figures=false hydra.sweep.dir={SWEEP}"
)
runs: dict[str, Run] = {run.method: run for run in load_runs([SWEEP]) if run.seed == 0}


def show(method: str, *names: str) -> None:
    for name in names:
        display(Image(runs[method].folder / "analysis" / f"{name}.png", retina=True))


def look(methods: list[str], *looks: str) -> None:
    """What `mola-analyze run=[...] looks=[...]` does."""
    settings = {"num_images": IMAGES, "swap_images": IMAGES, "num_batches": 4, "batch_size": min(64, IMAGES)}
    found = analyze([runs[method].folder for method in methods], looks, **settings)
    lines = [
        (run, name, *line)
        for run, results in found.items()
        for name, result in results.items()
        for line in result.findings
    ]
    display(pd.DataFrame(lines, columns=["run", "look", "what", "value"]))


# %% [markdown]
# ## Do the domains pull the shared weights apart?
#
# The cosine of two domains' gradients with respect to the weights that they share, stage by stage: below zero, a step
# for one undoes a part of the other's. Under hard sharing all conflict is in these weights; under MoLA-Grad a part of
# it can go into the experts, which are a domain's own. Blue and orange are to be compared stage by stage: the shared
# weights of the two are not the same.

# %%
look(["hps", "mola_grad"], "conflict")
show("hps", "conflict_runs", "conflict_cosine")
for method in ("hps", "mola_grad"):
    cosines = pd.read_csv(runs[method].folder / "analysis" / "conflict.csv")["cosine"].dropna()
    assert len(cosines) > 0
    assert cosines.between(-1 - 1e-6, 1 + 1e-6).all()

# %% [markdown]
# ## Who uses which expert?
#
# MoLA-Router decides from the image. Its mean mixing weights for each domain, and its test images in the plane of
# their mixtures: clouds apart mean that the router tells the domains apart without being told. Expect a part of that:
# eight epochs are few.

# %%
look(["mola_router"], "routing")
show("mola_router", "routing_mixing", "routing_scatter")
with np.load(runs["mola_router"].folder / "analysis" / "routing.npz") as stored:
    mixing = stored["mixing_weights"]
assert mixing.shape[1] == 4
assert abs(mixing.sum(axis=1) - 1).max() < 1e-5, "the experts of an image are mixed with weights that sum to one"

# %% [markdown]
# ## What is an expert worth?
#
# MoLA-Grad's accuracy when a domain is given its own expert, none, or another domain's. Bright in "own routing" and
# dark elsewhere means that an expert holds what its domain needs and the shared part does not.

# %%
look(["mola_grad"], "swap", "experts")
show("mola_grad", "swap")
swap = pd.read_csv(runs["mola_grad"].folder / "analysis" / "swap.csv", index_col="routing")
for number, domain in enumerate(swap.columns):
    assert swap.loc["own routing", domain] == swap.loc[f"expert {number}", domain], (
        "a domain's own expert is its routing"
    )

# %% [markdown]
# ## What did the experts learn?
#
# Each expert's change of the weights, layer by layer, in relation to the weights themselves; and the angle between
# the subspaces of two experts: near the angle of random subspaces (in the table above) they have nothing in common.

# %%
show("mola_grad", "experts_layers", "experts_angles")
experts = pd.read_csv(runs["mola_grad"].folder / "analysis" / "experts.csv")
assert (experts["effective_rank"] <= experts["largest_rank"] + 1e-6).all(), "an expert cannot exceed its rank"
assert (experts["relative_norm"] > 0).all(), "every expert was trained"
