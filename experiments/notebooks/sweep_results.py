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
# # From a sweep to a table and a figure
#
# **Which method is better, and is the difference more than the luck of the seeds?**
#
# Three methods on Digits, several seeds each, trained by one command; everything after it reads run folders only, so
# it serves any sweep of yours: put its folder in place of `SWEEP`. Nine runs take minutes on a CPU
# (`hydra/launcher=joblib hydra.launcher.n_jobs=2` trains two at a time); runs that are there already are taken as
# they are.

# %%
import json
import os
from pathlib import Path

import numpy as np
from IPython.display import Image, Markdown, display

import mola_lightning
from mola_lightning.analysis import (
    comparison,
    comparison_bars,
    comparison_costs,
    load_runs,
    problems,
    save,
    scores,
    to_csv,
    to_markdown,
)
from mola_lightning.cli.call import call

# %% [markdown]
# What you may change. The tests of this project run the notebook with smaller numbers.

# %% tags=["parameters"]
NUM_TRAIN = 800  # training images of each domain
EPOCHS = 8
IMAGE_SIZE = 28  # pixels
SEEDS = "0,1,2"
RUNS = Path(mola_lightning.__file__).parents[2] / "runs" / "notebooks"  # in the checkout, wherever Jupyter was started

# %% [markdown]
# ## The sweep

# %%
RUNS.mkdir(parents=True, exist_ok=True)
os.chdir(RUNS)
METHODS = ["single_task", "hps", "mola_grad"]
SWEEP = f"digits_{NUM_TRAIN}x{IMAGE_SIZE}px_{EPOCHS}_epochs"
call(
    f"mola-train -m experiment=digits/single_task,digits/hps,digits/mola_grad seed={SEEDS} trainer.max_epochs={EPOCHS} "
    f"data.source.num_train={NUM_TRAIN} data.source.image_size={IMAGE_SIZE} figures=false hydra.sweep.dir={SWEEP}"
)

# %% [markdown]
# ## The runs, one by one
#
# `load_runs` finds run folders at any depth; `problems` says what a table would not show: runs that are unfinished or
# broken, seeds that came twice. `scores` has a row for each run, as a pandas table.

# %%
runs = load_runs([SWEEP])
display(problems(runs) or "nothing to remark")
each = scores(runs)
display(each)

# %% [markdown]
# Nothing was computed anew: each number is that of the run's `summary.json`.

# %%
for run, (_, row) in zip(runs, each.iterrows(), strict=True):
    test = json.loads((run.folder / "summary.json").read_text())["test"]
    assert (row["method"], row["seed"]) == (run.method, run.seed)
    assert all(row[task] == test[task]["accuracy"] for task in run.tasks)

# %% [markdown]
# ## The table
#
# Mean and standard deviation over seeds. Δm is the mean relative change against one network per domain; `vs hps` the
# difference to hard sharing, paired by seed, with its confidence interval and the p-value of a t test, corrected for
# the number of methods. With three seeds only large differences can be told from luck.

# %%
table = comparison(runs, methods=METHODS, baseline="hps", sort="mean")
display(Markdown(to_markdown(table)))
Path(SWEEP, "table.csv").write_text(to_csv(table))
for method in METHODS:
    means = each.loc[each["method"] == method, "mean"]
    assert np.isclose(table.loc[method, ("mean", "mean")], means.mean())
    assert table.loc[method, ("mean", "n")] == len(SEEDS.split(","))
assert table.loc["single_task", ("delta_m", "mean")] == 0
assert table[("mean", "mean")].min() > 0.12, "a method is no better than guessing"

# %% [markdown]
# ## The figures
#
# Test accuracy by domain, with the standard deviation over seeds; and what it costs.

# %%
display(Image(save(comparison_bars(table), Path(SWEEP, "figures", "accuracy")), retina=True))
display(Image(save(comparison_costs(table, each), Path(SWEEP, "figures", "costs")), retina=True))

# %% [markdown]
# The same from a shell, without Python; `--format latex` for a paper:
#
# ```sh
# mola-report <folder of the sweep> --baseline hps --sort mean --csv table.csv --figures figures
# ```
